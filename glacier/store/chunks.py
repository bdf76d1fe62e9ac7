"""Tiles of an array by zarr-python: any codec chain, any place that it can read."""

import itertools
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from glacier.store.bands import Raw
from glacier.store.shards import MISSING, index_bytes, parse_index


class Chunks:
    """An array whose first axis is tiles. Zarr reads what is missing as zeros; this does not."""

    def __init__(self, array: "zarr.Array[Any]") -> None:
        self.array = array
        self._present: dict[int, NDArray[np.bool_]] = {}

    def window(self, tile: int, y: int, x: int, out: Raw) -> None:
        """Decode the window at (y, x) px of a tile into `out` (P, P, …).

        Raises:
            ValueError, RuntimeError, OSError: it is missing or damaged.
        """
        self.find(tile)
        out[...] = self.array[tile, y : y + out.shape[0], x : x + out.shape[1]]

    def find(self, tile: int) -> None:
        """Make sure that there are all chunks of a tile.

        Raises:
            ValueError, RuntimeError, OSError: one is missing, or its shard's index is damaged.
        """
        outer = (self.array.shards or self.array.chunks)[0]
        number, place = divmod(tile, outer)
        if number not in self._present:
            self._present[number] = self._find(number)
        if not self._present[number][place // self.array.chunks[0]].all():
            raise ValueError("a chunk of it is missing")

    def will_read(self, tile: int) -> None:
        """Nothing: zarr-python has no word for it."""

    def close(self) -> None:
        """Nothing is open."""

    def _find(self, number: int) -> NDArray[np.bool_]:
        """Which chunks there are of the shards, or of the chunks, with the outer index `number`.

        Returns:
            One entry per chunk (chunk, …), chunks along the tile axis first.
        """
        store, metadata = self.array.store_path.store, self.array.metadata
        base = self.array.store_path.path
        outer = self.array.shards or self.array.chunks
        counts = [-(-size // step) for size, step in zip(self.array.shape[1:], outer[1:], strict=True)]
        inner = [step // chunk for step, chunk in zip(outer, self.array.chunks, strict=True)]
        found = np.zeros((inner[0], *counts, *inner[1:]), bool)
        for at in itertools.product(*map(range, counts)):
            where: Any = (slice(None), *at)
            key = "/".join(filter(None, (base, metadata.encode_chunk_key((number, *at)))))
            if self.array.shards is None:
                found[where] = sync(store.exists(key))
            else:
                found[where] = self._in_shard(key, inner)
        return found

    def _in_shard(self, key: str, inner: list[int]) -> NDArray[np.bool_]:
        """Which chunks of a shard (chunk, …) its index lists."""
        store = self.array.store_path.store
        metadata: Any = self.array.metadata.to_dict()
        settings = metadata["codecs"][0]["configuration"]
        count = int(np.prod(inner))
        size = index_bytes(count)
        where = (
            RangeByteRequest(0, size) if settings["index_location"] == "start" else SuffixByteRequest(size)
        )
        data = sync(store.get(key, default_buffer_prototype(), where))
        if data is None:
            return np.zeros(inner, bool)
        if [codec["name"] for codec in settings["index_codecs"]] != ["bytes", "crc32c"]:
            return np.ones(inner, bool)
        found: NDArray[np.bool_] = parse_index(data.to_bytes(), count)[:, 0] != MISSING
        return found.reshape(inner)
