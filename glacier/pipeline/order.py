"""The sequence of samples of an epoch, and each rank's part of it: pure functions."""

import numpy as np
from numpy.typing import NDArray

from glacier.errors import UsageError
from glacier.pipeline.plan import Plan
from glacier.pipeline.windows import JITTER
from glacier.store.schema import BLOCK

SAMPLE = np.dtype([("tile", "i8"), ("y", "i4"), ("x", "i4"), ("key", "u8")])
"""One window, and the key that all its randomness comes from."""

Samples = NDArray[np.void]


def epoch_order(plan: Plan, seed: int, epoch: int, count: int) -> Samples:
    """The samples of one epoch (count,), whatever the number of ranks.

    Windows are laid end to end by kind, each as long as its weight, and sampled at equal distances from a
    random start (systematic resampling): one of weight w comes ⌊count · w⌋ or ⌈count · w⌉ times, and a kind
    likewise, so that each epoch's mix of pixels is close to the expected one, not only their mean. Drawn
    from Philox, a counter-based generator (Salmon et al., 2011): an order needs no state but its arguments.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    total = int(plan.parts.sum())
    points = ((random.random() + np.arange(count)) * (total / count)).astype(np.int64).clip(0, total - 1)
    tile, corner = _windows_at(plan, points)
    drift = random.integers(-JITTER, JITTER + 1, corner.shape)
    corner = (corner + drift).clip(0, BLOCK * (plan.windows.side - 1))
    order = np.empty(count, SAMPLE)
    shuffled = random.permutation(count)
    order["tile"], order["y"], order["x"] = tile[shuffled], *corner[shuffled].T
    order["key"] = random.integers(0, 2**64, count, np.uint64)
    return order


def _windows_at(plan: Plan, points: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tile and corner (row, column), px, of the windows at rising points of the line (n,), (n, 2).

    On the line windows lie by kind, then chunk of tiles, then place in it.
    """
    by_kind = plan.parts.T
    ends = by_kind.ravel().cumsum().reshape(by_kind.shape)
    cell = np.searchsorted(ends.ravel(), points, side="right")
    kind, chunk = np.divmod(cell, by_kind.shape[1])
    inside = points - (ends - by_kind)[kind, chunk]
    before = plan.parts.cumsum(axis=1) - plan.parts
    tile, corner = np.empty(len(points), np.int64), np.empty((len(points), 2), np.int64)
    by_chunk = np.argsort(chunk, kind="stable")
    bounds = np.searchsorted(chunk[by_chunk], np.arange(plan.windows.chunks + 1))
    for number in range(plan.windows.chunks):
        here = by_chunk[bounds[number] : bounds[number + 1]]
        if not len(here):
            continue
        weight, kinds = plan.weigh(number)
        sorted_by_kind = np.argsort(kinds.astype(np.int16), kind="stable")
        at = before[number, kind[here]] + inside[here]
        window = np.searchsorted(weight[sorted_by_kind].cumsum(), at, side="right")
        tile[here], corner[here] = plan.windows.place(number, sorted_by_kind[window])
    return tile, corner


def steps_per_epoch(count: int, batch: int) -> int:
    """Whole global batches in `count` samples, at least one."""
    return max(1, count // batch)


def rank_part(order: Samples, step: int, batch: int, rank: int, world: int) -> Samples:
    """What one rank reads at one step: its slice of the global batch (batch / world,)."""
    share = batch // world
    start = step * batch + rank * share
    return order[start : start + share]


def check_share(batch: int, rank: int, world: int) -> None:
    """Raise UsageError unless `world` ranks can share out `batch` samples, and `rank` is one of them."""
    if batch < 1 or batch % world:
        raise UsageError(f"train.batch: {batch} samples cannot be shared evenly by {world} ranks")
    if not 0 <= rank < world:
        raise UsageError(f"rank: {rank}, expected 0 to {world - 1}")


def tiles_in_order(tiles: NDArray[np.int64]) -> Samples:
    """Whole tiles, one sample each, in the order given; nothing random about them."""
    order = np.zeros(len(tiles), SAMPLE)
    order["tile"] = tiles
    return order
