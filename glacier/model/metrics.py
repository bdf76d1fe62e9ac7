"""Scores from one confusion matrix."""

from dataclasses import dataclass
from math import isnan, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.classes import IGNORE


def confusion(label: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """Pixels by true and predicted class (classes, classes) int64; label 255 counts nowhere."""
    labelled = label != IGNORE
    cell = label[labelled].long() * classes + prediction[labelled].long()
    return torch.bincount(cell, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Of one class; NaN where it has no pixel to be judged by."""

    iou: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Scores:
    """How predictions compare with labels."""

    mcc: float
    """Matthews correlation coefficient for several classes (Gorodkin, 2004): R_K."""
    mean_iou: float
    """Over the classes that occur in labels or predictions."""
    pixels: int
    """How many were compared."""
    classes: dict[str, ClassScores]

    def to_json(self) -> dict[str, Any]:
        """As `glacier evaluate --json` prints it; NaN becomes null."""
        rows = {
            name: {k: number_or_none(getattr(row, k)) for k in ("iou", "precision", "recall", "f1")}
            for name, row in self.classes.items()
        }
        return {"mcc": self.mcc, "mean_iou": number_or_none(self.mean_iou), "classes": rows}


def number_or_none(value: float) -> float | None:
    """None for NaN, which JSON has no word for."""
    return None if isnan(value) else value


def scores(matrix: NDArray[np.int64], names: list[str]) -> Scores:
    """Scores of a confusion matrix (C, C), rows true, columns predicted."""
    hit = np.diag(matrix).astype(np.float64)
    truth, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hit / (truth + predicted - hit)
        table = np.stack((iou, hit / predicted, hit / truth, 2 * hit / (truth + predicted)), axis=1)
    mean_iou = float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")
    rows = {n: ClassScores(*map(float, row)) for n, row in zip(names, table, strict=True)}
    return Scores(_mcc(matrix), mean_iou, int(matrix.sum()), rows)


def _mcc(matrix: NDArray[np.int64]) -> float:
    """R_K; 0 where labels or predictions hold one class only, as scikit-learn has it."""
    total, hit = int(matrix.sum()), int(np.trace(matrix))
    truth = [int(n) for n in matrix.sum(axis=1)]
    predicted = [int(n) for n in matrix.sum(axis=0)]
    chance = sum(t * p for t, p in zip(truth, predicted, strict=True))
    spread = (total**2 - sum(p * p for p in predicted)) * (total**2 - sum(t * t for t in truth))
    return (hit * total - chance) / sqrt(spread) if spread else 0.0
