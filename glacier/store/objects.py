"""A store's files as objects at an address: read in parts, written whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from glacier.addresses import is_address, open_address, said
from glacier.errors import GlacierError, UnreachableError, UsageError
from glacier.store.folder import Folder, room
from glacier.store.shards import ChangedError


class Object:
    """One object, read in parts. Its end is fetched at once, and it must stay as it was then."""

    def __init__(self, objects: Any, key: str, tail: int) -> None:
        """Fetch the last `tail` bytes.

        Raises:
            OSError: it is missing; ConnectionError, it cannot be reached.
        """
        self._objects, self._key = objects, key
        self.tail = self._get({"suffix": tail}, first=True)

    def part(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop`, by one request.

        Raises:
            OSError: it is missing; ChangedError, it has changed; ConnectionError, it cannot be reached.
        """
        return self._get((start, stop))

    def ahead(self, start: int, stop: int) -> None:
        """Nothing: to ask twice would take as long."""

    def _get(self, span: Any, first: bool = False) -> memoryview:
        try:
            answer = obstore.get(self._objects, self._key, options={"range": span})
            meta, data = answer.meta, memoryview(answer.bytes())
        except FileNotFoundError as error:
            raise OSError(f"{self._key} is missing") from error
        except BaseError as error:
            if first and self._is_empty():
                raise ValueError(f"{self._key} is empty") from error
            raise ConnectionError(said(error)) from error
        found = meta["size"], meta["e_tag"]
        if first:
            self.size, self._tag = found
        elif found != (self.size, self._tag):
            raise ChangedError(f"{self._key} has changed since it was opened")
        return data

    def _is_empty(self) -> bool:
        """Whether the object holds nothing, of which no server gives the end."""
        try:
            return bool(obstore.head(self._objects, self._key)["size"] == 0)
        except (BaseError, FileNotFoundError):
            return False


class Objects:
    """What `Folder` is to a file system, for a bucket. Safe to hand to other processes.

    Every method raises UnreachableError where the server does not answer, or refuses.
    """

    def __init__(self, address: str) -> None:
        """Ask nothing of the server yet.

        Raises:
            GlacierError: an address that cannot be written to.
        """
        if not address.startswith("s3://"):
            raise UsageError(f"--out {address}: expected a folder, or s3://BUCKET/KEY")
        self._address = address
        self._objects = open_address(address)

    def __str__(self) -> str:
        return self._address

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A new file, uploaded at once when it is whole; an error leaves nothing.

        Raises:
            GlacierError: the disk it is built on is full.
        """
        with (
            room(
                f"{gettempdir()}: {key} cannot be built there",
                "make room, or set TMPDIR to another folder,",
            ),
            TemporaryFile() as file,
        ):
            yield file
            file.seek(0)
            with self._asked():
                obstore.put(self._objects, key, file)

    def put(self, key: str, data: bytes) -> None:
        """Write a whole object, or nothing."""
        with self._asked():
            obstore.put(self._objects, key, data)

    def tag(self, key: str) -> str | None:
        """What tells this state of an object from others; None where there is none."""
        with self._asked():
            try:
                return obstore.head(self._objects, key)["e_tag"]
            except FileNotFoundError:
                return None

    def put_over(self, key: str, data: bytes, tag: str | None) -> None:
        """Write a whole object in the place of one with this tag, or where there is none for None.

        Raises:
            GlacierError: another is there.
        """
        with self._asked():
            try:
                obstore.put(self._objects, key, data, mode={"e_tag": tag} if tag else "create")
            except (AlreadyExistsError, PreconditionError) as error:
                raise GlacierError(
                    f"{self._address}: another ingest wrote here meanwhile ({key}); nothing of it is lost, "
                    "give the command again when it has ended"
                ) from error

    def get(self, key: str) -> bytes | None:
        """A whole object; None where there is none."""
        with self._asked():
            try:
                return bytes(obstore.get(self._objects, key).bytes())
            except FileNotFoundError:
                return None

    def tail(self, key: str, length: int) -> tuple[int, bytes] | None:
        """An object's size, and its last bytes, at most `length`; None where there is none."""
        with self._asked():
            try:
                answer = obstore.get(self._objects, key, options={"range": {"suffix": length}})
                return answer.meta["size"], bytes(answer.bytes())
            except FileNotFoundError:
                return None

    def files(self, prefix: str = "") -> list[str]:
        """Every object below `prefix`."""
        with self._asked():
            return sorted(about["path"] for page in obstore.list(self._objects, prefix) for about in page)

    def delete(self, prefix: str = "") -> None:
        """Remove all below `prefix`."""
        keys = self.files(prefix)
        with self._asked():
            obstore.delete(self._objects, keys)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise UnreachableError(f"{self._address}: cannot be reached ({said(error)})") from error


Storage = Folder | Objects
"""Where a store is written."""


def storage(out: Path | str) -> Storage:
    """A place to write to: a folder, or an address where `out` is text with `://` in it."""
    return Objects(str(out)) if is_address(out) else Folder(Path(out))
