"""One ingest at a time to one store."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glacier.errors import GlacierError


@contextmanager
def locked(out: Path | str) -> Iterator[None]:
    """Keep other ingests away from the store at `out`; the lock ends with the process, however that ends.

    Where nothing can be written no lock is needed; at an address there is none.

    Raises:
        GlacierError: another ingest has it, or nothing new can be written there.
    """
    if not isinstance(out, Path):
        yield
        return
    from filelock import FileLock, Timeout

    if not out.name:
        raise GlacierError(f"{out}: cannot be a store; choose another --out")
    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise GlacierError(
            f"{out}: another ingest is writing it; wait until it has ended, or choose another --out"
        ) from error
    except OSError as error:
        if error.errno != errno.EROFS or not out.exists():
            raise GlacierError(
                f"{out}: nothing can be written there ({error.strerror}); choose another --out"
            ) from error
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
        lock.release()
