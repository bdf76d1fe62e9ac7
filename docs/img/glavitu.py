"""The drawing of docs/models.md: `python docs/img/glavitu.py` (needs matplotlib)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

HERE = Path(__file__).parent
INK, FAINT, MARK = "#20242b", "#9aa3ae", "#d8304a"
ROLES = {"optical": (4, "#2b7bba"), "thermal": (1, "#c8742f"), "texture": (2, "#7b9e3a")}
FIRST, SECOND, PLAIN = "#e3eef7", "#f8ebdf", "#f1f3f5"
LINE = 3.0
"""Height of the way from left to right."""


def box(axes: Axes, x: float, y: float, width: float, height: float, words: str, **style: object) -> None:
    """A rounded box around its centre's height, with words in it."""
    look = {"fc": "white", "ec": INK, "lw": 0.9, **style}
    shape = "round,pad=0,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch((x, y - height / 2), width, height, boxstyle=shape, **look))  # type: ignore[arg-type]
    axes.text(x + width / 2, y, words, ha="center", va="center", fontsize=9.5, color=INK, linespacing=1.35)


def arrow(axes: Axes, *points: tuple[float, float], colour: str = INK, dashes: str = "-") -> None:
    """A line along points, with a head at its end."""
    if len(points) > 2:
        axes.plot(*zip(*points[:-1], strict=True), color=colour, lw=1, ls=dashes, solid_capstyle="round")
    look = {"arrowstyle": "-|>,head_width=0.16,head_length=0.32", "color": colour, "lw": 1, "ls": dashes}
    axes.annotate("", points[-1], points[-2], arrowprops={**look, "shrinkA": 0, "shrinkB": 0})


def plus(axes: Axes, x: float) -> None:
    """A sum on the way."""
    axes.add_patch(Circle((x, LINE), 0.13, fc="white", ec=INK, lw=0.9, zorder=3))
    axes.text(x, LINE - 0.01, "+", ha="center", va="center", fontsize=9, color=INK, zorder=4)


def bands(axes: Axes) -> None:
    """Seven bands by role, and a branch for each role."""
    y = 4.45
    for role, (count, colour) in ROLES.items():
        top = y
        for _ in range(count):
            axes.add_patch(Rectangle((0.1, y - 0.2), 0.5, 0.2, fc=colour, ec="white", lw=1))
            y -= 0.24
        middle = (top + y + 0.04) / 2
        axes.text(0.35, top + 0.06, role, ha="center", fontsize=9.5, color=colour)
        arrow(axes, (0.68, middle), (1.1, middle))
        box(axes, 1.1, middle, 0.75, 0.5, "2 conv\n32", ec=colour)
        arrow(axes, (1.85, middle), (2.12, middle))
        y -= 0.52
    box(axes, 2.12, 3.02, 0.93, 3.1, "squeeze,\nexcite,\n1 × 1\nconv\n64", fc=PLAIN)


def overview(axes: Axes) -> None:
    """The first stage, and the head that is trained with it."""
    axes.add_patch(Rectangle((3.75, 1.75), 3.65, 2.85, fc=FIRST, ec="none"))
    words = "64 channels throughout; in a\nblock every token asks all others"
    axes.text(5.58, 2.35, words, fontsize=9.5, color=INK, ha="center", va="center", linespacing=1.35)
    axes.text(3.87, 4.38, "stage 1: the whole window", fontsize=10.5, color=INK, va="center")
    box(axes, 3.99, LINE + 0.55, 1.08, 0.95, "tokens,\n16 × 16 px,\n+ positions")
    box(axes, 5.24, LINE + 0.55, 0.94, 0.95, "12 blocks:\n4 heads,\nMLP 256")
    box(axes, 6.35, LINE + 0.55, 0.8, 0.95, "4 times\nconv,\n× 2")
    arrow(axes, (3.5, LINE), (3.9, LINE), (3.9, LINE + 0.55), (3.99, LINE + 0.55))
    arrow(axes, (5.07, LINE + 0.55), (5.24, LINE + 0.55))
    arrow(axes, (6.18, LINE + 0.55), (6.35, LINE + 0.55))
    arrow(axes, (7.15, LINE + 0.55), (7.6, LINE + 0.55), (7.6, LINE + 0.13))
    arrow(axes, (3.9, LINE), (7.47, LINE))
    plus(axes, 7.6)
    arrow(axes, (7.6, LINE - 0.13), (7.6, 1.32), colour=MARK, dashes="--")
    box(axes, 6.94, 1.05, 1.32, 0.56, "second head,\n1 × 1 conv", ec=MARK)
    axes.text(
        8.32, 1.05, "in training alone:\nits loss × loss.auxiliary", fontsize=9.5, color=MARK, va="center"
    )


def details(axes: Axes) -> None:
    """The second stage, a U of four levels."""
    axes.add_patch(Rectangle((7.95, 1.75), 3.05, 2.85, fc=SECOND, ec="none"))
    axes.text(8.07, 4.38, "stage 2: details", fontsize=10.5, color=INK, va="center")
    left, right, wide = 8.32, 10.66, 0.2
    arrow(axes, (7.73, LINE), (7.85, LINE), (7.85, 4.05), (left - wide, 4.05))
    for level, width in enumerate((64, 128, 256, 512)):
        y, half = 4.05 - 0.62 * level, 0.2
        step = 0.32 * level
        if level == 3:
            axes.add_patch(
                Rectangle((left + step - wide, y - half), 0.82, 2 * half, fc="white", ec=INK, lw=0.9)
            )
            axes.text(
                left + step - wide + 0.41, y, f"{width}", ha="center", va="center", fontsize=9.5, color=INK
            )
            break
        for x in (left + step, right - step):
            axes.add_patch(Rectangle((x - wide, y - half), 2 * wide, 2 * half, fc="white", ec=INK, lw=0.9))
            axes.text(x, y, f"{width}", ha="center", va="center", fontsize=9.5, color=INK)
        arrow(axes, (left + step + wide, y), (right - step - wide, y), colour=FAINT)
        arrow(axes, (left + step, y - half), (left + step, y - 0.62), (left + step + 0.32 - wide, y - 0.62))
        arrow(
            axes, (right - step - 0.32 + wide, y - 0.62), (right - step, y - 0.62), (right - step, y - half)
        )
    arrow(axes, (right + wide, 4.05), (11.2, 4.05), (11.2, LINE + 0.13))
    arrow(axes, (7.85, LINE), (7.85, 1.87), (11.2, 1.87), (11.2, LINE - 0.13))
    plus(axes, 11.2)


def main() -> None:
    """Draw it."""
    figure, axes = pyplot.subplots(figsize=(10.4, 4.4), layout="constrained")
    bands(axes)
    arrow(axes, (3.05, LINE), (3.24, LINE))
    plus(axes, 3.37)
    box(axes, 2.32, 0.85, 2.1, 0.56, "longitude, latitude,\nwith model.location", ls="--", ec=FAINT)
    arrow(axes, (3.37, 1.13), (3.37, LINE - 0.13), colour=FAINT, dashes="--")
    overview(axes)
    details(axes)
    arrow(axes, (11.33, LINE), (11.6, LINE))
    box(axes, 11.6, LINE, 0.75, 0.8, "head,\n1 × 1\nconv")
    arrow(axes, (12.35, LINE), (12.6, LINE))
    axes.text(12.65, LINE, "scores\nof each\nclass", fontsize=9.5, color=INK, va="center")
    axes.set(xlim=(0, 13.2), ylim=(0.5, 4.85))
    axes.axis("off")
    figure.savefig(HERE / "glavitu.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
