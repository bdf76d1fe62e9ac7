"""Which tiles a fold trains on and validates on, and the statistics of the former."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError, UsageError
from glacier.store.bands import Statistics
from glacier.store.footprints import touching
from glacier.store.reader import Store
from glacier.store.schema import TEST
from glacier.store.statistics import pool

Tiles = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """The tiles of a store as one fold sees them."""

    train: Tiles
    val: Tiles
    test: Tiles
    """Set aside: neither trained on nor validated on, whatever the fold."""
    left_out: Tiles
    """None of these: tiles of other folds that touch or overlap one that validates or tests."""

    def tiles(self, name: str) -> Tiles:
        """The tiles of `train`, `val`, `test` or `all`.

        Raises:
            UsageError: another name, or no tile is set aside for test.
        """
        if name == "all":
            return np.sort(np.concatenate((self.train, self.val, self.test, self.left_out)))
        if name not in ("train", "val", "test"):
            raise UsageError(f"split: {name!r}, expected train, val, test or all")
        if name == "test" and not len(self.test):
            raise UsageError("split: no tile is set aside for test; `--folds published` sets some aside")
        found: Tiles = getattr(self, name)
        return found


def split(store: Store, fold: int) -> Split:
    """The tiles that train and validate while fold `fold` is held out.

    Raises:
        UsageError: the store has no such fold.
        GlacierError: no tile is left to train on, or none to validate on.
    """
    if not 0 <= fold < store.meta.folds:
        raise UsageError(f"train.fold: {fold}, expected 0 to {store.meta.folds - 1} in {store.path}")
    val, test = np.flatnonzero(store.fold == fold), np.flatnonzero(store.fold == TEST)
    near = touching(store, np.concatenate((val, test)))
    others = ~np.isin(store.fold, (fold, TEST))
    train = np.flatnonzero(others & ~near)
    if not len(train) or not len(val):
        raise GlacierError(
            f"{store.path}: fold {fold} leaves {len(train)} tiles to train on and {len(val)} to "
            f"validate on, of {len(store)}; ingest with fewer or other --folds, or a smaller --tile-size"
        )
    return Split(train, val, test, np.flatnonzero(others & near))


def statistics(store: Store, tiles: Tiles) -> list[Statistics]:
    """Mean and deviation of each band over the valid pixels of `tiles`."""
    return pool(store.array("moments")[tiles])
