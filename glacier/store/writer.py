"""Writing a store: arrays and shards first, each by one worker, once; the root last, as the commit.

Until the root `zarr.json` is in place nothing opens the folder as a store. Small per-tile values
wait in `unfinished/`, a file per shard whose presence says that the shard is written.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from glacier.store.schema import ArraySpec, Codec, Meta, array_specs

ROOT = "zarr.json"
UNFINISHED = "unfinished"
NOTE = f"{UNFINISHED}/source.json"
"""What an unfinished store is made from; it is there before anything else is."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Consecutive tiles as they go into a store."""

    image: NDArray[Any]
    """(n, S, S, B) raw"""
    label: NDArray[np.uint8]
    """(n, S, S)"""


class StoreWriter:
    """A store under construction in a folder. Safe to hand to other processes."""

    def __init__(self, path: Path, meta: Meta, tiles: int, scene_names: list[str]) -> None:
        self.path = path
        self.meta = meta
        self.tiles = tiles
        width = max(len(name.encode()) for name in scene_names)
        self.specs = array_specs(meta, tiles, len(scene_names), width)
        self.per_shard = (self.specs["image"].shard or (tiles,))[0]

    @property
    def shards(self) -> list[range]:
        """The tiles of each shard."""
        step = self.per_shard
        return [range(i, min(i + step, self.tiles)) for i in range(0, self.tiles, step)]

    def create(self) -> None:
        """Lay out the arrays, empty; whatever was there stays."""
        (self.path / UNFINISHED).mkdir(parents=True, exist_ok=True)
        for spec in self.specs.values():
            if not (self.path / spec.name / ROOT).exists():
                _create(LocalStore(self.path / spec.name), spec, self.meta.codec)

    def finished(self) -> set[int]:
        """Shards already written."""
        return {int(file.stem) for file in (self.path / UNFINISHED).glob("*.npz")}

    def write_shard(self, shard: int, tiles: Tiles, small: dict[str, NDArray[Any]]) -> None:
        """Write one shard, and keep `small` (arrays of its tiles) for the commit."""
        where = self.shards[shard]
        region = slice(where.start, where.stop)
        for name, values in (("image", tiles.image), ("label", tiles.label)):
            self._open(name)[region] = values
        target = self.path / UNFINISHED / f"{shard}.npz"
        partial = target.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **small)
        partial.replace(target)

    def kept(self) -> Iterator[dict[str, NDArray[Any]]]:
        """What `write_shard` kept, in the order of the shards."""
        for shard in range(len(self.shards)):
            with np.load(self.path / UNFINISHED / f"{shard}.npz") as file:
                yield dict(file)

    def commit(self, meta: Meta, arrays: dict[str, NDArray[Any]]) -> None:
        """Write the small arrays, then put the root in place: from here on it is a store."""
        for name, values in arrays.items():
            self._open(name)[...] = values
        document = _root_document(self.path, list(self.specs), meta)
        partial = self.path / f"{ROOT}.partial"
        partial.write_text(document)
        partial.replace(self.path / ROOT)
        shutil.rmtree(self.path / UNFINISHED)

    def _open(self, name: str) -> Any:
        """An array for writing; chunks that hold the fill value only are written like any other."""
        with zarr.config.set({"array.write_empty_chunks": True}):
            return zarr.open_array(LocalStore(self.path / name), mode="r+")


def _create(store: LocalStore, spec: ArraySpec, codec: Codec) -> None:
    """One empty array: bytes, blosc, crc32c, since lz4 decodes a flipped bit without complaint."""
    dtype = np.dtype(spec.dtype)
    blosc = BloscCodec(cname=codec, clevel=5, shuffle="shuffle", typesize=dtype.itemsize)
    zarr.create_array(
        store,
        shape=spec.shape,
        chunks=spec.chunk,
        shards=spec.shard,
        dtype=dtype,
        fill_value=0,
        compressors=[blosc, Crc32cCodec()],
        dimension_names=spec.dims,
    )


def _root_document(path: Path, names: list[str], meta: Meta) -> str:
    """The root `zarr.json`: attributes, and every array's metadata consolidated as zarr-python does."""
    arrays = {name: json.loads((path / name / ROOT).read_text()) for name in names}
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": meta.to_attributes(),
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": arrays,
            },
        },
        indent=2,
        allow_nan=False,
    )
