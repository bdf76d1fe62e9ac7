"""A run as one HTML page that needs nothing else: no network, no scripts, no files beside it."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from math import inf
from typing import Any, Literal

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image

from glacier.classes import Class
from glacier.model.metrics import Scores
from glacier.pictures import NOTHING, Picture
from glacier.train.reliability import diagram
from glacier.train.report import number, percent
from glacier.train.svg import INK, SERIES, STYLE, THEMED, inline

SIZE = (4.2, 2.5)
MARKED = 30
"""Up to so many epochs, each is a dot; beyond, only those that stand alone are seen as one."""
LOG_MARGIN, LOG_FAR = 1.6, 300
"""Room above and below a logarithmic curve: enough for one of 1, 2 and 5 to be in sight, however flat. From
the second ratio on, powers of ten are enough."""


@dataclass(frozen=True, slots=True)
class ShownTile:
    """A tile of the validation fold."""

    caption: str
    image: Picture
    label: Picture
    """In the classes' colours."""
    prediction: Picture
    """In the classes' colours."""


@dataclass(frozen=True, slots=True)
class Page:
    """All that is said about a run."""

    title: str
    facts: Sequence[tuple[str, str]]
    """Names and values of what matters most."""
    notes: Sequence[str]
    """Sentences that say how to read the scores."""
    history: Sequence[Mapping[str, Any]]
    """Epochs as `Epoch.to_json` gives them."""
    classes: Sequence[Class]
    confusion: NDArray[np.int64]
    """Pixels (C, C), rows true, columns predicted."""
    scores: Scores
    before: NDArray[np.float64]
    """Reliability of the shares at temperature 1 (3, BINS)."""
    after: NDArray[np.float64]
    """And at the run's own."""
    worst: Sequence[ShownTile]
    best: Sequence[ShownTile]
    settings: str
    """TOML."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A value per epoch (epochs,); NaN is a gap."""

    name: str
    colour: str
    points: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over the epochs, each row of them above an axis of its own."""

    title: str
    rows: Sequence[Sequence[Curve]]
    scale: Literal["free", "from 0", "0 to 1", "log"] = "free"
    outlined: bool = False
    """For colours that may be near the page's own."""
    ringed: bool = False
    """The first curve has a ring at the best epoch."""

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Names of the curves, and their colours in CSS."""
        return [(c.name, THEMED.get(c.colour, c.colour)) for row in self.rows for c in row]


def render(page: Page) -> str:
    """The page's HTML; the same page gives the same text."""
    environment = Environment(
        loader=PackageLoader("glacier", "train"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "png": png}
    epochs, best = [e["epoch"] for e in page.history], best_epoch(page.history)
    return environment.get_template("page.html.jinja").render(
        page=page,
        best=best,
        charts=[(c, svg(c, epochs, best, f"chart{n}")) for n, c in enumerate(charts(page))],
        reliability=diagram(page.before, page.after, "reliability"),
        reliability_keys=[("at temperature 1", THEMED[SERIES[1]]), ("as mapped", THEMED[SERIES[0]])],
        skipped=sum(e["skipped"] for e in page.history),
        shares=row_shares(page.confusion).tolist(),
        counts=page.confusion.tolist(),
        key=[*((c.name, c.colour) for c in page.classes), ("no label", "#" + bytes(NOTHING).hex())],
    )


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """The epoch with the highest MCC; of equals, the last."""
    mcc = np.nan_to_num(_points(e["scores"]["mcc"] for e in history), nan=-inf)
    return max(zip(mcc, (int(e["epoch"]) for e in history), strict=True))[1]


def row_shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each cell's share of its row; NaN in rows without pixels."""
    with np.errstate(invalid="ignore"):
        return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float64)


def png(picture: Picture) -> str:
    """A picture as the address of itself."""
    file = BytesIO()
    Image.fromarray(picture).save(file, format="png", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def charts(page: Page) -> list[Chart]:
    """The small multiples, in reading order; those without any number are left out."""
    history, (blue, orange, *_) = page.history, SERIES
    values = {k: _points(e[k] for e in history) for k in ("loss", "val_loss", "lr", "tiles_per_s", "wait")}
    mcc, mean_iou = (_points(e["scores"][k] for e in history) for k in ("mcc", "mean_iou"))
    terms = dict.fromkeys(name for e in history for name in e["terms"])
    by_term = [
        Curve(name, colour, _points(e["terms"].get(name) for e in history))
        for name, colour in zip(terms, cycle(SERIES), strict=False)
    ]
    by_class = [
        Curve(c.name, c.colour, _points(e["scores"]["classes"][c.name]["iou"] for e in history))
        for c in page.classes
    ]
    loss = Curve("training", blue, values["loss"]), Curve("validation", orange, values["val_loss"])
    speed = Curve("tiles per second", blue, values["tiles_per_s"])
    wait = Curve("% waiting for data", orange, 100 * values["wait"])
    drawn = [
        Chart("Loss", [loss]),
        Chart(
            "Validation scores",
            [[Curve("MCC", blue, mcc), Curve("mean IoU", orange, mean_iou)]],
            ringed=True,
        ),
        Chart("IoU by class", [by_class], "0 to 1", outlined=True),
        Chart("Terms of the loss, unweighted", [by_term]),
        Chart("Speed", [[speed], [wait]], "from 0"),
        Chart("Learning rate", [[Curve("learning rate", blue, values["lr"])]], "log"),
    ]
    return [c for c in drawn if any(np.isfinite(curve.points).any() for row in c.rows for curve in row)]


def _points(values: Iterable[float | None]) -> NDArray[np.float64]:
    points = np.array(list(values), np.float64)
    return np.where(np.isfinite(points), points, np.nan)


def svg(chart: Chart, epochs: Sequence[int], best: int, name: str) -> str:
    """A chart to stand within HTML; its ids begin with `name`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots(len(chart.rows), sharex=True, squeeze=False)[:, 0]
        for ax, row in zip(axes, chart.rows, strict=True):
            _draw(ax, chart, row, epochs, best)
        axes[-1].set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes[-1].xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        return inline(figure, name)


def _draw(ax: Axes, chart: Chart, row: Sequence[Curve], epochs: Sequence[int], best: int) -> None:
    size = 4.5 if len(epochs) <= MARKED else 1.8
    ax.axvline(best, color=INK, linewidth=1, linestyle=(0, (2, 3)), alpha=0.5)
    for curve in row:
        if chart.outlined:
            ax.plot(epochs, curve.points, "o-", color=INK, linewidth=3, markersize=size + 1.4, alpha=0.55)
        ax.plot(epochs, curve.points, "o-", color=curve.colour, markersize=size)
    points = row[0].points
    if chart.ringed:
        at = epochs.index(best)
        ax.plot(best, points[at], "o", c=row[0].colour, ms=9, fillstyle="none", mew=1.2)
    if chart.scale == "0 to 1":
        ax.set_ylim(0, 1.02)
    elif chart.scale == "from 0":
        ax.set_ylim(0, max(1.0, 1.1 * float(np.nanmax(points, initial=0))))
    elif chart.scale == "log" and (positive := points[points > 0]).size:
        low, high = positive.min() / LOG_MARGIN, positive.max() * LOG_MARGIN
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(low, high)
        digits = (1, 2, 5) if high < LOG_FAR * low else (1,)
        ax.yaxis.set_major_locator(FixedLocator([d * 10.0**e for e in range(-12, 4) for d in digits]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
        ax.yaxis.set_minor_locator(NullLocator())
