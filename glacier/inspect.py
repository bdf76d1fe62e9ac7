"""What is in a store: as a table, as JSON, and as a contact sheet of its tiles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from glacier.pictures import class_colours, composite, enlarged, sheet
from glacier.store.bands import Band
from glacier.store.look import most_varied, tile_picture
from glacier.store.reader import Store
from glacier.store.schema import TEST

SHOWN = 10
"""Tiles on a contact sheet, in two rows of pairs."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What `glacier inspect` says."""

    store: Store
    counts: NDArray[np.int64]
    """Labelled pixels by class."""

    @property
    def mix(self) -> dict[str, float]:
        """Class -> share of the labelled pixels."""
        total = max(int(self.counts.sum()), 1)
        names = self.store.meta.class_names
        return {name: int(n) / total for name, n in zip(names, self.counts, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """One object; scripts may rely on its keys."""
        meta = self.store.meta
        return {
            "tiles": len(self.store),
            "tile_size": meta.tile_size,
            "dtype": meta.dtype,
            "bands": meta.band_names,
            "classes": meta.class_names,
            "mix": self.mix,
            "scenes": len(self.store.scene_names),
            "folds": [int((self.store.fold == fold).sum()) for fold in range(meta.folds)],
            "test": int((self.store.fold == TEST).sum()),
            "crs": list(meta.crs),
        }

    def tables(self) -> list[Table]:
        """Bands and classes, for the terminal."""
        meta, store = self.store.meta, self.store
        bands = Table(
            title=f"{escape(store.name)}: {many(len(store), 'tile')} of {meta.tile_size} px, "
            f"{meta.dtype}, from {many(len(store.scene_names), 'scene')}, {many(meta.folds, 'fold')}, "
            f"{meta.codec}",
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for head in ("band", "role", "source", "mean", "sd", "2 %", "98 %", "error"):
            left = head in ("band", "role", "source")
            bands.add_column(head, justify="left" if left else "right", no_wrap=True)
        for band in meta.bands:
            source = band.code if band.code != band.name else ""
            bands.add_row(escape(band.name), band.role, escape(source), *_numbers(band))
        classes = Table(title="labelled pixels", title_justify="left", box=SIMPLE_HEAD)
        for head in ("class", "value", "pixels", "share"):
            classes.add_column(head, justify="left" if head == "class" else "right")
        for cls, count in zip(meta.classes, self.counts, strict=True):
            share = f"{100 * self.mix[cls.name]:.3g} %"
            classes.add_row(f"[{cls.colour}]■[/] {escape(cls.name)}", str(cls.value), f"{count:,}", share)
        return [bands, classes]


def _numbers(band: Band) -> list[str]:
    s = band.statistics
    values = (s.mean, s.std, s.p2, s.p98) if s else ()
    bound = f"±{band.bound:.0e}" if band.bound else "exact"
    return [*(f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" for value in values), bound]


def many(count: int, what: str) -> str:
    """`1 scene`, `2,000 scenes`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def summarise(store: Store) -> Summary:
    """Count a store's labelled pixels."""
    return Summary(store, store.histogram.sum(axis=(0, 1, 2), dtype=np.int64))


def contact_sheet(summary: Summary, path: Path) -> None:
    """Draw the tiles whose labels vary most, each over its label."""
    store, meta = summary.store, summary.store.meta
    chosen = most_varied(store, SHOWN)
    side = 224
    pairs = [
        (
            enlarged(tile_picture(store, t), side),
            enlarged(class_colours(store.label(t), meta.classes), side),
        )
        for t in chosen
    ]
    columns = -(-len(pairs) // 2) if len(pairs) > 5 else len(pairs)
    rows = []
    for start in range(0, len(pairs), columns):
        part = pairs[start : start + columns]
        rows += [[image for image, _ in part], [label for _, label in part]]
    names = [meta.band_names[i] for i in composite(meta.band_names)]
    sheet(
        path,
        rows,
        title=f"{store.name}  ·  {many(len(store), 'tile')} of {meta.tile_size} px",
        lines=[
            f"{len(meta.bands)} bands, {meta.dtype}, from {many(len(store.scene_names), 'scene')}",
            f"the most varied tiles over their labels; shown: {', '.join(names)}",
        ],
        legend=[(cls, f"{100 * summary.mix[cls.name]:.3g} %") for cls in meta.classes],
    )
