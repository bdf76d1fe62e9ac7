"""Losses as functions of sums over pixels, so that ranks can add their sums before the function."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from glacier.classes import IGNORE
from glacier.errors import UsageError

GAMMA = 2.0
"""Of focal: how much less sure pixels count (Lin et al., 2017)."""
NEAR = 3
"""px; `boundary_error` looks at pixels this near to another class."""
THICK, TOLERANCE = 3, 5
"""Windows of `boundary_f1`, px: of the boundary itself, and of how far off it may lie."""
EPSILON = 1e-6
"""Of `mcc`, as a share: what keeps its gradient finite where all predictions are one class."""


@dataclass(frozen=True)
class Target:
    """What a label says, in the forms that terms need."""

    truth: Tensor
    """(N, H, W) int64 class, 0 where there is none"""
    labelled: Tensor
    """(N, H, W) float32, 1 or 0"""
    one_hot: Tensor
    """(N, C, H, W) float32, 0 where there is no label"""

    @cached_property
    def near(self) -> Tensor:
        """(N, H, W) whether a labelled pixel lies within `NEAR` px of another class."""
        around = _dilate(self.one_hot, 2 * NEAR + 1)
        return (around.sum(dim=1) > 1) & (self.labelled > 0)


@dataclass(frozen=True)
class Scored:
    """What a network says of a target, in the forms that terms need; each is made once."""

    log_share: Tensor
    """(N, C, H, W) logarithm of the softmax"""
    share: Tensor
    """(N, C, H, W) softmax, 0 where there is no label"""
    target: Target

    @cached_property
    def error(self) -> Tensor:
        """−log p of the true class (N, H, W), 0 where there is none."""
        true = self.log_share.gather(1, self.target.truth[:, None])[:, 0]
        return -true.masked_fill(self.target.labelled == 0, 0)

    @cached_property
    def overlap(self) -> Tensor:
        """Overlap Σ p·t, prediction Σ p and truth Σ t by class (3 C,)."""
        parts = (self.share * self.target.one_hot, self.share, self.target.one_hot)
        return torch.cat([_by_class(part) for part in parts])


def target_of(label: Tensor, classes: int) -> Target:
    """Forms of a label (N, H, W) of class indices, 255 to be ignored."""
    held = label != IGNORE
    truth = label.long().masked_fill(~held, 0)
    # float32 on purpose: half precision cannot count beyond 2048
    labelled = held.to(torch.promote_types(torch.get_default_dtype(), torch.float32))
    one_hot = functional.one_hot(truth, classes).permute(0, 3, 1, 2) * labelled[:, None]
    return Target(truth, labelled, one_hot)


def scored(logits: Tensor, target: Target) -> Scored:
    """Forms of class scores (N, C, H, W), in single precision at least."""
    log_share = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    return Scored(log_share, log_share.exp() * target.labelled[:, None], target)


class Term(ABC):
    """One loss: a function of sums that ranks, images and tiles may add up."""

    @abstractmethod
    def sums(self, found: Scored, target: Target) -> Tensor:
        """What the loss must know of a batch, float64 (n,); ignored pixels add nothing."""

    @abstractmethod
    def loss(self, sums: Tensor, weight: Tensor) -> Tensor:
        """The loss of `sums`, a scalar; `weight` as from `weight`, of all that is to be averaged over."""

    def weight(self, target: Target) -> Tensor:
        """What a mean over pixels is to be divided by: known from labels alone, so that it is known before
        the first of several accumulated batches has been scored; a scalar."""  # noqa: D205, D209
        return target.labelled.sum(dtype=torch.float64)


class Mean(Term):
    """A mean over pixels: one sum, divided by a count."""

    def loss(self, sums: Tensor, weight: Tensor) -> Tensor:
        """The mean; 0 where there is nothing to average over."""
        return sums[0] / weight.clamp(min=1)


@dataclass(frozen=True, slots=True)
class CrossEntropy(Mean):
    """Mean over labelled pixels of −log p of the true class."""

    def sums(self, found: Scored, target: Target) -> Tensor:
        """Summed errors (1,)."""
        return _total(found.error)


@dataclass(frozen=True, slots=True)
class Focal(Mean):
    """Mean over labelled pixels of −α (1 − p)² log p of the true class (Lin et al., 2017)."""

    alpha: tuple[float, ...]
    """Per class."""

    def sums(self, found: Scored, target: Target) -> Tensor:
        """Summed errors (1,)."""
        error = found.error
        parts = zip(self.alpha, target.one_hot.unbind(1), strict=True)
        alpha = torch.stack([weight * where for weight, where in parts]).sum(0)
        # 1 - p from log p, exact where p is nearly 1
        return _total(alpha * (-torch.expm1(-error)) ** GAMMA * error)


@dataclass(frozen=True, slots=True)
class BoundaryError(Mean):
    """Mean of −log p over the labelled pixels within `NEAR` px of another labelled class.

    A class ends only where another begins: along no data there is no boundary.
    """

    def sums(self, found: Scored, target: Target) -> Tensor:
        """Summed errors (1,)."""
        return _total(found.error.masked_fill(~target.near, 0))

    def weight(self, target: Target) -> Tensor:
        """Pixels near a boundary."""
        return target.near.sum(dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Dice(Term):
    """Soft Dice (Milletari, Navab and Ahmadi, 2016), mean over the classes that occur."""

    def sums(self, found: Scored, target: Target) -> Tensor:
        """Overlap Σ p·t, prediction Σ p and truth Σ t by class (3 C,)."""
        return found.overlap

    def loss(self, sums: Tensor, weight: Tensor) -> Tensor:
        """One minus the mean coefficient, each smoothed by one pixel."""
        overlap, predicted, truth = sums.reshape(3, -1)
        return _mean_over(1 - (2 * overlap + 1) / (predicted + truth + 1), truth > 0)


@dataclass(frozen=True, slots=True)
class Mcc(Term):
    """One minus the soft Matthews correlation of several classes, R_K (Gorodkin, 2004).

    With shares of pixels o = Σ p·t, p and t by class: (Σ o − Σ p t) / √((1 − Σ p²) (1 − Σ t²)).
    """

    def sums(self, found: Scored, target: Target) -> Tensor:
        """As of `Dice` (3 C,)."""
        return found.overlap

    def loss(self, sums: Tensor, weight: Tensor) -> Tensor:
        """1 for a batch of one class or none, where no correlation is defined."""
        overlap, predicted, truth = sums.reshape(3, -1)
        total = truth.sum().clamp(min=1)
        overlap, predicted, truth = overlap / total, predicted / total, truth / total
        spread_truth, spread_predicted = (1 - (truth**2).sum()), (1 - (predicted**2).sum()).clamp(min=0)
        found = overlap.sum() - (predicted * truth).sum() + EPSILON
        correlation = found / ((spread_predicted + EPSILON) * (spread_truth + EPSILON)).sqrt()
        several = ((truth > 0).sum() > 1).to(correlation.dtype)
        loss: Tensor = 1 - correlation * several
        return loss


@dataclass(frozen=True, slots=True)
class BoundaryF1(Term):
    """One minus the soft F1 of boundaries (Bokhovkin and Burnaev, 2019), mean over the classes that occur.

    A class's boundary are its pixels beside another class, found by max pooling; precision and recall
    allow for some pixels between true and predicted boundary. Ignored pixels are no class, so along them
    there is none.
    Sums run over the whole batch, where the paper takes F1 image by image.
    """

    def sums(self, found: Scored, target: Target) -> Tensor:
        """Predicted boundary that is right, all predicted, true that is found, all true (4 C,)."""
        labelled = target.labelled[:, None]
        true = self._boundary(target.one_hot, labelled)
        predicted = self._boundary(found.share, labelled)
        right = predicted * _dilate(true, TOLERANCE)
        recalled = true * _dilate(predicted, TOLERANCE)
        return torch.cat([_by_class(part) for part in (right, predicted, recalled, true)])

    def loss(self, sums: Tensor, weight: Tensor) -> Tensor:
        """One minus the mean F1; 0 where there is no boundary."""
        right, predicted, recalled, true = sums.reshape(4, -1)
        precision, recall = (right + 1) / (predicted + 1), (recalled + 1) / (true + 1)
        return _mean_over(1 - 2 * precision * recall / (precision + recall), true > 0)

    def _boundary(self, share: Tensor, labelled: Tensor) -> Tensor:
        other = (1 - share) * labelled
        return (_dilate(other, THICK) - other) * labelled


TERMS: dict[str, Callable[[tuple[float, ...]], Term]] = {
    "cross_entropy": lambda alpha: CrossEntropy(),
    "focal": Focal,
    "dice": lambda alpha: Dice(),
    "mcc": lambda alpha: Mcc(),
    "boundary_error": lambda alpha: BoundaryError(),
    "boundary_f1": lambda alpha: BoundaryF1(),
}
"""Terms by name, made of focal's alpha."""


class CombinedLoss:
    """A weighted sum of named terms, some of them let in over the first epochs."""

    def __init__(
        self,
        weights: Mapping[str, float],
        classes: Sequence[str],
        *,
        alpha: Mapping[str, float] | None = None,
        ramp: Mapping[str, int] | None = None,
        ramp_from: float = 0.05,
    ) -> None:
        """Name the terms.

        Args:
            weights: term -> weight.
            classes: names, by index.
            alpha: class -> weight of its pixels in focal; 1 for those not named, others do not matter.
            ramp: term -> epochs over which its weight rises to the full one.
            ramp_from: share of it in the first epoch.

        Raises:
            UsageError: a term that there is not, or no term.
        """
        alpha, self.ramp, self.ramp_from = alpha or {}, dict(ramp or {}), ramp_from
        self.weights = {name: weight for name, weight in weights.items() if weight}
        for name in (*weights, *self.ramp):
            if name not in TERMS:
                raise UsageError(f"loss: no term {name!r}; expected {', '.join(TERMS)}")
        if absent := sorted(set(self.ramp) - set(self.weights)):
            raise UsageError(
                f"loss.ramp: {absent[0]} has no weight in loss.terms; give it one or leave it out"
            )
        if not self.weights or any(weight < 0 for weight in self.weights.values()):
            raise UsageError(f"loss.terms: {dict(weights)}, expected weights of 0 or more, one above 0")
        self.classes = len(classes)
        self._terms = {
            name: TERMS[name](tuple(alpha.get(c, 1.0) for c in classes)) for name in self.weights
        }

    def target(self, label: Tensor) -> Target:
        """Forms of a label (N, H, W)."""
        return target_of(label, self.classes)

    def weight(self, target: Target) -> Tensor:
        """What each term's mean is to be divided by (terms,) float64; to be added up like sums."""
        return torch.stack([term.weight(target) for term in self._terms.values()])

    def sums(self, logits: Tensor, target: Target) -> list[Tensor]:
        """What each term must know of a batch, to be added up over ranks or batches."""
        found = scored(logits, target)
        return [term.sums(found, target) for term in self._terms.values()]

    def terms(self, sums: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Each term (terms,), in the order of `weights`."""
        parts = zip(self._terms.values(), sums, weight, strict=True)
        return torch.stack([term.loss(s, w) for term, s, w in parts])

    def factors(self, epoch: int) -> list[float]:
        """The weight of each term in an epoch, counted from 0."""
        return [weight * self._risen(name, epoch) for name, weight in self.weights.items()]

    def combine(self, terms: Tensor, epoch: int) -> Tensor:
        """The loss: terms (terms,) by their weights in an epoch, a scalar."""
        parts = [factor * term for factor, term in zip(self.factors(epoch), terms, strict=True)]
        return torch.stack(parts).sum()  # a tensor of factors would make the CPU wait for the GPU

    def _risen(self, name: str, epoch: int) -> float:
        over = self.ramp.get(name, 0)
        return min(1.0, self.ramp_from + (1 - self.ramp_from) * epoch / over) if over else 1.0


def _total(error: Tensor) -> Tensor:
    """Sum over a batch (1,): of single precision within an image only."""
    return error.sum(dim=(1, 2)).double().sum()[None]


def _by_class(value: Tensor) -> Tensor:
    """Sums (C,) of (N, C, H, W)."""
    return value.sum(dim=(2, 3)).double().sum(dim=0)


def _dilate(value: Tensor, window: int) -> Tensor:
    """The largest value within a window around each pixel."""
    half = window // 2  # rows, then columns: w + w comparisons instead of w · w
    rows = functional.max_pool2d(value, (window, 1), stride=1, padding=(half, 0))
    return functional.max_pool2d(rows, (1, window), stride=1, padding=(0, half))


def _mean_over(value: Tensor, which: Tensor) -> Tensor:
    return (value * which).sum() / which.sum().clamp(min=1)
