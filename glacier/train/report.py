"""Tables a person reads: epochs as they pass, and scores by class."""

from math import isnan

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from glacier.console import out
from glacier.model.metrics import Scores
from glacier.train.history import Epoch


class EpochTable:
    """A table that grows by a row per epoch."""

    def __init__(self, classes: list[str]) -> None:
        self._heads = ["epoch", "loss", "MCC", "mIoU", *map(escape, classes), "tiles/s", "wait", "s"]
        out.print(self._row([f"[bold]{head}" for head in self._heads]))

    def add(self, epoch: Epoch, *, best: bool) -> None:
        """Print one epoch; the best so far stands out."""
        rated = epoch.scores
        cells = [
            str(epoch.epoch),
            f"{epoch.loss:.4f}",
            number(rated.mcc),
            number(rated.mean_iou),
            *(number(row.iou) for row in rated.classes.values()),
            f"{epoch.tiles_per_s:.1f}",
            f"{100 * epoch.wait:.1f} %",
            f"{epoch.seconds:.0f}",
        ]
        out.print(self._row([f"[green]{cell}" for cell in cells] if best else cells))

    def _row(self, cells: list[str]) -> Table:
        grid = Table.grid(padding=(0, 1))
        for head in self._heads:
            grid.add_column(justify="right", min_width=max(5, len(head)), no_wrap=True)
        grid.add_row(*cells)
        return grid


def number(value: float) -> str:
    """Three decimals; a dash for what could not be judged."""
    return "–" if isnan(value) else f"{value:.3f}"


def score_table(rated: Scores, title: str) -> Table:
    """Scores per class, and over all."""
    table = Table(title=escape(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.caption = (
        f"MCC {number(rated.mcc)}, mean IoU {number(rated.mean_iou)}\n{rated.pixels:,} labelled pixels"
    )
    for head in ("class", "IoU", "precision", "recall", "F1"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for name, row in rated.classes.items():
        table.add_row(escape(name), *map(number, (row.iou, row.precision, row.recall, row.f1)))
    return table
