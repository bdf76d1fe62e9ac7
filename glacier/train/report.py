"""Tables a person reads: epochs as they pass, and scores by class."""

from math import isnan

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from glacier.console import out, warn
from glacier.train.evaluate import Evaluated
from glacier.train.history import Epoch

WHICH = {"labelled": "labelled pixels", "all": "pixels: all of them, no data counted as background"}


class EpochTable:
    """A table that grows by an epoch: a row over all pixels, then one per class."""

    HEADS = ("epoch", "loss", "val loss", "MCC", "mean IoU", "lr", "tiles/s", "wait", "s")
    CLASS_HEADS = ("class", "IoU", "precision", "recall", "F1")

    def __init__(self, classes: list[str]) -> None:
        self._width = max(map(len, (*classes, "class")))
        out.print(_row([f"[bold]{head}" for head in self.HEADS]))
        out.print(self._class_row([f"[bold]{head}" for head in self.CLASS_HEADS]))

    def add(self, epoch: Epoch, *, best: bool) -> None:
        """Print one epoch; the best so far stands out."""
        rated = epoch.scores
        cells = [
            str(epoch.epoch),
            f"{epoch.loss:.4f}",
            f"{epoch.val_loss:.4f}",
            number(rated.mcc),
            number(rated.mean_iou),
            f"{epoch.lr:.1e}",
            f"{epoch.tiles_per_s:.1f}",
            f"{100 * epoch.wait:.1f} %",
            f"{epoch.seconds:.0f}",
        ]
        out.print(_row([f"[green]{cell}" for cell in cells] if best else cells))
        for name, row in rated.classes.items():
            values = map(number, (row.iou, row.precision, row.recall, row.f1))
            out.print(self._class_row([escape(name), *values]), style="dim")
        if epoch.skipped:
            warn(f"epoch {epoch.epoch}: {epoch.skipped} steps left out, their loss was no number")

    def _class_row(self, cells: list[str]) -> Table:
        return _row(cells, first=self._width)


def _row(cells: list[str], first: int = 0) -> Table:
    grid = Table.grid(padding=(0, 1))
    for place in range(len(cells)):
        grid.add_column(justify="right", min_width=8 if place else max(8, first), no_wrap=True)
    grid.add_row(*cells)
    return grid


def number(value: float | None, form: str = ".3f") -> str:
    """In that form; a dash for what is no number."""
    return "–" if value is None or isnan(value) else format(value, form)


def percent(share: float | None) -> str:
    """One decimal; what is not quite nothing does not look like nothing."""
    return "<0.1 %" if share and 0 < share < 0.0005 else number(share, ".1%").replace("%", " %")


def score_table(found: Evaluated, title: str, pixels: str = "labelled") -> Table:
    """Scores per class, and over all; `pixels` says which were compared."""
    rated, temperatures = found.scores, ", ".join(f"{t:.2f}" for t in found.temperatures)
    table = Table(title=escape(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    errors = f"{percent(found.error_before)} -> {percent(found.error_after)}"
    table.caption = (
        f"MCC {number(rated.mcc)}, mean IoU {number(rated.mean_iou)}\n{rated.pixels:,} {WHICH[pixels]}\n"
        f"calibration error {errors}, temperature {temperatures}"
        f"{', over labelled pixels' if pixels == 'all' else ''}"
    )
    for head in ("class", "IoU", "precision", "recall", "F1"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for name, row in rated.classes.items():
        table.add_row(escape(name), *map(number, (row.iou, row.precision, row.recall, row.f1)))
    return table
