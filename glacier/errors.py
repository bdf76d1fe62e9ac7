"""What a user is told when something is wrong: one line, what was found, expected, and to do."""


class GlacierError(Exception):
    """The data or the run is wrong. The command line prints it as one line and exits 1."""

    exit_code = 1


class UsageError(GlacierError):
    """The command was given wrongly. The command line prints it as one line and exits 2."""

    exit_code = 2


class UnreachableError(GlacierError):
    """A server does not answer, or refuses; what it holds may well be right."""
