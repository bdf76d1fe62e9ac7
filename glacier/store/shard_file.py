"""Chunks and shards as bytes: written one after the other, or taken over as they are."""

from typing import Any, BinaryIO

import numpy as np
from crc32c import crc32c
from numcodecs import blosc
from numpy.typing import NDArray

from glacier.store.objects import Storage
from glacier.store.schema import Codec
from glacier.store.shards import CHECKSUM, ENTRY, MISSING, index_bytes, parse_index

LEVEL = 5
"""Of compression."""

blosc.use_threads = False  # workers share out the cores; zarr-python sets the same


class ShardFile:
    """A shard written chunk by chunk, as zarr-python's sharding codec lays it out with its index last."""

    def __init__(self, file: BinaryIO, dtype: str, slots: int, codec: Codec) -> None:
        self._file, self._dtype, self._codec = file, dtype, codec
        self._index = np.full((slots, ENTRY // 8), MISSING, "<u8")
        self._chunks = self._end = 0

    def begin_with(self, shard: bytes, chunks: int) -> None:
        """Take over the first chunks of another shard, byte for byte and at the same places.

        Raises:
            ValueError: its index is damaged, or some of them are missing.
        """
        start = max(0, len(shard) - self._index.nbytes - CHECKSUM)
        index = parse_index(shard[start:], len(self._index))[:chunks]
        if (index > start).any() or (index.sum(axis=1) > start).any():
            raise ValueError("a chunk of it is missing")
        self._end = int(index.sum(axis=1).max())
        self._file.write(shard[: self._end])
        self._index[:chunks], self._chunks = index, chunks

    def append(self, chunk: NDArray[Any]) -> None:
        """Write the next chunk."""
        parts = encode(chunk, self._dtype, self._codec)
        length = sum(map(len, parts))
        self._file.writelines(parts)
        self._index[self._chunks] = self._end, length
        self._chunks += 1
        self._end += length

    def finish(self) -> None:
        """Write the index."""
        index = self._index.tobytes()
        self._file.writelines((index, _checksum(index)))


def encode(chunk: NDArray[Any], dtype: str, codec: Codec) -> tuple[bytes, bytes]:
    """A chunk as it is stored, and its checksum that follows: little-endian bytes, blosc, crc32c."""
    raw = np.ascontiguousarray(chunk, np.dtype(dtype).newbyteorder("<"))
    data = blosc.compress(raw, codec.encode(), LEVEL, blosc.SHUFFLE)
    return data, _checksum(data)


def _checksum(data: bytes) -> bytes:
    return crc32c(data).to_bytes(CHECKSUM, "little")


def is_whole(folder: Storage, key: str, slots: int, chunks: int) -> bool:
    """Whether a shard's file is there, with so many chunks of its slots (0: all) and none cut short.

    Its index is intact then, and the last chunk ends where the index begins.
    """
    size, data = folder.tail(key, index_bytes(slots)) or (0, b"")
    try:
        index = parse_index(data, slots)
    except ValueError:
        return False
    held = index[index[:, 0] != MISSING]
    return len(held) == (chunks or slots) and int(held.sum(axis=1).max()) == size - len(data)
