"""Reading a store: what is in it, and windows of its tiles."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from zarr.abc.store import Store as ZarrStore

from glacier.addresses import said
from glacier.errors import GlacierError, UnreachableError
from glacier.machine import cores
from glacier.store.bands import Raw
from glacier.store.chunks import Chunks
from glacier.store.place import Place
from glacier.store.schema import Meta
from glacier.store.shards import OPEN, Shards, tiles_per_known_shard
from glacier.store.writer import NOTE, PIXELS

FAR = 16
"""Windows at a time, per core, where each has to be waited for from a server."""

DAMAGE = (ValueError, RuntimeError, OSError, SystemError, MemoryError, BaseError)
"""What damaged bytes make Zarr, NumPy and numcodecs raise, and unreachable ones obstore."""


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

    def __init__(self, path: Path | str | ZarrStore, threads: int = 0, *, whole: bool = True) -> None:
        """Open `path`.

        Args:
            path: the store's folder; or an address (`s3://…`, `https://…`); or a store of
                zarr-python's, which then reads it.
            threads: how many windows are decoded at a time; 0 for one per core, or 16 where they come
                from an address.
            whole: hold it for an error, in a folder, that a shard is missing.

        Raises:
            GlacierError: no store there, an incomplete one, or one of another schema.
        """
        self._place = Place(path)
        self.path = self._place.path
        self.meta = Meta.from_attributes(self._place.attributes(), self.path)
        """What the store says of itself."""
        self.threads = threads or cores() * (FAR if self._place.objects else 1)
        """How many windows are decoded at a time."""
        size = self.meta.tile_size
        try:
            self._group = zarr.open_group(self._place.zarr, mode="r")
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
        except BaseError as error:
            raise UnreachableError(f"{self.path}: cannot be reached ({said(error)})") from error
        except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            raise GlacierError(
                f"{self.path}: an array is damaged ({error}); make the store again"
            ) from error
        if self._place.folder and whole:
            for name in PIXELS:
                self.nothing_missing(name)
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
        try:
            self.nothing_missing(name)
            return np.asarray(self._open(name)[...])
        except BaseError as error:
            raise UnreachableError(f"{self.path}: {name} cannot be reached ({said(error)})") from error
        except (ValueError, RuntimeError, OSError) as error:
            raise GlacierError(
                f"{self.path}: {name} cannot be decoded ({error}); make the store again"
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, read from nothing but its metadata."""
        return tuple(self._open(name).shape)

    def document(self, name: str = "") -> dict[str, Any]:
        """The `zarr.json` of an array, or of the root.

        Raises:
            GlacierError: it is missing, cannot be reached, or is damaged.
        """
        try:
            return self._place.document(name)
        except FileNotFoundError as error:
            raise GlacierError(f"{self.path}: {error} is missing; make the store again") from error

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

    def find(self, name: str, tile: int) -> None:
        """Make sure, without decoding it, that a tile of `image` or `label` is there.

        Raises:
            GlacierError: it is missing, or its shard's index is damaged.
        """
        try:
            (self._image if name == "image" else self._label).find(tile)
        except DAMAGE as error:
            raise self._damaged(name, tile, error) from error

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
        try:
            return self._group[name]
        except KeyError as error:
            raise GlacierError(f"{self.path}: there is no {name}; make the store again") from error

    def _tiles(self, name: str) -> Shards | Chunks:
        """Straight from the bytes where they are in glacier's own codec chain; else by zarr-python."""
        array, place = self._open(name), self._place
        if place.folder or place.objects:
            per_shard = tiles_per_known_shard(self.document(name), array.dtype.itemsize)
            if per_shard:
                keep = OPEN if place.folder else sys.maxsize
                return Shards(name, place.open_shard, array.shape, array.dtype.name, per_shard, keep)
        return Chunks(array)

    def _decode(self, name: str, tiles: Shards | Chunks, tile: int, y: int, x: int, out: Raw) -> None:
        if not 0 <= tile < self._count:
            raise IndexError(f"{self.path}: no tile {tile}, expected 0 to {self._count - 1}")
        try:
            tiles.window(tile, y, x, out)
        except DAMAGE as error:
            raise self._damaged(name, tile, error) from error

    def _damaged(self, name: str, tile: int, error: BaseException) -> GlacierError:
        if isinstance(error, ConnectionError | BaseError):
            return UnreachableError(f"{self.path}: {name} of tile {tile} cannot be reached ({said(error)})")
        return GlacierError(
            f"{self.path}: {name} of tile {tile} cannot be decoded ({error}); make the store again"
        )

    def nothing_missing(self, name: str) -> None:
        """Zarr reads a missing file as zeros; in a complete store it is a loss.

        Raises:
            GlacierError: the tiles of the first missing file.
        """
        array = self._open(name)
        rows, step = array.shape[0], (array.shards or array.chunks)[0]
        places = [(number, *(0,) * (array.ndim - 1)) for number in range(-(-rows // step))]
        keys = [f"{name}/{array.metadata.encode_chunk_key(place)}" for place in places]
        for number, there in enumerate(self._place.have(keys)):
            if not there:
                first, last = number * step, min((number + 1) * step, rows) - 1
                raise GlacierError(
                    f"{self.path}: {name} of tiles {first} to {last} is missing ({keys[number]}); "
                    "make the store again"
                )

    def is_being_added_to(self) -> bool:
        """Whether an addition is under way or was interrupted; the store is as it was until that ends."""
        return self._place.have([NOTE])[0]

    def close_files(self) -> None:
        """Let go of all files; what is read next opens its own again."""
        self._image.close()
        self._label.close()
        self._place.close()

    def close(self) -> None:
        """End the reading threads and let go of all files."""
        self._pool.shutdown()
        self.close_files()


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
