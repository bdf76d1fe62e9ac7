"""How often shares are right that say how sure they are, and the temperature that makes them so."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.classes import IGNORE

BINS = 15
"""Of equal width, from no confidence to all of it, as in Guo et al. (2017)."""
COLDEST, HOTTEST = 1 / 20, 20.0
"""Temperatures are looked for between these."""
HALVINGS = 24
"""Of the logarithm of that range: to 2e-7 of the temperature."""


def reliability(label: Tensor, shares: Tensor) -> Tensor:
    """Per bin of confidence: pixels, those of them that are right, and their summed confidence (3, BINS).

    Confidence is the share of the chosen class, the one with the largest. Tables of parts add up to that of
    the whole; float64.

    Args:
        label: class indices (N, …); 255 counts nowhere.
        shares: of each class (N, C, …).
    """
    confidence, chosen = shares.max(dim=1)
    held = label != IGNORE
    sure, right = confidence[held].double(), (chosen == label)[held].double()
    place = ((sure * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    rows = (torch.ones_like(sure), right, sure)
    # without pixels, bincount gives integers
    return torch.stack([torch.bincount(place, weights=row, minlength=BINS).double() for row in rows])


def calibration_error(table: NDArray[np.float64]) -> float:
    """The expected calibration error of a reliability table (Naeini et al., 2015); NaN without pixels.

    The mean over pixels of |accuracy - mean confidence| of their bin, 0 to 1.
    """
    pixels, right, confidence = table
    total = float(pixels.sum())
    return float(np.abs(right - confidence).sum()) / total if total else math.nan


def best_temperature(
    scores: Tensor, truth: Tensor, add: Callable[[Tensor], Tensor] = lambda mine: mine
) -> float:
    """What to divide scores (n, C) by for the least mean -log p of the classes `truth` (n,).

    In 1 / temperature that mean is convex (Guo et al., 2017): halving finds where its slope is 0.
    1 where no temperature is better than another, as without pixels.

    Args:
        scores: of labelled pixels.
        truth: their classes.
        add: sums over all who hold a part of the pixels.
    """
    ahead = scores - scores.gather(1, truth[:, None])
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        shares = (ahead * math.exp(middle)).softmax(dim=1)
        slope = float(add((shares * ahead).sum(dtype=torch.float64)))
        if slope == 0:
            break
        low, high = (low, middle) if slope > 0 else (middle, high)
    return round(math.exp(-middle), 6)
