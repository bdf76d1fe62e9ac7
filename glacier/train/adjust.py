"""What is done to a run's scores once it has learnt: thresholds by class, then one temperature for all."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glacier.model.calibration import best_temperature, calibration_error, reliability
from glacier.pipeline.split import Tiles
from glacier.store.reader import Store
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Segmenter
from glacier.train.thresholds import best_offsets, sample_scores


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What scores are shifted and divided by, and what that is worth on the pixels it was chosen on."""

    thresholds: list[float]
    """Per class."""
    temperature: float
    before: float
    """The calibration error with these thresholds and temperature 1."""
    after: float
    """And with both."""


def choose_adjustment(
    segmenter: Segmenter,
    store: Store,
    tiles: Tiles,
    ranks: Ranks,
    *,
    thresholds: bool,
    precision: str = "auto",
) -> Adjustment:
    """The best for `tiles`, in one pass over them; the same on every rank.

    Args:
        segmenter: without thresholds and temperature.
        store: where tiles are read from.
        tiles: which.
        ranks: who shares them.
        thresholds: whether they are chosen, or stay 0.
        precision: as `train.precision`.
    """
    found, truth = sample_scores(segmenter, store, tiles, ranks, precision=precision)
    return best_adjustment(found, truth, ranks, thresholds=thresholds)


def best_adjustment(found: Tensor, truth: Tensor, ranks: Ranks, *, thresholds: bool) -> Adjustment:
    """The best for scores (n, C) of pixels whose classes are `truth` (n,)."""
    offsets = best_offsets(found, truth, ranks) if thresholds else [0.0] * found.shape[1]
    shifted = found + torch.tensor(offsets, device=found.device)
    temperature = best_temperature(shifted, truth, ranks.add)
    before, after = (_error(shifted / t, truth, ranks) for t in (1.0, temperature))
    return Adjustment(offsets, temperature, before, after)


def _error(scores: Tensor, truth: Tensor, ranks: Ranks) -> float:
    return calibration_error(np.asarray(ranks.add(reliability(truth, scores.softmax(dim=1))).cpu()))
