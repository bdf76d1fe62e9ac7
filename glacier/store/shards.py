"""Tiles of a sharded array, decoded straight from the file or the object.

Kept to the codec chain of glacier's own stores: a shard of one chunk per tile, its index at the end
with a checksum; in each chunk bytes, blosc, crc32c. What a file claims is checked before it is believed.
"""

import mmap
import os
import struct
import threading
from collections.abc import Callable
from typing import Any, Protocol

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


class ChangedError(OSError):
    """A shard is not the one that was opened."""


class Shard(Protocol):
    """The bytes of one shard, wherever they are."""

    size: int
    """Bytes."""
    tail: memoryview
    """Its last bytes, as many as an index has."""

    def part(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop`.

        Raises:
            ChangedError: another file or object has taken its place.
        """

    def ahead(self, start: int, stop: int) -> None:
        """Have bytes `start` to `stop` fetched ahead, if that can be."""


class MappedShard:
    """A shard in memory by name only: the kernel reads what is touched."""

    def __init__(self, folder: int, key: str, tail: int) -> None:
        """Open the file `key` of an opened folder, which is the same whatever takes its name meanwhile."""
        try:
            file = os.open(key, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError as error:
            raise ValueError(f"{key} is missing") from error
        try:
            self.map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
        self.view = memoryview(self.map)
        self.size = len(self.view)
        self.tail = self.part(max(0, self.size - tail), self.size)

    def part(self, start: int, stop: int) -> memoryview:
        """Bytes `start` to `stop`; touching a page that the file no longer has would end the process."""
        if self.map.size() != self.size:
            raise ValueError(f"its shard was {self.size} bytes and is {self.map.size()} now")
        return self.view[start:stop]

    def ahead(self, start: int, stop: int) -> None:
        """Have the kernel read ahead."""
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        self.map.madvise(mmap.MADV_WILLNEED, page, stop - page)


class Shards:
    """One sharded array of a store, a tile to a chunk. Safe to use from several threads."""

    def __init__(
        self,
        name: str,
        open_shard: Callable[[str, int], Shard],
        shape: tuple[int, ...],
        dtype: str,
        per_shard: int,
        keep: int,
    ) -> None:
        """Open nothing yet.

        Args:
            name: of the array.
            open_shard: (key, bytes of an index) -> a shard.
            shape: of the array, tiles first.
            dtype: of its items.
            per_shard: tiles in a shard.
            keep: how many shards are held open.
        """
        self.name, self.shape, self.dtype, self.per_shard = name, shape, dtype, per_shard
        self._open_shard, self._keep = open_shard, keep
        self._open: dict[int, tuple[Shard, Index]] = {}
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
        try:
            return shard.part(start, start + length)
        except ChangedError:
            return self._grown(tile // self.per_shard).part(start, start + length)

    def find(self, tile: int) -> None:
        """Make sure that a tile's chunk is there.

        Raises:
            ValueError, OSError: it is missing, or its shard is damaged.
        """
        self._locate(tile)

    def will_read(self, tile: int) -> None:
        """Have a tile's chunk read ahead."""
        shard, start, length = self._locate(tile)
        shard.ahead(start, start + length)

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._open.clear()

    def _whole(self) -> Raw:
        """Memory for one tile, each thread's own."""
        if not hasattr(self._scratch, "tile"):
            self._scratch.tile = np.empty(self.shape[1:], self.dtype)
        whole: Raw = self._scratch.tile
        return whole

    def _locate(self, tile: int) -> tuple[Shard, int, int]:
        """A tile's shard, and offset and length of its chunk there, bytes."""
        shard, index = self._shard(tile // self.per_shard)
        start, length = index[tile % self.per_shard].tolist()
        if start == length == MISSING:
            raise ValueError("its chunk is missing")
        end = shard.size - index_bytes(self.per_shard)
        if start + length > end:
            raise ValueError(f"its chunk ends at byte {start + length} of a shard with {end}")
        return shard, start, length

    def _shard(self, number: int) -> tuple[Shard, Index]:
        """A shard and its index; two threads may both open it, rather than one wait for the other."""
        with self._lock:
            if number in self._open:
                self._open[number] = self._open.pop(number)
                return self._open[number]
        opened = self._open_again(number)
        with self._lock:
            while len(self._open) >= self._keep:
                del self._open[next(iter(self._open))]
            self._open[number] = opened
        return opened

    def _open_again(self, number: int) -> tuple[Shard, Index]:
        key = "/".join((self.name, "c", str(number), *"0" * (len(self.shape) - 1)))
        shard = self._open_shard(key, index_bytes(self.per_shard))
        return shard, parse_index(bytes(shard.tail), self.per_shard)

    def _grown(self, number: int) -> Shard:
        """A shard that has changed: its chunks are where they were if tiles were only added to it.

        Raises:
            ValueError: they are not.
        """
        known = self._shard(number)[1]
        held = known[:, 0] != MISSING
        shard, index = self._open_again(number)
        if not np.array_equal(index[held], known[held]):
            raise ValueError("its shard has changed since it was opened")
        with self._lock:
            self._open[number] = shard, index
        return shard


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
