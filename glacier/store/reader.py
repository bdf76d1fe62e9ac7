"""Reading a store: what is in it, and windows of its tiles."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from glacier.errors import GlacierError
from glacier.store.bands import Raw
from glacier.store.schema import Meta, incomplete
from glacier.store.writer import NOTE, ROOT


class Windows(Protocol):
    """Memory for the windows of one batch."""

    @property
    def image(self) -> Raw:
        """(N, P, P, B), the store's raw dtype."""

    @property
    def label(self) -> NDArray[np.uint8]:
        """(N, P, P)."""


class Store:
    """A complete store, opened for reading."""

    def __init__(self, path: Path | str, threads: int = 2) -> None:
        """Open `path`.

        Args:
            path: the store's folder.
            threads: how many windows are decoded at a time.

        Raises:
            GlacierError: no store there, an incomplete one, or one of another schema.
        """
        self.path = Path(path)
        self.meta = Meta.from_attributes(_attributes(self.path), self.path)
        try:
            self._group = zarr.open_group(LocalStore(self.path, read_only=True), mode="r")
            self._image, self._label = self._open("image"), self._open("label")
        except (KeyError, ValueError, TypeError) as error:
            raise GlacierError(f"{self.path / ROOT}: damaged ({error}); make the store again") from error
        size, found = self.meta.tile_size, (*self._image.shape[1:], self._image.dtype.name)
        expected = (size, size, len(self.meta.bands), self.meta.dtype)
        if found != expected:
            raise GlacierError(f"{self.path}: tiles are {found}, expected {expected}; make the store again")
        for array in (self._image, self._label):
            _nothing_missing(self.path, array)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="glacier-read")

    def __len__(self) -> int:
        """Number of tiles."""
        return int(self._image.shape[0])

    def __repr__(self) -> str:
        meta = self.meta
        return (
            f"<glacier store {self.path}: {len(self)} tiles of {meta.tile_size} px, "
            f"{len(meta.bands)} bands {meta.dtype}, {len(meta.classes)} classes>"
        )

    def array(self, name: str) -> NDArray[Any]:
        """A whole small array, e.g. `fold` (tile,) or `origin` (tile, 2)."""
        values = self._open(name)
        _nothing_missing(self.path, values)
        try:
            return np.asarray(values[...])
        except (ValueError, RuntimeError, OSError) as error:
            raise GlacierError(
                f"{self.path}: {name} cannot be decoded ({error}); make the store again"
            ) from error

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
        return np.asarray(self._decode(self._image, (tile,)))

    def label(self, tile: int) -> NDArray[np.uint8]:
        """Class indices of one tile (S, S), 255 to be ignored."""
        return np.asarray(self._decode(self._label, (tile,)))

    def read_into(self, samples: NDArray[np.void], out: Windows) -> None:
        """Read one window per sample.

        Args:
            samples: (n,) of `SAMPLE`: tile, and y, x of the window's corner in it, px.
            out: at least n windows of one size.
        """
        patch = out.label.shape[1]

        def read(i: int) -> None:
            tile, y, x = (int(samples[i][field]) for field in ("tile", "y", "x"))
            window = (tile, slice(y, y + patch), slice(x, x + patch))
            out.image[i] = self._decode(self._image, window)
            out.label[i] = self._decode(self._label, window)

        list(self._pool.map(read, range(len(samples))))

    def _open(self, name: str) -> Any:
        return self._group[name]

    def _decode(self, array: Any, window: tuple[int | slice, ...]) -> Any:
        try:
            return array[window]
        except (ValueError, RuntimeError, OSError) as error:
            raise GlacierError(
                f"{self.path}: tile {window[0]} cannot be decoded ({error}); make the store again"
            ) from error

    def close(self) -> None:
        """End the reading threads."""
        self._pool.shutdown()


def _attributes(path: Path) -> dict[str, Any]:
    """The root group's attributes."""
    root = path / ROOT
    if not root.is_file():
        if (path / NOTE).is_file():
            raise incomplete(path)
        raise GlacierError(f"{path}: no store here; make one with `glacier ingest SOURCE --out {path}`")
    try:
        attributes = json.loads(root.read_bytes())["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise GlacierError(f"{root}: damaged ({error}); make the store again") from error
    if not isinstance(attributes, dict):
        raise GlacierError(f"{root}: damaged (no attributes); make the store again")
    return attributes


def _nothing_missing(path: Path, array: Any) -> None:
    """Zarr reads a missing shard as zeros; in a complete store it is a loss.

    Raises:
        GlacierError: the tiles of the first missing shard.
    """
    rows, step = array.shape[0], (array.shards or array.chunks)[0]
    rest = "/".join("0" * (array.ndim - 1))
    for shard in range(-(-rows // step)):
        file = path / array.basename / "c" / str(shard) / rest
        if not file.is_file():
            last = min((shard + 1) * step, rows) - 1
            raise GlacierError(
                f"{path}: {array.basename} of tiles {shard * step} to {last} is missing ({file}); "
                "make the store again"
            )


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
