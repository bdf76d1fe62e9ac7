"""One command at a time to what it writes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glacier.errors import GlacierError


@contextmanager
def locked(out: Path | str) -> Iterator[None]:
    """Keep other commands away from what is written at `out`; the lock ends with the process, in any case.

    Where nothing can be written no lock is needed; at an address there is none.

    Raises:
        GlacierError: another command has it, or nothing new can be written there.
    """
    if not isinstance(out, Path):
        yield
        return
    from filelock import FileLock, Timeout

    if not out.name:
        raise GlacierError(f"{out}: cannot be written; choose another place")
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise GlacierError(
            f"{out}: another command is writing it; wait until it has ended, or choose another place"
        ) from error
    except OSError as error:
        if error.errno != errno.EROFS or not out.exists():
            raise GlacierError(
                f"{out}: nothing can be written there ({error.strerror}); choose another place"
            ) from error
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
        lock.release()
