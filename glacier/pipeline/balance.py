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
RAREST = 1e-3
"""A smaller share than this is missed no more dearly: else one of 0 would be worth any price."""
STEPS = 1000
CLOSE = 1e-16
"""Newton's decrement (twice the distance to the minimum) from which one more step is the last."""
SLACK = 1e-13
"""How much of its size a value may rise by rounding."""
TINY, LEAST = 1e-14, 1e-6
"""Damping that no step goes without, and the least that is tried where a step does not descend."""
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

    def weights(self, shares: NDArray[np.float64]) -> Vector:
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
    """λ and ν (class + 1,).

    Of many tiles, from where they lie for some of them; of those, from where they lie for larger ρ, since a
    target out of reach makes all weights 0 or `cap`, and Newton's method lose its way among them.
    """
    count, tiles = windows.count(), windows.tiles
    if len(tiles) < 4 * FEW:
        at = np.append(np.zeros(len(target)), -log(count))
        for rho in (100 * RHO, 10 * RHO, RHO):
            at = _minimise(_Dual(windows, target, labelled, cap, rho), at)
        return at
    part = replace(windows, tiles=tiles[:: len(tiles) // FEW])
    ratio = count / part.count()
    at = _find(part, target, labelled, min(1.0, cap * ratio))
    at[-1] -= log(ratio)
    return _minimise(_Dual(windows, target, labelled, cap, RHO), at)


class _Dual:
    """The dual at (λ, ν) (class + 1,): its value, gradient and Hessian, in one pass over the windows."""

    def __init__(self, windows: Windows, target: Vector, labelled: float, cap: float, rho: float) -> None:
        self.windows, self.target, self.labelled = windows, target, labelled
        self.soft = np.maximum(target, RAREST)
        self.cap, self.rho = log(cap), rho

    def __call__(self, at: Vector) -> tuple[float, Vector, NDArray[np.float64]]:
        size, target = len(at), self.target
        z = -self.rho * self.labelled * at[:-1]
        if (z >= 1).any():
            return inf, np.zeros(size), np.eye(size)
        distance = np.eye(size)  # (m, 1) -> (d, 1)
        distance[:-1, :-1] -= np.outer(np.ones(size - 1), target)
        slope, level = at[:-1] - at[:-1] @ target, at[-1]
        value, first, second = -level, np.zeros(size), np.zeros((size, size))
        for part in self.windows.each(lambda shares: self._sums(shares, slope, level)):
            value, first, second = value + part[0], first + part[1], second + part[2]
        gradient, hessian = distance.T @ first, distance.T @ second @ distance
        value -= float((self.soft / self.rho * (z + np.log1p(-z))).sum())
        gradient[-1] -= 1
        gradient[:-1] -= self.soft * self.labelled * z / (1 - z)
        curved = self.soft * self.rho * (self.labelled / (1 - z)) ** 2
        hessian[np.arange(size - 1), np.arange(size - 1)] += curved
        return value, gradient, hessian

    def _sums(
        self, shares: NDArray[np.float64], slope: Vector, level: float
    ) -> tuple[float, Vector, NDArray[np.float64]]:
        """Σ φ over some windows (n, class), and Σ φ' and Σ φ'' of their features (m, 1)."""
        exponent = shares @ slope + level
        beyond = np.maximum(exponent - self.cap, 0)
        weight = np.exp(exponent - beyond)
        value = weight.sum() + np.exp(self.cap) * beyond.sum()
        features = np.column_stack((shares, np.ones(len(shares))))
        curved = features * np.where(beyond > 0, 0, weight)[:, None]
        return float(value), weight @ features, features.T @ curved


def _minimise(dual: _Dual, at: Vector) -> Vector:
    """Newton's method from `at`, damped where it must be (Levenberg, 1944; Marquardt, 1963)."""
    value, gradient, hessian = dual(at)
    damping = 0.0
    for _ in range(STEPS):
        curvature = np.diag(hessian)
        scale = np.append(np.where(curvature > 0, curvature, 1.0)[:-1], 1.0)
        step = -np.linalg.solve(hessian + np.diag((damping + TINY) * scale), gradient)
        if not damping and -gradient @ step < CLOSE:
            return np.asarray(at + step)
        found = dual(at + step)
        if found[0] <= value + SLACK * abs(value):
            at = at + step
            value, gradient, hessian = found
            damping = 0.0 if damping < LEAST else damping / 10
        else:
            damping = max(LEAST, 10 * damping)
    return at
