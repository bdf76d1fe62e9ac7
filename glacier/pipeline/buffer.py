"""Memory for the windows of one batch, used again once nothing refers to it."""

import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glacier.store.bands import Raw

KEPT = 8
"""Most unused arrays of a shape that are kept."""


@dataclass(frozen=True, slots=True)
class Window:
    """The shape and dtype of what is read."""

    patch: int
    """Side, px."""
    bands: int
    dtype: str
    """Of raw pixels."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory for the windows of one batch."""

    image: Raw
    """(N, P, P, B), the store's raw dtype"""
    label: NDArray[np.uint8]
    """(N, P, P)"""

    @classmethod
    def empty(cls, count: int, patch: int, bands: int, dtype: str) -> "Buffer":
        """Uninitialised memory for `count` windows of `patch` px."""
        image = np.empty((count, patch, patch, bands), dtype)
        return cls(image, np.empty((count, patch, patch), np.uint8))

    def part(self, i: int) -> "Buffer":
        """The i-th window's place, as a buffer of one."""
        return Buffer(self.image[i : i + 1], self.label[i : i + 1])


class Recycled:
    """Arrays of one shape. What nobody refers to any more is handed out again, and nothing before.

    Fresh memory costs a page fault per 4 KiB, which is more than decoding into it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, *, pin: bool = False) -> None:
        """Allocate nothing yet.

        Args:
            shape: of each array.
            dtype: NumPy's name of it.
            pin: page-locked, for copies to a CUDA device.
        """
        self._shape, self._dtype, self._pin = shape, dtype, pin
        self._free: deque[NDArray[Any]] = deque(maxlen=KEPT)

    def take(self) -> NDArray[Any]:
        """An array with whatever it last held; tensors and views made from it keep it in use."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = self._new()
        # A view of a view refers to the array that owns the memory, but not past an object of another type.
        lease = np.asarray(memory.data)
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return lease

    def _new(self) -> NDArray[Any]:
        if self._pin:
            pinned = torch.empty(self._shape, dtype=getattr(torch, self._dtype), pin_memory=True)
            return pinned.numpy()
        return np.empty(self._shape, self._dtype)  # NumPy asks for large pages, PyTorch does not


class Buffers:
    """Recycled buffers for batches of one kind of window."""

    def __init__(self, window: Window, count: int, *, pin: bool) -> None:
        """Allocate nothing yet; each buffer holds up to `count` windows."""
        square = (count, window.patch, window.patch)
        self._image = Recycled((*square, window.bands), window.dtype, pin=pin)
        self._label = Recycled(square, "uint8", pin=pin)

    def take(self, count: int) -> Buffer:
        """A buffer for `count` windows."""
        return Buffer(self._image.take()[:count], self._label.take()[:count])
