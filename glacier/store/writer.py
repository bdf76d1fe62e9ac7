"""Writing a store: arrays and shards first, each by one worker, once; the root last, as the commit.

Until the root `zarr.json` is in place nothing opens the folder as a store. Small per-tile values
wait in `unfinished/`, a file per shard whose presence says that the shard is written. Shards are written
directly, the rest by zarr-python, which takes long to import and which workers do without.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import is_zipfile

import numpy as np
from crc32c import crc32c
from numcodecs import blosc
from numpy.typing import NDArray

from glacier.store.schema import ArraySpec, Codec, Meta, array_specs
from glacier.store.shards import CHECKSUM, ENTRY, MISSING, index_bytes, parse_index

ROOT = "zarr.json"
UNFINISHED = "unfinished"
NOTE = f"{UNFINISHED}/source.json"
"""What an unfinished store is made from; it is there before anything else is."""


PIXELS = ("image", "label")
"""The sharded arrays."""
LEVEL = 5
"""Of compression."""

blosc.use_threads = False  # workers share out the cores; zarr-python sets the same


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile as it goes into a store."""

    image: NDArray[Any]
    """(S, S, B) raw"""
    label: NDArray[np.uint8]
    """(S, S)"""
    small: dict[str, NDArray[Any]]
    """What is kept for the commit."""


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
                _create(self.path / spec.name, spec, self.meta.codec)

    def finished(self) -> set[int]:
        """Shards already written; those whose files are not all there, and whole, count as not."""
        kept = {int(f.stem) for f in (self.path / UNFINISHED).glob("*.npz") if is_zipfile(f)}
        return {s for s in kept if all(is_whole(self._shard(n, s), self.per_shard) for n in PIXELS)}

    def write_shard(self, shard: int, tiles: Iterable[Tile]) -> None:
        """Write one shard, tile by tile, and keep what is small of each for the commit.

        Files are written aside and put in place when whole; an error leaves none.
        """
        with ExitStack() as stack:
            image, label = (stack.enter_context(self._shard_file(name, shard)) for name in PIXELS)
            small = []
            for tile in tiles:
                image.append(tile.image)
                label.append(tile.label)
                small.append(tile.small)
        target = self.path / UNFINISHED / f"{shard}.npz"
        partial = target.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{k: np.stack([s[k] for s in small]) for k in small[0]})
        partial.replace(target)

    def _shard(self, name: str, shard: int) -> Path:
        rest = ["0"] * (len(self.specs[name].dims) - 1)
        return self.path.joinpath(name, "c", str(shard), *rest)

    def _shard_file(self, name: str, shard: int) -> "ShardFile":
        partial = self.path / UNFINISHED / f"{name}.{shard}.{os.getpid()}.partial"
        dtype = np.dtype(self.specs[name].dtype).newbyteorder("<")
        return ShardFile(self._shard(name, shard), partial, dtype, self.per_shard, self.meta.codec)

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
        import zarr

        with zarr.config.set({"array.write_empty_chunks": True}):
            return zarr.open_array(self.path / name, mode="r+")


class ShardFile:
    """A shard written chunk by chunk, as zarr-python's sharding codec lays it out with its index last.

    A context manager: left without an error, the file is put in its place; else nothing is.
    """

    def __init__(self, target: Path, partial: Path, dtype: np.dtype[Any], slots: int, codec: Codec) -> None:
        self._target, self._partial, self._dtype = target, partial, dtype
        self._codec = codec.encode()
        self._index = np.full((slots, ENTRY // 8), MISSING, "<u8")
        self._chunks = self._end = 0

    def __enter__(self) -> Self:
        self._file = self._partial.open("wb")
        return self

    def append(self, chunk: NDArray[Any]) -> None:
        """Write the next chunk: little-endian bytes, blosc, crc32c."""
        raw = np.ascontiguousarray(chunk, self._dtype)
        length = self._write(blosc.compress(raw, self._codec, LEVEL, blosc.SHUFFLE))
        self._index[self._chunks] = self._end - length, length
        self._chunks += 1

    def _write(self, data: bytes) -> int:
        """Write data and its checksum; how many bytes that is."""
        length = self._file.write(data) + self._file.write(crc32c(data).to_bytes(CHECKSUM, "little"))
        self._end += length
        return length

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._write(self._index.tobytes())
            if error is None:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._partial.replace(self._target)
        finally:
            self._partial.unlink(missing_ok=True)


def is_whole(shard: Path, slots: int) -> bool:
    """Whether a shard's file is there, its index intact and its last chunk where the index begins."""
    length = index_bytes(slots)
    try:
        with shard.open("rb") as file:
            start = file.seek(-length, os.SEEK_END)
            index = parse_index(file.read(), slots)
    except (OSError, ValueError):
        return False
    return int(index[index[:, 0] != MISSING].sum(axis=1).max(initial=0)) == start


def _create(path: Path, spec: ArraySpec, codec: Codec) -> None:
    """One empty array: bytes, blosc, crc32c, since lz4 decodes a flipped bit without complaint."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import LocalStore

    dtype = np.dtype(spec.dtype)
    squeeze = BloscCodec(cname=codec, clevel=LEVEL, shuffle="shuffle", typesize=dtype.itemsize)
    zarr.create_array(
        LocalStore(path),
        shape=spec.shape,
        chunks=spec.chunk,
        shards=spec.shard,
        dtype=dtype,
        fill_value=0,
        compressors=[squeeze, Crc32cCodec()],
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
