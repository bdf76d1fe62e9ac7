"""Grey-level co-occurrence texture (Haralick et al., 1973) of every pixel's window, by array code.

The same lines run on NumPy and on CuPy arrays: every function is taken from the array's own module.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""A NumPy array, or a CuPy array."""
Table = NDArray[np.float64]

ANGLES = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Offsets (rows, columns) of a pixel pair at 0, 135, 90 and 45 degrees, distance 1 px."""

FEATURES = ("contrast", "dissimilarity", "homogeneity", "correlation", "asm", "energy", "entropy")
COUNTED: dict[str, Callable[[Table, Table], Table]] = {
    "asm": lambda times, entries: times**2 / entries,
    "energy": lambda times, entries: times**2 / entries,
    "entropy": lambda times, entries: times * np.log(times / entries),
}
"""Features that need to know how often each pair of grey levels occurs, and what they sum of it."""

AT_ONCE = 2**22
"""Pairs sorted at once, each 4 bytes: what limits memory for large windows."""


def grey_levels(band: Array, low: float, high: float, levels: int) -> Array:
    """Grey levels 0 … `levels` - 1 of equal width between `low` and `high`, and -1 where `band` is NaN.

    Args:
        band: floats (H, W); what lies beyond the range takes its nearest level.
        low, high: the range, in the band's unit.

    Returns:
        (H, W) int32
    """
    xp = _module(band)
    scaled = ((band - low) * (levels / (high - low))).clip(0, levels - 1)
    levelled: Array = xp.where(xp.isnan(scaled), -1, scaled).astype(xp.int32)
    return levelled


def texture(grey: Array, names: tuple[str, ...], *, levels: int, window: int) -> dict[str, Array]:
    """Features of the co-occurrence matrices of each pixel's window, averaged over four angles.

    Equal to those of scikit-image's `graycomatrix(…, [1], angles, symmetric=True)` of each window by
    itself: only pairs whose pixels both lie in the window count, and both hold data. No matrix is
    built: contrast, dissimilarity and homogeneity are means over pairs of a function of their
    difference, correlation follows from sums of products, the others from sorted pairs.

    Args:
        grey: (H, W) grey levels as of `grey_levels`, -1 for no data.
        names: of `FEATURES`.
        levels: how many grey levels there are, at most 16384.
        window: side of the square window, px, odd; at the edge, what of it lies inside.

    Returns:
        By name (H, W) float32: the mean over the angles that have pairs; NaN where the window has
        none or its centre is no data.
    """
    xp = _module(grey)
    around = xp.pad(grey, window // 2, constant_values=-1)
    angles = xp.zeros(grey.shape, xp.float32)
    total = {name: xp.zeros(grey.shape, xp.float32) for name in names}
    for down, right in ANGLES:
        first, second = _pairs(around, down, right)
        box = (window - down, window - abs(right))
        both = (first >= 0) & (second >= 0)
        count = _box(both.astype(xp.float32), box)
        some = count > 0
        angles += some
        count = xp.maximum(count, 1)
        for name, value in _features(names, first, second, both, count, box, levels):
            total[name] += xp.where(some, value, 0)
    angles[(angles == 0) | (grey < 0)] = math.nan
    return {name: values / angles for name, values in total.items()}


def _module(array: Array) -> Any:
    """The module whose functions take this array: numpy or cupy."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _pairs(grey: Array, down: int, right: int) -> tuple[Array, Array]:
    """The two pixels of every pair at an offset, each (H - down, W - |right|)."""
    height, width = grey.shape
    left, back = max(right, 0), max(-right, 0)
    return (
        grey[: height - down, back : width - left],
        grey[down:, left : width - back],
    )


def _box(values: Array, size: tuple[int, int]) -> Array:
    """Sums over all boxes of `size` that lie within (H, W)."""
    return _sums(_sums(values, size[0]).T, size[1]).T


def _sums(values: Array, size: int) -> Array:
    """Sums of `size` neighbours along the first axis, by halves."""
    if size == 1:
        return values
    part = _sums(values, size // 2)
    even = part[: -(size // 2)] + part[size // 2 :]
    return even[:-1] + values[size - 1 :] if size % 2 else even


def _features(
    names: tuple[str, ...], first: Array, second: Array, both: Array, count: Array,
    box: tuple[int, int], levels: int,
) -> Iterator[tuple[str, Array]]:  # fmt: skip
    """Each feature at one angle.

    Args:
        first, second: grey levels of the pixels of each pair.
        both: where both hold data.
        count: pairs per window (H, W), at least 1.
        box: how many pairs a window holds, down and across.
    """
    xp = _module(first)
    apart = (second - first).astype(xp.float32)
    squared = apart * apart
    if "contrast" in names:
        yield "contrast", _box(squared * both, box) / count
    if "dissimilarity" in names:
        yield "dissimilarity", _box(abs(apart) * both, box) / count
    if "homogeneity" in names:
        yield "homogeneity", _box(both / (1 + squared), box) / count
    if "correlation" in names:
        yield "correlation", _correlation(first, second, both, count, box)
    counted = [name for name in names if name in COUNTED]
    if counted:
        lower, higher = xp.minimum(first, second), xp.maximum(first, second)
        codes = xp.where(both, 2 * (lower * levels + higher) + (lower == higher), -1)
        sums = _over_codes(codes, box, count, [COUNTED[name] for name in counted])
        for name, value in zip(counted, sums, strict=True):
            match name:
                case "asm":
                    yield name, value / count**2
                case "energy":
                    yield name, xp.sqrt(value) / count
                case "entropy":
                    yield name, xp.log(count) - value / count


def _correlation(first: Array, second: Array, both: Array, count: Array, box: tuple[int, int]) -> Array:
    """Correlation of the grey levels of pairs, each taken both ways round; 1 where all are equal."""
    xp = _module(first)
    first, second = (xp.where(both, grey, 0).astype(xp.float64) for grey in (first, second))
    total = _box(first + second, box)
    squares = _box(first**2 + second**2, box)
    products = _box(first * second, box)
    spread = 2 * count * squares - total**2  # of whole numbers, and so exact
    shared = 4 * count * products - total**2  # 0 where spread is
    correlation: Array = shared / xp.maximum(spread, 1) + (spread == 0)
    return correlation


def _over_codes(
    codes: Array, box: tuple[int, int], count: Array, functions: list[Callable[[Table, Table], Table]]
) -> list[Array]:
    """For each window the sum over the codes in it of a function of how often each occurs.

    Sorting a window's codes makes a run of each; its function grows along the run by known steps.

    Args:
        codes: of each pair; odd where its pixels are equal, and where it is none, -1.
        count: pairs per window (H, W), at least 1.
        functions: of times > 0 and of the matrix's entries that a pair adds to, 1 or 2.

    Returns:
        For each function (H, W) float64.
    """
    xp = _module(codes)
    (down, across), (height, width) = box, count.shape
    times, entries = np.arange(1.0, down * across + 1)[:, None], np.array([2, 1])
    tables = [np.vstack([np.zeros((1, 2)), function(times, entries)]) for function in functions]
    steps = [xp.asarray(np.diff(table, axis=0, prepend=0).ravel()) for table in tables]
    sums = [xp.zeros((height, width)) for _ in functions]
    rows = max(1, AT_ONCE // (down * across * width))
    for top in range(0, height, rows):
        here = slice(top, min(top + rows, height))
        near = [codes[here.start + y : here.stop + y] for y in range(down)]
        stack = xp.stack([row[:, x : x + width] for row in near for x in range(across)])
        stack.sort(axis=0)
        run = xp.full(stack.shape[1:], 2, xp.int32)
        for code, before in zip(stack, (None, *stack[:-1]), strict=True):
            run = run if before is None else xp.where(code == before, run + 2, 2)
            for total, step in zip(sums, steps, strict=True):
                total[here] += step[run + (code & 1)]
    none = down * across - count.astype(xp.int32)
    return [total - xp.asarray(table[:, 1])[none] for total, table in zip(sums, tables, strict=True)]
