"""Decision thresholds: per class, what is added to its score before the highest is taken."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.classes import IGNORE
from glacier.model.metrics import scores
from glacier.pipeline.split import Tiles
from glacier.store.reader import Store
from glacier.train.evaluate import scored_tiles
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Segmenter

PIXELS = 4_000_000
"""At most so many are looked at, over all ranks, at equal distances among the labelled ones."""
REACH, STEP, ROUNDS = 3.0, 0.1, 3
GAIN = 1e-4
"""An offset is moved only for so much MCC at least."""


def sample_scores(
    segmenter: Segmenter, store: Store, tiles: Tiles, ranks: Ranks, *, precision: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Scores (n, C), all numbers, and classes (n,) of labelled pixels of this rank's share of `tiles`."""
    total = int(store.histogram[tiles].sum())
    stride = max(1, -(-total // PIXELS))
    found, truth = [], []
    for item, logits in scored_tiles(segmenter, store, tiles, ranks, precision=precision):
        held = (item.label != IGNORE) & logits.isfinite().all(dim=1)
        found.append(logits.float().permute(0, 2, 3, 1)[held][::stride].clone())  # a view would keep all
        truth.append(item.label[held][::stride].long())
    classes, device = len(store.meta.classes), ranks.device
    sample = torch.cat([*found, torch.zeros(0, classes, device=device)])
    return sample, torch.cat([*truth, torch.zeros(0, dtype=torch.long, device=device)])


def best_offsets(found: Tensor, truth: Tensor, ranks: Ranks) -> list[float]:
    """The offset of each class's score (C,) with the highest MCC, class by class in turns.

    Scores are logarithms of shares, so an offset is the logarithm of a threshold on a ratio of shares.

    Args:
        found: scores (n, C) of this rank's pixels.
        truth: their classes (n,).
        ranks: who holds the others.
    """
    classes = found.shape[1]
    grid = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.float32, device=found.device)
    offsets = torch.zeros(classes, device=found.device)
    names = [str(c) for c in range(classes)]
    matrix = _matrices(found, truth, offsets, 0, torch.zeros(1, device=found.device), ranks)[0]
    best = scores(matrix, names).mcc
    for _ in range(ROUNDS):
        before = offsets.clone()
        for c in range(1, classes):  # one is free: only differences matter
            rated = [scores(m, names).mcc for m in _matrices(found, truth, offsets, c, grid, ranks)]
            top = int(np.argmax(rated))
            if rated[top] > best + GAIN:
                best, offsets[c] = rated[top], grid[top]
        if torch.equal(before, offsets):
            break
    return [round(float(value), 6) for value in offsets]


def _matrices(
    found: Tensor, truth: Tensor, offsets: Tensor, c: int, grid: Tensor, ranks: Ranks
) -> NDArray[np.int64]:
    """Confusion matrices (grid, C, C) with class c's offset at each value of a rising grid, in one pass.

    A pixel goes to class c from that value on at which its score overtakes the best of the others.
    """
    classes, steps = found.shape[1], len(grid)
    shifted = found + offsets
    others = shifted.clone()
    others[:, c] = -torch.inf
    best, other = others.max(dim=1) if len(found) else (found.sum(1), truth)
    turn = torch.searchsorted(grid, (best - found[:, c]).contiguous(), right=True)
    cell = (turn * classes + truth) * classes + other
    count = torch.bincount(cell, minlength=(steps + 1) * classes**2).reshape(steps + 1, classes, classes)
    count = ranks.add(count)
    stay, gone = count.flip(0).cumsum(0).flip(0)[1:], count.cumsum(0)[:-1].sum(dim=2)
    stay[:, :, c] += gone
    return np.asarray(stay.cpu())
