"""The weights closest to uniform whose expected mix of pixels is a target: maximum entropy.

Of a window i, m_i are the pixels by class as shares of its area, and d_i = m_i − target · Σ m_i is what it
adds to the distance from the target. The weights w_i = min(cap, exp(λ · d_i + ν)) maximise

    entropy(w) − KL(target ‖ target + E[d] / S) / ρ    over    Σ w = 1, w ≤ cap,

where S is the mean of Σ m_i: for small ρ they reach the target where any weights do, and come as near to it
as any where none does. A divergence and not a distance, so that a rare class which cannot be had at the
share asked for is not given up for the others. λ and ν are the minimum of the convex dual

    Σ φ(λ · d_i + ν) − ν − Σ (target / ρ) (z + log(1 − z)),   φ' = min(cap, exp),   z = −ρ S λ

(Boyd and Vandenberghe, 2004, chapter 5), found by Newton's method.
"""

from dataclasses import dataclass, replace
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from glacier.pipeline.windows import Windows

RHO = 3e-4
STEPS = 200
CLOSE = 1e-16
"""Newton's decrement (twice the distance to the minimum) from which one more step is the last."""
SLACK = 1e-12
"""How much a value may rise by rounding."""
DIGITS = 7
"""Decimals that are kept of λ and ν: the same on every machine, whatever its rounding."""
FEW = 8192
"""Tiles on which the minimum is looked for first where there are many more."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tilt:
    """What weights windows."""

    slope: Vector
    """λ − λ · target (class,), to be multiplied by a window's pixels as shares of its area."""
    level: float
    """ν"""
    cap: float
    """Most weight of a window; 1 for no cap."""

    def weights(self, shares: NDArray[np.floating]) -> Vector:
        """Weights of windows (n,) from pixels by class as shares of their area (n, class)."""
        return np.minimum(self.cap, np.exp(np.minimum(shares @ self.slope + self.level, 0.0)))


def uniform(count: int, classes: int) -> Tilt:
    """The tilt of `count` windows that are equally likely."""
    return Tilt(np.zeros(classes), -log(count), 1.0)


def solve(windows: Windows, target: Vector, labelled: float, cap: float) -> Tilt:
    """The tilt whose expected mix is `target`, or the nearest to it.

    Args:
        windows: the candidates.
        target: share of pixels by class (class,), positive or 0, of sum 1.
        labelled: mean share of a window's area that is labelled.
        cap: most weight of a window; more than that of uniform weights.
    """
    at = _find(windows, target, labelled, cap)
    slope = np.round(at[:-1] - at[:-1] @ target, DIGITS)
    return Tilt(slope, float(np.round(at[-1], DIGITS)), cap)


def _find(windows: Windows, target: Vector, labelled: float, cap: float) -> Vector:
    """λ and ν (class + 1,); of many tiles, from where they lie for some of them."""
    count, tiles = windows.count(), windows.tiles
    at = np.append(np.zeros(len(target)), -log(count))
    if len(tiles) >= 4 * FEW:
        part = replace(windows, tiles=tiles[:: len(tiles) // FEW])
        ratio = count / part.count()
        at = _find(part, target, labelled, min(1.0, cap * ratio))
        at[-1] -= log(ratio)
    return _minimise(_Dual(windows, target, labelled, cap), at)


class _Dual:
    """The dual at (λ, ν) (class + 1,): its value, gradient and Hessian, in one pass over the windows."""

    def __init__(self, windows: Windows, target: Vector, labelled: float, cap: float) -> None:
        self.windows, self.target, self.labelled, self.cap = windows, target, labelled, log(cap)

    def __call__(self, at: Vector) -> tuple[float, Vector, NDArray[np.float64]]:
        size, target = len(at), self.target
        z = -RHO * self.labelled * at[:-1]
        if (z >= 1).any():
            return inf, np.zeros(size), np.eye(size)
        distance = np.eye(size)  # (m, 1) -> (d, 1)
        distance[:-1, :-1] -= np.outer(np.ones(size - 1), target)
        slope, level = at[:-1] - at[:-1] @ target, at[-1]
        value, first, second = -level, np.zeros(size), np.zeros((size, size))
        for shares in self.windows.shares():
            exponent = shares @ slope + level
            beyond = np.maximum(exponent - self.cap, 0)
            weight = np.exp(exponent - beyond)
            value += float((weight + np.exp(self.cap) * beyond).sum())
            features = np.column_stack((shares, np.ones(len(shares))))
            first += weight @ features
            second += features.T @ (features * np.where(beyond > 0, 0, weight)[:, None])
        gradient, hessian = distance.T @ first, distance.T @ second @ distance
        value -= float((target / RHO * (z + np.log1p(-z))).sum())
        gradient[-1] -= 1
        gradient[:-1] -= target * self.labelled * z / (1 - z)
        hessian[np.arange(size - 1), np.arange(size - 1)] += target * RHO * (self.labelled / (1 - z)) ** 2
        return value, gradient, hessian


def _minimise(dual: _Dual, at: Vector) -> Vector:
    """Newton's method with backtracking, from `at`."""
    value, gradient, hessian = dual(at)
    for _ in range(STEPS):
        step = -np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
        decrement = -gradient @ step
        if decrement < CLOSE:
            return np.asarray(at + step)
        size = 1.0
        while (found := dual(at + size * step))[0] > value - size * decrement / 1e4 + SLACK and size > 1e-9:
            size /= 2
        at = at + size * step
        value, gradient, hessian = found
    return at
