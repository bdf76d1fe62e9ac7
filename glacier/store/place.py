"""Where a store lies: in a folder, at an address, or in a store of zarr-python's."""

import asyncio
import json
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore, StorePath

from glacier.addresses import is_address, open_address, said
from glacier.errors import GlacierError, UnreachableError
from glacier.store.objects import Object
from glacier.store.schema import incomplete
from glacier.store.shards import MappedShard, Shard
from glacier.store.writer import NOTE, ROOT


class Folder:
    """An opened folder, closed once nobody holds it."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        """Its descriptor."""
        weakref.finalize(self, os.close, self.file).atexit = False  # threads may read until the very end


class Place:
    """A place that holds a store, or is said to."""

    def __init__(self, path: Path | str | ZarrStore) -> None:
        """Ask nothing of the place yet.

        Raises:
            GlacierError: an address of an unknown kind.
        """
        self.path: Path | str = str(path)
        """What to call it."""
        self.folder: Path | None = None
        self.objects: Any = None
        """obstore's view of an address."""
        self._opened: Folder | None = None
        """The folder itself: another store may take its name."""
        self._lock = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self.zarr: ZarrStore
        """zarr-python's view of it."""
        if isinstance(path, ZarrStore):
            self.zarr = path
        elif is_address(path):
            self.objects = open_address(str(path))
            self.zarr = ObjectStore(self.objects, read_only=True)
        else:
            self.path = self.folder = Path(path)
            self.zarr = LocalStore(self.folder, read_only=True)

    def open_shard(self, key: str, tail: int) -> Shard:
        """Open a shard, its last `tail` bytes at hand; of a folder or an address.

        Raises:
            ValueError, OSError: it is missing, or cannot be reached.
        """
        if self.folder:
            with self._lock:  # threads come here at once, and the folder is opened once
                if self._opened is None:
                    self._opened = self._reopen(self.folder)
                folder = self._opened
            return MappedShard(folder.file, key, tail)
        return Object(self.objects, key, tail)

    def _reopen(self, folder: Path) -> Folder:
        """Open the folder, which must be the one whose root was read."""
        opened = Folder(folder)
        status = os.fstat(opened.file)
        if (status.st_dev, status.st_ino) != self._identity:
            raise ValueError("another store has taken the place of the one that was opened")
        return opened

    def close(self) -> None:
        """Let go of the folder."""
        self._opened = None

    def document(self, name: str = "") -> dict[str, Any]:
        """The `zarr.json` of an array, or of the root.

        Raises:
            GlacierError: it cannot be reached, or is damaged.
            FileNotFoundError: it is missing.
        """
        key = f"{name}/{ROOT}".lstrip("/")
        try:
            sync(StorePath.open(self.zarr, ""))  # a zip file is open from here on
            data = sync(self.zarr.get(key, default_buffer_prototype()))
        except FileNotFoundError:
            data = None
        except (OSError, BaseError) as error:
            raise UnreachableError(f"{self.path}: cannot be reached ({said(error)})") from error
        if data is None:
            raise FileNotFoundError(key)
        try:
            found: dict[str, Any] = json.loads(data.to_bytes())
            found.items()
        except (ValueError, AttributeError) as error:
            raise GlacierError(f"{self.path}/{key}: damaged ({error}); make the store again") from error
        return found

    def attributes(self) -> dict[str, Any]:
        """The root group's attributes.

        Raises:
            GlacierError: no store here, an incomplete one, or a damaged root.
        """
        if self.folder and self.folder.is_dir():
            status = self.folder.stat()
            self._identity = status.st_dev, status.st_ino
        try:
            attributes = self.document().get("attributes")
        except FileNotFoundError as error:
            if self.have([NOTE])[0]:
                raise incomplete(self.path) from error
            if self.objects and not str(self.path).startswith("s3:"):
                raise GlacierError(f"{self.path}: no store here") from error
            raise GlacierError(
                f"{self.path}: no store here; make one with `glacier ingest SOURCE --out {self.path}`"
            ) from error
        if not isinstance(attributes, dict):
            raise GlacierError(f"{self.path}/{ROOT}: damaged (no attributes); make the store again")
        return attributes

    def have(self, keys: list[str]) -> list[bool]:
        """Which of some files or objects there are."""
        if self.folder:
            return [(self.folder / key).is_file() for key in keys]
        try:
            return sync(self._ask(keys))
        except BaseError as error:
            raise UnreachableError(f"{self.path}: cannot be reached ({said(error)})") from error

    async def _ask(self, keys: list[str]) -> list[bool]:
        return await asyncio.gather(*map(self.zarr.exists, keys))
