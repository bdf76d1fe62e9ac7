"""Where a store's files lie: the few things that its writer asks of a place."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from glacier.errors import GlacierError

UNFINISHED = "unfinished"
"""The folder of what only an unfinished store needs."""
PARTIAL = ".partial"
"""How the names of files end that are not yet in place."""


@contextmanager
def room(what: str, remedy: str) -> Iterator[None]:
    """Say, where a disk is full, `what` cannot be done and the `remedy`; all other errors pass.

    Raises:
        GlacierError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise GlacierError(
            f"{what} ({error.strerror}); nothing is lost, {remedy} and give the same command again to go on"
        ) from error


class Folder:
    """A folder of a file system. A key is a file's path below it. Safe to hand to other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A new file, put in the place of `key` at once when it is whole; an error leaves nothing.

        Raises:
            GlacierError: the disk is full.
        """
        aside, target = self.path / UNFINISHED / f"{uuid4().hex}{PARTIAL}", self.path / key
        try:
            with room(f"{self.path}: {key} cannot be written", "make room"):
                aside.parent.mkdir(parents=True, exist_ok=True)
                with aside.open("wb") as file:
                    yield file
                target.parent.mkdir(parents=True, exist_ok=True)
                aside.replace(target)
        finally:
            with suppress(FileNotFoundError, NotADirectoryError):
                aside.unlink()

    def put(self, key: str, data: bytes) -> None:
        """Write a whole file, or nothing."""
        with self.writing(key) as file:
            file.write(data)

    def tag(self, key: str) -> str | None:
        """None: a lock keeps others away from a folder, so that nobody need ask."""

    def put_over(self, key: str, data: bytes, tag: str | None) -> None:
        """As `put`; see `Objects.put_over`."""
        self.put(key, data)

    def get(self, key: str) -> bytes | None:
        """A whole file; None where there is none."""
        try:
            return (self.path / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def tail(self, key: str, length: int) -> tuple[int, bytes] | None:
        """A file's size, and its last bytes, at most `length`; None where there is none."""
        try:
            with (self.path / key).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - length))
                return size, file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def files(self, prefix: str = "") -> list[str]:
        """Every file below the folder `prefix`; `.` where a file stands in the place of this folder."""
        there = self.path / prefix
        files = [there] if there.is_file() else (file for file in there.rglob("*") if file.is_file())
        return sorted(file.relative_to(self.path).as_posix() for file in files)

    def delete(self, prefix: str = "") -> None:
        """Remove the folder `prefix`, if it is there, with all below it."""
        if (self.path / prefix).exists():
            shutil.rmtree(self.path / prefix)
