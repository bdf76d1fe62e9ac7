"""What an order is drawn from: windows of tiles, weighted so that classes are seen in the mix asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from glacier.errors import GlacierError, UsageError
from glacier.pipeline.balance import Tilt, solve, uniform
from glacier.pipeline.windows import Windows

PARTS = 2**38
"""Weights are counted in whole parts of this many: sums of them are exact, in any order."""
BINS = 4096
"""At most so many kinds of windows are told apart by their mix, for samples to be shared out evenly."""
DIGITS = 4
"""At most so many classes tell kinds apart."""

RAREST = 1e-4
"""Least share that is aimed at: else one of 0 would be worth any price."""
NEAR = 0.01
"""A class's share this far from the target is remarked upon."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Balance:
    """Which mix of pixels samples should have, and how far that may go."""

    target: Mapping[str, float] = field(default_factory=dict)
    """Class -> share of the labelled pixels; empty: all windows are equally likely."""
    repeats: float = 8.0
    """How often a window may be drawn in an epoch, at most."""
    min_labelled: float = 0.05
    """Share of a window's area that must be labelled."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: one is out of range.
        """
        plain = {name: float(share) for name, share in self.target.items()}
        object.__setattr__(self, "target", plain)
        for name, share in plain.items():
            if not 0 <= share <= 1e6:
                raise UsageError(f"data.target: {name} = {share}, expected a share, as in debris = 0.4")
        if self.target and not sum(self.target.values()) > 0:
            raise UsageError("data.target: all shares are 0, expected one above")
        if not self.repeats >= 1:
            raise UsageError(f"data.repeats: {self.repeats}, expected at least 1")
        if not 0 <= self.min_labelled <= 1:
            raise UsageError(f"data.min_labelled: {self.min_labelled}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class Plan:
    """Weighted windows, kept as sums by chunk of tiles and kind of window."""

    windows: Windows
    tilt: Tilt
    digits: tuple[int, ...]
    """The classes whose pixels tell kinds apart."""
    parts: NDArray[np.int64]
    """Weight by chunk and kind (chunk, kind), in `PARTS`."""
    natural: Vector
    """Share of pixels by class where all windows are equally likely (class,)."""
    reached: Vector
    """Expected share of the samples' pixels by class (class,)."""
    count: int
    """Windows that may be drawn."""
    effective: float
    """1 / Σ w²: as many windows, equally likely, would repeat as often."""
    most: float
    """Largest weight of a window."""

    def words(self, names: Sequence[str]) -> str:
        """The mix, in a line."""
        shares = ", ".join(
            f"{name} {100 * share:.3g} % (tiles: {100 * natural:.3g} %)"
            for name, share, natural in zip(names, self.reached, self.natural, strict=True)
        )
        return f"mix of pixels: {shares}; {self.effective:,.0f} of {self.count:,} windows effective"

    def warnings(self, names: Sequence[str], target: Mapping[str, float]) -> list[str]:
        """What of a target cannot be had."""
        wanted, absent = resolve_target(target, names, self.natural)
        found = []
        if absent:
            found.append(f"data.target: no {', no '.join(absent)} in the training tiles; left out of it")
        if abs(self.reached - wanted).max() > NEAR:
            found.append(
                "data.target: out of reach of these windows, the nearest mix is taken; larger data.repeats "
                "or smaller data.patch or train.samples_per_epoch bring it nearer"
            )
        return found

    def weigh(self, chunk: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Weight, in `PARTS`, and kind of each window of a chunk (n,), (n,)."""
        return _weigh(self.windows, self.tilt, self.digits, self.windows.masses(chunk))[:2]


def make_plan(
    windows: Windows, names: Sequence[str], balance: Balance, samples: int, ease: float = 0.0
) -> Plan:
    """Weigh windows.

    Args:
        windows: the candidates.
        names: of the classes.
        balance: the mix asked for.
        samples: how many an epoch draws, which is what repeats are counted in.
        ease: from 0, the target, to 1, the mix of windows that are equally likely.

    Raises:
        UsageError: a target that does not name the classes there are.
        GlacierError: no window holds a labelled pixel, or enough of them.
    """
    # The matrices are small: threads of the linear algebra library's own get into each other's way.
    with threadpool_limits(1, "blas"):
        return _make_plan(windows, names, balance, samples, ease)


def _make_plan(windows: Windows, names: Sequence[str], balance: Balance, samples: int, ease: float) -> Plan:
    total, count = windows.totals()
    if not count:
        least = f"at least {windows.least:.0%} labelled pixels" if windows.least else "a labelled pixel"
        raise GlacierError(
            f"no window of {windows.patch} px with {least} in the {len(windows.tiles)} tiles to train on; "
            "expected some; lower data.min_labelled or data.patch"
        )
    natural = total / total.sum()
    tilt = uniform(count, len(names))
    wanted = natural
    if balance.target and ease < 1:
        wanted = (1 - ease) * resolve_target(balance.target, names, natural)[0] + ease * natural
        cap = min(1.0, max(balance.repeats, samples / count) / samples)
        if cap * count > 1 + 1e-4:  # else every window must take all it may
            soft = np.where(natural > 0, np.maximum(wanted, RAREST), 0)
            tilt = solve(windows, count, soft / soft.sum(), float(total.sum()) / count, cap)
    return _sum_up(
        windows, tilt, tuple(np.argsort(-wanted, kind="stable")[:DIGITS].tolist()), natural, count
    )


def resolve_target(
    target: Mapping[str, float], names: Sequence[str], natural: Vector
) -> tuple[Vector, list[str]]:
    """Shares by class (class,), of sum 1, and the classes asked for that no window shows.

    Raises:
        UsageError: a class that windows show is not in the target.
    """
    present = {name for name, share in zip(names, natural, strict=True) if share > 0}
    absent = [name for name in target if name not in present]
    if missing := sorted(present - set(target), key=list(names).index):
        raise UsageError(
            f"data.target: no share for {', '.join(missing)}; it names {', '.join(target)}, expected every "
            f"class there is: {', '.join(n for n in names if n in present)}"
        )
    shares = np.array([target[name] if name in present else 0.0 for name in names])
    if not shares.sum():
        raise UsageError("data.target: the shares of the classes that there are are 0, expected one above")
    return shares / shares.sum(), absent


def _weigh(
    windows: Windows, tilt: Tilt, digits: tuple[int, ...], masses: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Weight, in `PARTS`, kind, and shares by class of windows (n,), (n,), (n, class)."""
    shares = windows.as_shares(masses)
    weight = np.where(windows.eligible(masses), np.rint(tilt.weights(shares) * PARTS), 0)
    levels = kinds_per_class(len(digits))
    kind: NDArray[np.int64] = np.zeros(len(shares), np.int64)
    for digit in digits:
        level = (np.sqrt(shares[:, digit]) * levels).astype(np.int64).clip(0, levels - 1)
        kind = kind * levels + np.where(kind % 2, levels - 1 - level, level)  # neighbours stay alike
    return weight.astype(np.int64), kind, shares


def kinds_per_class(classes: int) -> int:
    """How many levels of its share tell windows apart by each of `classes` classes."""
    return int(BINS ** (1 / classes) + 1e-9)


def _sum_up(windows: Windows, tilt: Tilt, digits: tuple[int, ...], natural: Vector, count: int) -> Plan:
    """One more pass, for the sums that a plan keeps."""
    parts = np.zeros((windows.chunks, kinds_per_class(len(digits)) ** len(digits)), np.int64)
    mix, square, most = np.zeros(len(natural)), 0.0, 0
    for chunk in range(windows.chunks):
        weight, kind, shares = _weigh(windows, tilt, digits, windows.masses(chunk))
        np.add.at(parts[chunk], kind, weight)
        real = weight.astype(np.float64)
        mix += real @ shares
        square += float(real @ real)
        most = max(most, int(weight.max()))
    total = float(parts.sum())
    return Plan(
        windows, tilt, digits, parts, natural, mix / mix.sum(), count, total**2 / square, most / total
    )
