"""Candidate windows of tiles, and the pixels of each class that each is expected to show."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from glacier.errors import UsageError
from glacier.machine import cores
from glacier.pipeline.augment import Augment, seen_rows
from glacier.store.schema import BLOCK

T = TypeVar("T")

CHUNK = 256
"""Most tiles whose windows are in memory at a time."""
WINDOWS = 2**15
"""Most windows in memory at a time, but for those of one tile."""
JITTER = BLOCK // 4
"""Samples start up to so many px from their window's corner, in both directions. Where in a block its
pixels lie is not known, so that more would blur what a window shows: measured in docs/LOG.md."""
FINE = 256
"""Coverage is counted in such parts of a block: masses are exact, in whatever order they are added up."""


@dataclass(frozen=True, slots=True)
class Windows:
    """What samples may read: windows on a grid of `BLOCK` px in each tile.

    Samples start up to `JITTER` px from their window's corner, and never leave the tile.
    """

    histogram: NDArray[np.uint16]
    """Labelled pixels per tile, block and class (tile, by, bx, class), of the whole store."""
    tiles: NDArray[np.int64]
    """Those to take windows from (n,)."""
    patch: int
    """Side of a window, px."""
    least: float
    """Least share of a window's area that must be labelled."""
    coverage: NDArray[np.float64]
    """How often a row of blocks is seen by a row of windows, in expectation (by, row); columns alike."""

    @property
    def side(self) -> int:
        """Windows along a side of a tile."""
        return int(self.coverage.shape[1])

    @property
    def covering(self) -> int:
        """As many samples as cover the tiles once."""
        return len(self.tiles) * (len(self.coverage) * BLOCK // self.patch) ** 2

    @property
    def step(self) -> int:
        """Tiles per chunk."""
        return max(1, min(CHUNK, WINDOWS // self.side**2))

    @property
    def chunks(self) -> int:
        """In how many chunks `masses` goes through the tiles."""
        return -(-len(self.tiles) // self.step)

    def masses(self, chunk: int) -> NDArray[np.float64]:
        """Expected pixels by class of each window of a chunk of tiles (n · side², class), exact.

        Windows are in the order of tiles, rows, columns. Pixels are the sample's own, after scaling.
        """
        tiles = self.tiles[chunk * self.step : (chunk + 1) * self.step]
        counts = self.histogram[tiles].astype(np.float64)
        count, blocks, _, classes = counts.shape
        rows = self.coverage.T @ counts.reshape(count, blocks, blocks * classes)
        both = self.coverage.T @ rows.reshape(count, self.side, blocks, classes)
        return np.asarray(both.reshape(-1, classes))

    def eligible(self, masses: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which windows hold a labelled pixel, and enough of them (n,)."""
        labelled = masses.sum(axis=1)
        return np.asarray((labelled > 0) & (labelled >= self.least * self.patch**2))

    def each(self, work: Callable[[NDArray[np.float64]], T]) -> Iterator[T]:
        """What `work` makes of each chunk's eligible windows, given as shares of their area (n, class).

        Chunks are worked on side by side and yielded in order, so that sums over them are always the same.
        """

        def one(chunk: int) -> T:
            masses = self.masses(chunk)
            return work(self.as_shares(masses[self.eligible(masses)]))

        if self.chunks == 1:
            yield one(0)
            return
        with ThreadPoolExecutor(cores()) as pool:
            yield from pool.map(one, range(self.chunks))

    def as_shares(self, masses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Masses as shares of a window's area."""
        return masses / self.patch**2

    def totals(self) -> tuple[NDArray[np.float64], int]:
        """Over all eligible windows: their shares summed by class (class,), and how many there are."""
        shown, count = np.zeros(self.histogram.shape[-1]), 0
        for some, windows in self.each(lambda shares: (shares.sum(axis=0), len(shares))):
            shown, count = shown + some, count + windows
        return shown, count

    def place(self, chunk: int, window: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tile and corner (row, column), px, of windows of a chunk (n,), (n, 2)."""
        tile, place = np.divmod(window, self.side**2)
        return self.tiles[chunk * self.step + tile], BLOCK * np.stack(np.divmod(place, self.side), axis=1)


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


def _coverage(blocks: int, patch: int, augment: Augment) -> NDArray[np.float64]:
    """How often the rows of a block are seen by the samples of a window, in expectation (by, row).

    Exact presets see each row of a sample once, wherever it starts. Interpolating ones are taken as if
    rows and columns were independent: the share of output rows that see each row of blocks, from many
    drawn matrices.
    """
    corners = BLOCK * np.arange(blocks - patch // BLOCK + 1)
    first = (corners[:, None] + np.arange(-JITTER, JITTER + 1)).clip(0, corners[-1])
    if not augment.interpolates:
        rows = np.arange(blocks * BLOCK)[:, None, None]
        seen = ((rows >= first) & (rows < first + patch)).mean(axis=2)
        seen = seen.reshape(blocks, BLOCK, -1).mean(axis=1)
    else:
        look = seen_rows(augment, patch)[:, None]
        places = [np.floor((look + starts) / BLOCK).astype(np.int64) for starts in first]
        inside = [place[(place >= 0) & (place < blocks)] for place in places]
        seen = np.stack([np.bincount(place, minlength=blocks) for place in inside], axis=1)
        seen = seen * (patch / BLOCK) / places[0].size
    return np.asarray(np.rint(seen * FINE) / FINE)
