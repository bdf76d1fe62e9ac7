"""Reading a store: what is in it, and windows of its tiles."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store as ZarrStore
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from glacier.errors import GlacierError
from glacier.machine import cores
from glacier.store.bands import Raw
from glacier.store.chunks import Chunks
from glacier.store.schema import Meta, incomplete
from glacier.store.shards import Shards, tiles_per_known_shard
from glacier.store.writer import NOTE, ROOT

DAMAGE = (ValueError, RuntimeError, OSError, SystemError, MemoryError)
"""What damaged bytes make Zarr, NumPy and numcodecs raise."""


class Windows(Protocol):
    """Memory for the windows of one batch."""

    @property
    def image(self) -> Raw:
        """(N, P, P, B), the store's raw dtype."""

    @property
    def label(self) -> NDArray[np.uint8]:
        """(N, P, P)."""


class Store:
    """A complete store, opened for reading. Safe to use from several threads."""

    def __init__(self, path: Path | str | ZarrStore, threads: int = 0) -> None:
        """Open `path`.

        Args:
            path: the store's folder; or an address that fsspec knows (`s3://…`), or a store of
                zarr-python's, which then reads it.
            threads: how many windows are decoded at a time; 0 for one per core.

        Raises:
            GlacierError: no store there, an incomplete one, or one of another schema.
        """
        self.path, self._folder, place = _place(path)
        self.meta = Meta.from_attributes(_attributes(self._folder, place), self.path)
        self.threads = threads or cores()
        """How many windows are decoded at a time."""
        size = self.meta.tile_size
        try:
            self._group = zarr.open_group(place, mode="r")
            self._count = int(self._open("image").shape[0])
            for name, expected in (
                ("image", (self._count, size, size, len(self.meta.bands), self.meta.dtype)),
                ("label", (self._count, size, size, "uint8")),
            ):
                found = (*self._open(name).shape, self._open(name).dtype.name)
                if found != expected:
                    raise GlacierError(
                        f"{self.path}: {name} is {found}, expected {expected}; make the store again"
                    )
            self._image, self._label = self._tiles("image"), self._tiles("label")
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            raise GlacierError(
                f"{self.path}: an array is damaged ({error}); make the store again"
            ) from error
        if self._folder:
            for name in ("image", "label"):
                self._nothing_missing(name)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="glacier-read")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of tiles."""
        return self._count

    def __repr__(self) -> str:
        meta = self.meta
        return (
            f"<glacier store {self.path}: {len(self)} tiles of {meta.tile_size} px, "
            f"{len(meta.bands)} bands {meta.dtype}, {len(meta.classes)} classes>"
        )

    def array(self, name: str) -> NDArray[Any]:
        """A whole small array, e.g. `fold` (tile,) or `origin` (tile, 2)."""
        self._nothing_missing(name)
        try:
            return np.asarray(self._open(name)[...])
        except (ValueError, RuntimeError, OSError) as error:
            raise GlacierError(
                f"{self.path}: {name} cannot be decoded ({error}); make the store again"
            ) from error

    @property
    def name(self) -> str:
        """The last part of its path."""
        return str(self.path).rstrip("/").rpartition("/")[2]

    @cached_property
    def histogram(self) -> NDArray[np.uint16]:
        """Labelled pixels per tile, 32-px block and class (tile, by, bx, class)."""
        return self.array("histogram")

    @cached_property
    def fold(self) -> NDArray[np.int8]:
        """Cross-validation fold of each tile (tile,)."""
        return self.array("fold")

    @cached_property
    def scene_names(self) -> list[str]:
        """Name of each scene; `array("scene")` holds a tile's index into it."""
        return [bytes(row).rstrip(b"\0").decode() for row in self.array("scene_name")]

    def image(self, tile: int) -> Raw:
        """Raw pixels of one tile (S, S, B)."""
        size = self.meta.tile_size
        out: Raw = np.empty((size, size, len(self.meta.bands)), self.meta.dtype)
        self._decode("image", self._image, tile, 0, 0, out)
        return out

    def label(self, tile: int) -> NDArray[np.uint8]:
        """Class indices of one tile (S, S), 255 to be ignored."""
        out = np.empty((self.meta.tile_size,) * 2, np.uint8)
        self._decode("label", self._label, tile, 0, 0, out)
        return out

    def read_into(self, samples: NDArray[np.void], out: Windows) -> None:
        """Read one window per sample.

        Args:
            samples: (n,) of `SAMPLE`: tile, and y, x of the window's corner in it, px.
            out: at least n windows of one size.

        Raises:
            GlacierError: a tile is missing or damaged; it is named.
        """
        tiles, ys, xs = (samples[field].tolist() for field in ("tile", "y", "x"))

        def read(i: int) -> None:
            self._decode("image", self._image, tiles[i], ys[i], xs[i], out.image[i])
            self._decode("label", self._label, tiles[i], ys[i], xs[i], out.label[i])

        if len(tiles) == 1:
            read(0)
        else:
            list(self._pool.map(read, range(len(tiles))))

    def will_read(self, samples: NDArray[np.void]) -> None:
        """Say that `samples` come next: the kernel fetches what is not in memory yet.

        Raises:
            GlacierError: a tile is missing or damaged; it is named.
        """
        for tile in samples["tile"].tolist():
            for name, tiles in (("image", self._image), ("label", self._label)):
                try:
                    tiles.will_read(tile)
                except DAMAGE as error:
                    raise self._damaged(name, tile, error) from error

    def _open(self, name: str) -> Any:
        return self._group[name]

    def _tiles(self, name: str) -> Shards | Chunks:
        """Straight from the file where a folder holds glacier's own codec chain; else by zarr-python."""
        array = self._open(name)
        if self._folder:
            document = json.loads((self._folder / name / ROOT).read_bytes())
            if per_shard := tiles_per_known_shard(document, array.dtype.itemsize):
                return Shards(self._folder / name, array.shape, array.dtype.name, per_shard)
        return Chunks(array)

    def _decode(self, name: str, tiles: Shards | Chunks, tile: int, y: int, x: int, out: Raw) -> None:
        if not 0 <= tile < self._count:
            raise IndexError(f"{self.path}: no tile {tile}, expected 0 to {self._count - 1}")
        try:
            tiles.window(tile, y, x, out)
        except DAMAGE as error:
            raise self._damaged(name, tile, error) from error

    def _damaged(self, name: str, tile: int, error: BaseException) -> GlacierError:
        return GlacierError(
            f"{self.path}: {name} of tile {tile} cannot be decoded ({error}); make the store again"
        )

    def _nothing_missing(self, name: str) -> None:
        """Zarr reads a missing file as zeros; in a complete store it is a loss.

        Raises:
            GlacierError: the tiles of the first missing file.
        """
        array = self._open(name)
        rows, step = array.shape[0], (array.shards or array.chunks)[0]
        for number in range(-(-rows // step)):
            key = array.metadata.encode_chunk_key((number, *(0,) * (array.ndim - 1)))
            if not self._has(f"{name}/{key}"):
                first, last = number * step, min((number + 1) * step, rows) - 1
                raise GlacierError(
                    f"{self.path}: {name} of tiles {first} to {last} is missing ({name}/{key}); "
                    "make the store again"
                )

    def _has(self, key: str) -> bool:
        if self._folder:
            return (self._folder / key).is_file()
        place = self._group.store_path
        return bool(sync(place.store.exists("/".join(filter(None, (place.path, key))))))

    def close_files(self) -> None:
        """Let go of all files; what is read next opens its own again."""
        self._image.close()
        self._label.close()

    def close(self) -> None:
        """End the reading threads and let go of all files."""
        self._pool.shutdown()
        self.close_files()


def _place(path: Path | str | ZarrStore) -> tuple[Path | str, Path | None, ZarrStore]:
    """What to call a store, its folder if it is one, and zarr-python's view of it."""
    if isinstance(path, ZarrStore):
        return str(path), None, path
    if isinstance(path, str) and "://" in path:
        try:
            return path, None, FsspecStore.from_url(path, read_only=True)
        except (ImportError, ValueError) as error:
            raise GlacierError(
                f"{path}: cannot be reached ({error}); install what fsspec needs for it"
            ) from error
    folder = Path(path)
    return folder, folder, LocalStore(folder, read_only=True)


def _attributes(folder: Path | None, place: ZarrStore) -> dict[str, Any]:
    """The root group's attributes."""
    if not folder:
        try:
            return dict(zarr.open_group(place, mode="r").attrs)
        except FileNotFoundError as error:
            raise GlacierError(f"{place}: no store here") from error
        except OSError as error:
            raise GlacierError(f"{place}: cannot be reached ({error})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise GlacierError(f"{place}: damaged ({error}); make the store again") from error
    root = folder / ROOT
    if not root.is_file():
        if (folder / NOTE).is_file():
            raise incomplete(folder)
        raise GlacierError(f"{folder}: no store here; make one with `glacier ingest SOURCE --out {folder}`")
    try:
        attributes = json.loads(root.read_bytes())["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise GlacierError(f"{root}: damaged ({error}); make the store again") from error
    if not isinstance(attributes, dict):
        raise GlacierError(f"{root}: damaged (no attributes); make the store again")
    return attributes


def only_store(folder: Path) -> Path:
    """The one `*.zarr` in `folder`.

    Raises:
        GlacierError: none, or several.
    """
    found = sorted(folder.glob("*.zarr"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise GlacierError(
            f"{folder.resolve()}: no *.zarr here; make one with `glacier ingest SOURCE`, "
            "or name it with --store"
        )
    raise GlacierError(
        f"{folder.resolve()}: {len(found)} stores ({', '.join(f.name for f in found)}); "
        "name one with --store"
    )
