"""Memory for the windows of one batch, on its way from a source to a device."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glacier.store.bands import Raw


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
