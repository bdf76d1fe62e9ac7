"""Tiles of a sharded array, decoded straight from the file.

Kept to the codec chain of glacier's own stores: a shard of one chunk per tile, its index at the end
with a checksum; in each chunk bytes, blosc, crc32c. What a file claims is checked before it is believed.
"""

import mmap
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from numcodecs import blosc
from numpy.typing import NDArray

from glacier.store.bands import Raw

MISSING = 2**64 - 1
"""Offset and length of a chunk that was never written."""
CHECKSUM = 4
"""Bytes of a crc32c."""
ENTRY = 16
"""Bytes of a chunk's offset and length in the index."""
HEADER = struct.Struct("<BBBBIII")
"""Of a blosc chunk: two versions, flags, item size; bytes decoded, bytes in a block, bytes encoded."""
OPEN = 128
"""Shards of an array kept open; with the writer's 64 MiB a shard these hold 8 GiB of pixels."""

Index = NDArray[np.uint64]
"""Offset and length of each chunk in its shard (chunk, 2), bytes."""


def index_bytes(chunks: int) -> int:
    """Length of a shard's index with its checksum."""
    return chunks * ENTRY + CHECKSUM


def parse_index(data: bytes, chunks: int) -> Index:
    """A shard's index, as it lies at the shard's end.

    Raises:
        ValueError: too short, or its checksum differs.
    """
    if len(data) != index_bytes(chunks):
        raise ValueError(
            f"its shard is truncated: an index of {len(data)} bytes, expected {index_bytes(chunks)}"
        )
    if crc32c(data[:-CHECKSUM]) != int.from_bytes(data[-CHECKSUM:], "little"):
        raise ValueError("the checksum of its shard's index differs")
    return np.frombuffer(data[:-CHECKSUM], "<u8").reshape(chunks, 2)


def decode(chunk: memoryview, out: NDArray[Any]) -> None:
    """Decode one chunk into `out`, C-contiguous, which it fills exactly.

    blosc writes as many bytes as its header says, and lz4 decodes a flipped bit without complaint: so
    checksum and both sizes come first.

    Raises:
        ValueError: the checksum differs, or a size is not what it must be.
        RuntimeError: blosc cannot decode it.
    """
    body = chunk[:-CHECKSUM]
    if len(body) < HEADER.size:
        raise ValueError(f"its chunk has {len(chunk)} bytes, too few for any")
    if crc32c(body) != int.from_bytes(chunk[-CHECKSUM:], "little"):
        raise ValueError("its checksum differs")
    *_, item, decoded, _, encoded = HEADER.unpack_from(body)
    found, expected = (item, decoded, encoded), (out.itemsize, out.nbytes, len(body))
    if found != expected:
        raise ValueError(
            f"its header says {found} bytes per item, decoded and encoded, expected {expected}"
        )
    blosc.decompress(body, out)


class _Shard:
    """A shard in memory by name only: the kernel reads what is touched."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.view = memoryview(self.map)

    def part(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop`; touching a page that the file no longer has would end the process."""
        if self.map.size() != len(self.view):
            raise ValueError(f"its shard was {len(self.view)} bytes and is {self.map.size()} now")
        return self.view[start:stop]


class Shards:
    """One sharded array of a store in a folder, a tile to a chunk. Safe to use from several threads."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str, per_shard: int) -> None:
        """Open nothing yet.

        Args:
            folder: the array's.
            shape: of the array, tiles first.
            dtype: of its items.
            per_shard: tiles in a shard.
        """
        self.folder, self.shape, self.dtype, self.per_shard = folder, shape, dtype, per_shard
        self._indexes: dict[int, Index] = {}
        self._open: dict[int, _Shard] = {}
        self._lock = threading.Lock()
        self._scratch = threading.local()

    def window(self, tile: int, y: int, x: int, out: Raw) -> None:
        """Decode the window at (y, x) px of a tile into `out` (P, P, …).

        Raises:
            ValueError, RuntimeError, OSError: it is missing or damaged.
        """
        chunk = self.chunk(tile)
        if out.shape == self.shape[1:] and out.dtype == self.dtype and out.flags.c_contiguous:
            decode(chunk, out)
            return
        whole = self._whole()
        decode(chunk, whole)
        out[...] = whole[y : y + out.shape[0], x : x + out.shape[1]]

    def chunk(self, tile: int) -> memoryview:
        """The bytes of a tile's chunk, as they are.

        Raises:
            ValueError, OSError: it is missing, or its shard is damaged.
        """
        shard, start, length = self._locate(tile)
        return shard.part(start, start + length)

    def will_read(self, tile: int) -> None:
        """Have the kernel read a tile's chunk ahead."""
        shard, start, length = self._locate(tile)
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        shard.map.madvise(mmap.MADV_WILLNEED, page, start + length - page)

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._open.clear()
            self._indexes.clear()

    def _whole(self) -> Raw:
        """Memory for one tile, each thread's own."""
        if not hasattr(self._scratch, "tile"):
            self._scratch.tile = np.empty(self.shape[1:], self.dtype)
        whole: Raw = self._scratch.tile
        return whole

    def _locate(self, tile: int) -> tuple[_Shard, int, int]:
        """A tile's shard, and offset and length of its chunk there, bytes."""
        shard, index = self._shard(tile // self.per_shard)
        start, length = index[tile % self.per_shard].tolist()
        if start == length == MISSING:
            raise ValueError("its chunk is missing")
        end = len(shard.view) - index_bytes(self.per_shard)
        if start + length > end:
            raise ValueError(f"its chunk ends at byte {start + length} of a shard with {end}")
        return shard, start, length

    def _shard(self, number: int) -> tuple[_Shard, Index]:
        with self._lock:
            shard = self._open.pop(number, None)
            if shard is None:
                shard = _Shard(self.folder.joinpath("c", str(number), *"0" * (len(self.shape) - 1)))
                if len(self._open) >= OPEN:
                    del self._open[next(iter(self._open))]
            if number not in self._indexes:
                size = index_bytes(self.per_shard)
                start = max(0, len(shard.view) - size)
                self._indexes[number] = parse_index(bytes(shard.part(start, start + size)), self.per_shard)
            self._open[number] = shard
            return shard, self._indexes[number]


def tiles_per_known_shard(document: dict[str, Any], itemsize: int) -> int | None:
    """How many tiles a shard holds, by an array's `zarr.json`; None where the chain is another."""
    try:
        (outer,) = document["codecs"]
        grid, settings = document["chunk_grid"]["configuration"]["chunk_shape"], outer["configuration"]
        chains = settings["codecs"], settings["index_codecs"]
        names = [[codec["name"] for codec in chain] for chain in chains]
        little = all(
            chain[0].get("configuration", {}).get("endian", "little") == "little" for chain in chains
        )
        key = document["chunk_key_encoding"]
        known = (
            outer["name"] == "sharding_indexed"
            and names == [["bytes", "blosc", "crc32c"], ["bytes", "crc32c"]]
            and little
            and chains[0][1]["configuration"]["typesize"] == itemsize
            and settings.get("index_location", "end") == "end"
            and key["name"] == "default"
            and key.get("configuration", {}).get("separator", "/") == "/"
            and grid[1:] == settings["chunk_shape"][1:] == document["shape"][1:]
            and settings["chunk_shape"][0] == 1
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None
    return int(grid[0]) if known else None
