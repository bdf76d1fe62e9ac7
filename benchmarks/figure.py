"""The ladder and its peers as bars."""

from pathlib import Path
from typing import Any

import click

OWN, OTHER, FLOOR = "#2b7bba", "#b9c2cc", "#54606d"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG or SVG of one result of throughput.py."""
    try:
        import matplotlib
    except ImportError as error:
        raise click.ClickException("--figure needs matplotlib: pip install .[peers]") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(name, row, OWN) for name, row in result["rungs"].items() if name != "train"]
    rows += [(name, row, OTHER) for name, row in result["peers"].items()]
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(rows) + 1.4), layout="constrained")
    names = [name for name, _, _ in rows]
    middle = [row["tiles_per_s"] for _, row, _ in rows]
    below = [row["tiles_per_s"] - row["min"] for _, row, _ in rows]
    above = [row["max"] - row["tiles_per_s"] for _, row, _ in rows]
    axes.barh(names, middle, color=[colour for _, _, colour in rows], height=0.7)
    axes.errorbar(middle, names, xerr=[below, above], fmt="none", ecolor=FLOOR, capsize=2, linewidth=1)
    for name, value, most in zip(names, middle, above, strict=True):
        axes.annotate(
            f"{value:,.0f}",
            (value + most, name),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.invert_yaxis()
    axes.set_xlabel("tiles per second (median, least and most)")
    axes.set_title(
        f"{result['tiles']}\n{result['machine']['cores']} cores, {result['cache']} cache",
        fontsize=10,
        loc="left",
    )
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
