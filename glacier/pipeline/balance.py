"""The weights closest to uniform whose expected mix of pixels is a target: maximum entropy.

m_i are the pixels by class of window i, as shares of its area; M = Σ w_i m_i is what samples show, and S,
its sum over classes, how much of it is labelled. The weights w_i = min(cap, exp(λ · m_i + ν)) maximise

    entropy(w) − KL(target ‖ M / S) / ρ    over    Σ w = 1, w ≤ cap.

For small ρ they reach the target where any weights do, and come as near to it as any where none does. A
divergence and not a distance, so that a rare class which cannot be had at the share asked for is not given
up for the others. For some value S', log S is replaced by the line that touches it there; λ and ν are then
the minimum of the convex dual

    Σ φ(λ · m_i + ν) − ν − Σ_c (τ_c / ρ) log(1 + ρ λ_c),   φ' = min(cap, exp),   τ = S' · target

(Boyd and Vandenberghe, 2004, chapter 5), found by Newton's method, and there M_c = τ_c / (1 + ρ λ_c). S' is
set to the S found until it stays: each round comes nearer (majorisation; Hunter and Lange, 2004).
"""

from dataclasses import dataclass, replace
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from glacier.pipeline.windows import Windows

RHO = 3e-4
STEPS = 1000
CLOSE = 1e-16
"""Newton's decrement (twice the distance to the minimum) from which one more step is the last."""
SLACK = 1e-13
"""How much of its size a value may rise by rounding."""
ROUNDS, STILL = 20, 1e-3
"""Most rounds for the labelled share, and the change of it, as a share, that is none."""
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
    """λ (class,), to be multiplied by a window's pixels as shares of its area."""
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


def solve(windows: Windows, count: int, target: Vector, labelled: float, cap: float) -> Tilt:
    """The tilt whose expected mix is `target`, or the nearest to it.

    Args:
        windows: the candidates.
        count: how many of them are eligible.
        target: share of pixels by class (class,), of sum 1; 0 for those that no window shows alone.
        labelled: mean share of a window's area that is labelled.
        cap: most weight of a window; more than that of uniform weights.
    """
    at, _ = _find(windows, count, target, labelled, cap)
    return Tilt(np.round(at[:-1], DIGITS), float(np.round(at[-1], DIGITS)), cap)


def _find(
    windows: Windows, count: int, target: Vector, labelled: float, cap: float
) -> tuple[Vector, float]:
    """λ and ν (class + 1,), and the labelled share they come to.

    Of many tiles, from where they lie for some of them; of those, from where they lie for larger ρ, since a
    target out of reach makes all weights 0 or `cap`, and Newton's method loses its way among them.
    """
    tiles = windows.tiles
    at, rhos = np.append(np.zeros(len(target)), -log(count)), [100 * RHO, 10 * RHO, RHO]
    if len(tiles) >= 4 * FEW:
        part = replace(windows, tiles=tiles[:: len(tiles) // FEW])
        shown, some = part.totals()
        if (shown > 0)[target > 0].all():  # else what the part lacks would be worth any price there
            ratio = count / some
            at, labelled = _find(part, some, target, labelled, min(1.0, cap * ratio))
            rhos = [RHO]
            at[-1] -= log(ratio)
    for rho in rhos:
        for _ in range(ROUNDS):
            at = _minimise(_Dual(windows, target * labelled, cap, rho), at)
            found = float((target * labelled / (1 + rho * at[:-1])).sum())
            settled = abs(found - labelled) < STILL * labelled
            labelled = found
            if settled:
                break
    return at, labelled


class _Dual:
    """The dual at (λ, ν) (class + 1,): its value, gradient and Hessian, in one pass over the windows."""

    def __init__(self, windows: Windows, wanted: Vector, cap: float, rho: float) -> None:
        self.windows, self.wanted, self.cap, self.rho = windows, wanted, log(cap), rho

    def __call__(self, at: Vector) -> tuple[float, Vector, NDArray[np.float64]]:
        size, inside = len(at), 1 + self.rho * at[:-1]
        if (inside <= 0).any():
            return inf, np.zeros(size), np.eye(size)
        value, gradient, hessian = -at[-1], np.zeros(size), np.zeros((size, size))
        for part in self.windows.each(lambda shares: self._sums(shares, at[:-1], at[-1])):
            value, gradient, hessian = value + part[0], gradient + part[1], hessian + part[2]
        value -= float((self.wanted / self.rho * np.log(inside)).sum())
        gradient -= np.append(self.wanted / inside, 1)
        hessian[np.arange(size - 1), np.arange(size - 1)] += self.wanted * self.rho / inside**2
        return float(value), gradient, hessian

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
