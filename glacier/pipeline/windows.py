"""Candidate windows of tiles, and the pixels of each class that each is expected to show."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glacier.errors import UsageError
from glacier.pipeline.augment import Augment, seen_rows
from glacier.store.schema import BLOCK

CHUNK = 1024
"""Most tiles whose windows are in memory at a time."""
WINDOWS = 2**17
"""Most windows in memory at a time, but for those of one tile."""
HALF, FINE = 2, 16
"""Coverage is counted in halves, and for interpolating presets in sixteenths, of a block: then masses are
exact in floating point, in whatever order they are added up."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows that samples may read, a grid of them in each tile. Nothing per window is kept.

    A window is a cell of the grid: samples start anywhere in its `BLOCK` px, both ends included. Where
    a window fills its tile there is one, which does not move.
    """

    histogram: NDArray[np.uint16]
    """Labelled pixels per tile, block and class (tile, by, bx, class), of the whole store."""
    tiles: NDArray[np.int64]
    """Those to take windows from (n,)."""
    patch: int
    """Side of a window, px."""
    least: float
    """Least share of a window's area that must be labelled."""
    coverage: NDArray[np.floating]
    """How often a row of blocks is seen by a row of cells, in expectation (by, cells); columns alike."""

    @property
    def cells(self) -> int:
        """Windows along a side of a tile."""
        return int(self.coverage.shape[1])

    @property
    def moves(self) -> bool:
        """Whether samples start anywhere in their cell."""
        return self.patch < BLOCK * len(self.coverage)

    @property
    def step(self) -> int:
        """Tiles per chunk."""
        return max(1, min(CHUNK, WINDOWS // self.cells**2))

    @property
    def chunks(self) -> int:
        """In how many chunks `masses` goes through the tiles."""
        return -(-len(self.tiles) // self.step)

    def masses(self, chunk: int) -> NDArray[np.floating]:
        """Expected pixels by class of each window of a chunk of tiles (n · cells², class), exact.

        Windows are in the order of tiles, rows, columns. Pixels are the sample's own, after scaling.
        """
        tiles = self.tiles[chunk * self.step : (chunk + 1) * self.step]
        counts = self.histogram[tiles].astype(self.coverage.dtype)
        count, blocks, _, classes = counts.shape
        rows = self.coverage.T @ counts.reshape(count, blocks, blocks * classes)
        both = rows.reshape(count * self.cells, -1) @ np.kron(self.coverage, np.eye(classes)).astype(
            rows.dtype
        )
        return both.reshape(-1, classes)

    def eligible(self, masses: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which windows hold a labelled pixel, and enough of them (n,)."""
        labelled = masses.sum(axis=1)
        return np.asarray((labelled > 0) & (labelled >= self.least * self.patch**2))

    def shares(self) -> Iterator[NDArray[np.float64]]:
        """Of each chunk, the masses of eligible windows as shares of a window's area (n, class)."""
        for chunk in range(self.chunks):
            masses = self.masses(chunk)
            yield self.as_shares(masses[self.eligible(masses)])

    def as_shares(self, masses: NDArray[np.floating]) -> NDArray[np.float64]:
        """Masses as shares of a window's area."""
        return masses.astype(np.float64) / self.patch**2

    def count(self) -> int:
        """How many windows are eligible."""
        return sum(len(shares) for shares in self.shares())

    def place(self, chunk: int, window: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tile, and corner (row, column) of the cell, px, of windows of a chunk (n,), (n, 2)."""
        tile, cell = np.divmod(window, self.cells**2)
        return self.tiles[chunk * self.step + tile], BLOCK * np.stack(np.divmod(cell, self.cells), axis=1)


def candidates(
    histogram: NDArray[np.uint16],
    tiles: NDArray[np.int64],
    patch: int,
    augment: Augment,
    least: float = 0.0,
) -> Windows:
    """The windows of `tiles`.

    Args:
        histogram: labelled pixels per tile, block and class (tile, by, bx, class).
        tiles: which tiles to take windows from.
        patch: side of a window, px; a multiple of 32, at most the tile's side.
        augment: what will be done to a window, as far as other pixels are seen for it.
        least: share of a window's area that must be labelled.

    Raises:
        UsageError: `patch` does not fit the tiles.
    """
    blocks = histogram.shape[1]
    if patch % BLOCK or not BLOCK <= patch <= blocks * BLOCK:
        raise UsageError(
            f"data.patch: {patch} px, expected a multiple of {BLOCK} up to the tile's {blocks * BLOCK} px"
        )
    return Windows(histogram, tiles, patch, least, _coverage(blocks, patch, augment))


def _coverage(blocks: int, patch: int, augment: Augment) -> NDArray[np.floating]:
    """How often the rows of a block are seen by the samples of a cell, in expectation (by, cells).

    Exact presets see each row of a window once: a window that starts anywhere in its cell sees half of
    its first block and half of one more. Interpolating ones are taken as if rows and columns were
    independent: the share of output rows that see each row of blocks, from many drawn matrices.
    """
    side = patch // BLOCK
    cells = max(1, blocks - side)
    offset = np.arange(blocks)[:, None] - np.arange(cells)
    if not augment.interpolates:
        moved = blocks > side
        parts = HALF
        seen = ((offset >= 0) & (offset < side)) / 2 + ((offset >= moved) & (offset < side + moved)) / 2
    else:
        parts = FINE
        rows = seen_rows(augment, patch, BLOCK if blocks > side else 0)
        place = np.floor(rows / BLOCK).astype(np.int64) + blocks
        share = np.bincount(place[(place >= 0) & (place < 2 * blocks)], minlength=2 * blocks) / rows.size
        seen = np.rint(share[offset + blocks] * side * parts) / parts
    exact = (patch * parts) ** 2 <= 2**24
    return np.asarray(seen, np.float32 if exact else np.float64)
