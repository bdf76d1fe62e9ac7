"""The sequence of samples of an epoch, and each rank's part of it: pure functions."""

import numpy as np
from numpy.typing import NDArray

from glacier.errors import UsageError
from glacier.pipeline.plan import Plan

SAMPLE = np.dtype([("tile", "i8"), ("y", "i4"), ("x", "i4"), ("key", "u8")])
"""One window, and the key that all its randomness comes from."""

Samples = NDArray[np.void]


def epoch_order(plan: Plan, seed: int, epoch: int, count: int) -> Samples:
    """The samples of one epoch (count,), whatever the number of ranks.

    Each window comes once before any comes twice. Drawn from Philox, a counter-based generator
    (Salmon et al., 2011), so that an order needs no state but its arguments.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    rounds = [random.permutation(len(plan)) for _ in range(-(-count // len(plan)))]
    chosen = np.concatenate(rounds)[:count]
    order = np.empty(count, SAMPLE)
    order["tile"], order["y"], order["x"] = plan.tile[chosen], plan.y[chosen], plan.x[chosen]
    order["key"] = random.integers(0, 2**64, count, np.uint64)
    return order


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
