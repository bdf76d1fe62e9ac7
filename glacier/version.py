"""The version, for pyproject and for the stores and runs that record it."""

__version__ = "0.1.0"
