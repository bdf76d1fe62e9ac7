"""The reliability diagram (Guo et al., 2017): how often a map is right where it says how sure it is."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from glacier.model.calibration import BINS
from glacier.train.svg import INK, SERIES, STYLE, inline

SIZE = (4.6, 4.4)
AFTER, BEFORE = SERIES[:2]
FLOOR = 0.5
"""Where the logarithmic axis of pixels begins."""


def diagram(before: NDArray[np.float64], after: NDArray[np.float64], name: str) -> str:
    """Two reliability tables (3, BINS) as one SVG to stand within HTML; its ids begin with `name`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        _curves(above, before, after)
        _bars(below, before, after)
        return inline(figure, name)


def points(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean confidence and accuracy of each bin (BINS,); NaN where a bin holds no pixel."""
    pixels, right, confidence = table
    with np.errstate(invalid="ignore"):
        return confidence / pixels, right / pixels


def _curves(ax: Axes, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    ax.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=(0, (2, 3)), alpha=0.5)
    for table, colour in ((before, BEFORE), (after, AFTER)):
        ax.plot(*points(table), "o-", color=colour, markersize=4.5)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("accuracy", color=INK)
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _bars(ax: Axes, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    for place, (table, colour) in enumerate(((before, BEFORE), (after, AFTER))):
        pixels = table[0]
        held = pixels.nonzero()[0]
        left = (held + 0.1 + 0.4 * place) / BINS
        ax.bar(left, pixels[held] - FLOOR, 0.4 / BINS, FLOOR, align="edge", color=colour)
    ax.set_ylim(FLOOR, 2 * max(10.0, before[0].max(), after[0].max()))
    ax.set_yscale("log")
    ax.set_xlim(0, 1.01)
    ax.set_ylabel("pixels", color=INK)
    ax.set_xlabel("confidence", color=INK)
    ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
