"""Matplotlib's drawings as parts of a page, in its colours whether it is light or dark."""

import re
from io import StringIO
from typing import Any

from matplotlib.figure import Figure

THEMED = {"#010100": "currentColor"} | {f"#01010{n}": f"var(--curve{n})" for n in range(1, 7)}
"""What stands in matplotlib for colours that the page chooses, since it knows whether it is dark."""
INK, *SERIES = THEMED
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glacier",
    "font.size": 9,
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top", "axes.formatter.useoffset"), False),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.15,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markeredgewidth": 0,
}
FILE_ONLY = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| font-family: [^;]*;", re.S)


def inline(figure: Figure, name: str) -> str:
    """A figure to stand within HTML: without what only files need; its ids begin with `name`."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    head, body = FILE_ONLY.sub("", text[text.index("<svg") :]).split(">", 1)
    head = re.sub(r' (?:width|height|version|xmlns|xmlns:xlink)="[^"]*"', "", head)
    body = re.sub(r'\bid="|href="#|url\(#', lambda found: f"{found[0]}{name}-", body.replace("xlink:", ""))
    return head + ">" + re.sub("|".join(THEMED), lambda found: THEMED[found[0]], body)
