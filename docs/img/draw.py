"""The drawings of docs/balance.md: `python docs/img/draw.py` (needs matplotlib)."""

from pathlib import Path

import matplotlib
import numpy as np

from glacier.classes import COLOURS
from glacier.pipeline.augment import Augment, matrices

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import Polygon, Rectangle

HERE = Path(__file__).parent
INK, FAINT, MARK = "#20242b", "#9aa3ae", "#d8304a"


def order() -> None:
    """Windows end to end by kind, sampled at equal distances, shuffled, and shared out."""
    rng = np.random.default_rng(4)
    names = ("background", "glacier", "debris", "lake")
    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    edges, colours = [0.0], []
    for name, total, count in zip(names, (10, 35, 40, 15), (9, 8, 9, 3), strict=True):
        width = rng.dirichlet(np.ones(count) * 3) * total
        edges += (edges[-1] + np.cumsum(width)).tolist()
        colours += [COLOURS[name]] * count
    for start, stop, colour in zip(edges, edges[1:], colours, strict=False):
        axes.add_patch(Rectangle((start, 3), stop - start, 0.8, color=colour, ec="white", lw=1.2))
    points = 2.1 + np.arange(24) * 100 / 24
    drawn = [colours[int(np.searchsorted(edges, p, "right")) - 1] for p in points]
    axes.vlines(points, 2.75, 4.0, color=MARK, lw=1.4)
    places = np.argsort(rng.permutation(24))
    for index, (point, place) in enumerate(zip(points, places, strict=True)):
        x = 2 + place * 4 + (place // 6) * 0.6
        axes.plot([point, x + 1.6], [2.72, 1.95], color=FAINT, lw=0.6)
        axes.add_patch(Rectangle((x, 1.2), 3.2, 0.7, color=drawn[index]))
    for step in range(4):
        left = 2 + step * 24.6
        axes.text(left + 11.6, 0.15, f"step {step}", ha="center", fontsize=9, color=INK)
        for rank in range(2):
            axes.plot([left + rank * 12, left + rank * 12 + 11.2], [1.02] * 2, color=INK, lw=1.5)
            axes.text(left + rank * 12 + 5.6, 0.6, f"rank {rank}", ha="center", fontsize=8, color=INK)
    words = "windows by kind, each as long as its weight; samples at equal distances from a random start"
    axes.text(0, 4.15, words, fontsize=9, color=INK)
    axes.text(0, 2.1, "shuffled", fontsize=9, color=INK)
    axes.set(xlim=(-0.5, 101), ylim=(0, 4.6))
    axes.axis("off")
    figure.savefig(HERE / "order.png", dpi=120)
    pyplot.close(figure)


def matrix() -> None:
    """Where the matrix of one sample takes the output's pixels."""
    sample = np.zeros(1, [("y", "i4"), ("x", "i4"), ("key", "u8")])
    sample["y"], sample["x"], sample["key"] = 5, 6, 3
    (m,) = matrices(sample, Augment("affine", rotate=35, scale=0.2, shift=0.05), 8)
    figure, (output, tile) = pyplot.subplots(
        1, 2, figsize=(9, 4.6), layout="constrained", width_ratios=[1, 2]
    )
    for axes, size, title in (
        (output, 8, "output window, 8 px"),
        (tile, 20, "what was read: a tile, 20 px"),
    ):
        for line in range(size + 1):
            axes.plot([0, size], [line] * 2, color=FAINT, lw=0.5)
            axes.plot([line] * 2, [0, size], color=FAINT, lw=0.5)
        axes.set(xlim=(-0.6, size + 0.6), ylim=(size + 0.6, -0.6), aspect="equal", title=title)
        axes.axis("off")
    y, x = np.mgrid[:8, :8] + 0.5
    output.plot(x, y, ".", color=INK, ms=3)
    seen = m[:, :2] @ np.stack((x.ravel(), y.ravel())) + m[:, 2:]
    tile.plot(*seen, ".", color=INK, ms=3)
    corners = m[:, :2] @ np.array([[0, 8, 8, 0], [0, 0, 8, 8]]) + m[:, 2:]
    tile.add_patch(Polygon(corners.T, fill=False, ec=MARK, lw=1.6))
    tile.add_patch(Rectangle((6, 5), 8, 8, fill=False, ec="#2b7bba", lw=1.2, ls="--"))
    tile.text(1, 4.5, "the sample's window:\nx = 6, y = 5", color="#2b7bba", fontsize=8)
    at = m[:, :2] @ np.array([0.5, 0.5]) + m[:, 2]
    for axes, (column, row), words in (
        (output, (0.5, 0.5), "centre of the\nfirst pixel:\n(0.5, 0.5)"),
        (tile, at, f"({at[0]:.2f}, {at[1]:.2f})"),
    ):
        axes.plot(column, row, "o", color=MARK, ms=6)
        axes.annotate(words, (column, row), (10, -8), textcoords="offset points", color=MARK, fontsize=8,
                      va="top", bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
    rows = "\n".join("[" + "  ".join(f"{value:6.2f}" for value in row) + "]" for row in m)
    output.text(
        0, 9.2, f"(x, y) in the tile = M · (x, y, 1)\n\n{rows}", family="monospace", fontsize=8, va="top"
    )
    output.set_ylim(13, -0.6)
    figure.savefig(HERE / "matrix.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    order()
    matrix()
