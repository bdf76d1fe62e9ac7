"""What an order is drawn from: windows of tiles, and their weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError, UsageError

STRIDE = 32
"""Windows start on a grid of this many px: the histogram's blocks."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows a training sample may read, all equally likely."""

    patch: int
    """Side of a window, px."""
    tile: NDArray[np.int64]
    """(window,)"""
    y: NDArray[np.int32]
    """First row of the window in its tile (window,), px."""
    x: NDArray[np.int32]
    """First column (window,), px."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.tile)


def uniform_plan(histogram: NDArray[np.uint16], tiles: NDArray[np.int64], patch: int) -> Plan:
    """Every window of `tiles` that holds a labelled pixel.

    Args:
        histogram: labelled pixels per tile, block and class (tile, by, bx, class).
        tiles: which tiles to take windows from.
        patch: side of a window, px; a multiple of 32, at most the tile's side.

    Raises:
        UsageError: `patch` does not fit the tiles.
        GlacierError: no window holds a labelled pixel.
    """
    blocks = histogram.shape[1]
    check_patch(patch, blocks * STRIDE)
    labelled = histogram[tiles].sum(axis=-1, dtype=np.int64)
    mass = _box_sums(labelled, patch // STRIDE)
    which, row, column = np.nonzero(mass)
    if not which.size:
        raise GlacierError(f"no labelled pixel in the {len(tiles)} tiles to train on")
    y, x = (STRIDE * row).astype(np.int32), (STRIDE * column).astype(np.int32)
    return Plan(patch, tiles[which], y, x)


def check_patch(patch: int, tile_size: int) -> None:
    """Raise UsageError unless windows of `patch` px fit tiles of `tile_size` px."""
    if patch % STRIDE or not STRIDE <= patch <= tile_size:
        raise UsageError(
            f"data.patch: {patch} px, expected a multiple of {STRIDE} up to the tile's {tile_size} px"
        )


def _box_sums(blocks: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Sums over all squares of `side` blocks (tile, by - side + 1, bx - side + 1)."""
    integral = np.pad(blocks.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
    rows = integral[:, side:] - integral[:, :-side]
    return np.asarray(rows[:, :, side:] - rows[:, :, :-side])
