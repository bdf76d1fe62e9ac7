"""Which mix of pixels a loader yields: balanced, uniform, and with tiles of rare classes drawn more often.

    python benchmarks/balance.py                     one store whose target is within reach, one out of it
    python benchmarks/balance.py --json FILE --figure FILE

Counted on the label tensors of whole epochs, not on the plan. The target is 10 % background, 35 % glacier,
40 % debris and 15 % lake.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import ndimage

from benchmarks.host import machine
from benchmarks.tiles import CLASS_VALUES, write
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.pipeline.augment import Augment
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import Loader
from glacier.pipeline.order import Samples
from glacier.pipeline.plan import Balance
from glacier.pipeline.split import statistics
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store

NAMES = ("background", "glacier", "debris", "lake")
TARGET = dict(zip(NAMES, (0.10, 0.35, 0.40, 0.15), strict=True))
TILE, PATCH = 512, 128
LARGE, SMALL = (60, 110), (4, 9)
"""Radii of lakes, px: of the store whose target windows of `PATCH` px can reach, and of the other."""
console = Console()


def make_lakes(out: Path, radius: tuple[int, int], scenes: int = 120) -> Path:
    """A store of made-up labels: a tenth glacier, a hundredth debris, few lakes of these radii, px."""
    source = out.with_suffix(".scenes")
    for place in range(scenes):
        rng = np.random.default_rng([radius[0], place])
        label = _label(rng, radius if place % 12 == 0 else None)
        image = rng.integers(1, 255, (1, TILE, TILE)).astype(np.uint8)
        corner = Affine.translation(480000 + place % 16 * 20000, 3110000 - place // 16 * 20000)
        here = corner @ Affine.scale(30, -30)
        folder = source / f"s{place:03d}"
        folder.mkdir(parents=True)
        write(folder / f"{folder.name}.tif", image, here, ("red",), 0)
        write(folder / f"{folder.name}_label.tif", CLASS_VALUES[label][None], here, ("label",), None)
    ingest(source, find_scenes(source), out, Options(tile_size=TILE, bands=""), workers=1)
    return out


def _label(rng: np.random.Generator, radius: tuple[int, int] | None) -> NDArray[np.uint8]:
    ice, dirt = (ndimage.gaussian_filter(rng.normal(size=(TILE, TILE)), 45, mode="wrap") for _ in "ab")
    ice, dirt = ice / ice.std() + rng.normal(), dirt / dirt.std()
    label = np.where(ice > 1.3, np.where(dirt > 1.3, 2, 1), 0).astype(np.uint8)
    if radius:
        size, (row, column) = rng.uniform(*radius), rng.uniform(0, TILE, 2)
        y, x = np.mgrid[:TILE, :TILE]
        label[np.hypot(y - row, x - column) < size] = 3
    return label


class Oversampled(Loader):
    """What is often done instead: tiles that hold a rare class are drawn more often, as wholes.

    Each class's tiles get a quarter of the draws, a tile counting for the rarest class in it.
    """

    def order(self) -> Samples:
        """Windows at random places of tiles drawn by their rarest class."""
        order = super().order()
        rng = np.random.default_rng([self.seed, self.epoch])
        tiles = self.plan.windows.tiles
        rarest = np.array([np.flatnonzero(h.sum(axis=(0, 1)))[-1] for h in self.store.histogram[tiles]])
        weight = 1 / np.bincount(rarest, minlength=len(NAMES))[rarest]
        order["tile"] = rng.choice(tiles, len(order), p=weight / weight.sum())
        order["y"], order["x"] = rng.integers(0, TILE - PATCH + 1, (2, len(order)))
        return order


def mixes(loader: Loader, epochs: int) -> NDArray[np.float64]:
    """Share of labelled pixels by class of each epoch (epoch, class), counted on the labels yielded."""
    found = []
    for _ in range(epochs):
        counts = sum(np.bincount(b.label.flatten().numpy(), minlength=256)[: len(NAMES)] for b in loader)
        found.append(counts / np.sum(counts))
    return np.array(found)


@dataclass(frozen=True, slots=True)
class Row:
    """One way to draw samples."""

    what: str
    found: NDArray[np.float64]
    """(epoch, class)"""
    expected: NDArray[np.float64]
    """(class,)"""

    @property
    def worst(self) -> float:
        """Largest distance of any epoch's share from the expected one, percentage points."""
        return 100 * float(abs(self.found - self.expected).max())


def loader_of(store: Store, samples: int, kind: type[Loader] = Loader, **options: Any) -> Loader:
    """A loader of all tiles."""
    tiles = np.arange(len(store))
    return kind(
        store, tiles=tiles, patch=PATCH, batch=64, samples_per_epoch=samples, seed=1,
        inputs=Inputs(store.meta.bands, statistics(store, tiles)), **options,
    )  # fmt: skip


def rows_of(store: Store, epochs: int, samples: int, repeats: float) -> list[Row]:
    """Every way, on one store."""
    wanted = np.array(list(TARGET.values()))
    balance = Balance(TARGET, repeats=repeats)
    rows = []
    for preset in ("d4", "affine"):
        loader = loader_of(store, samples, balance=balance, augment=Augment(preset))  # type: ignore[arg-type]
        rows.append(Row(f"balanced, {preset}", mixes(loader, epochs), loader.plan.reached))
    for rank in range(2):
        part = loader_of(store, samples, balance=balance, rank=rank, world=2)
        rows.append(Row(f"balanced, d4, rank {rank} of 2", mixes(part, epochs), part.plan.reached))
    few = max(1, epochs // 4)
    rows.append(Row("uniform", mixes(loader_of(store, samples), few), wanted))
    rows.append(Row("tiles by rarest class", mixes(loader_of(store, samples, Oversampled), few), wanted))
    return rows


def show(title: str, rows: Sequence[Row]) -> None:
    """One table."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for head in ("", *NAMES, "worst epoch"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for row in rows:
        shares = (f"{100 * value:.2f} %" for value in row.found.mean(axis=0))
        table.add_row(row.what, *shares, f"{row.worst:.2f} pp")
    console.print(table)


@click.command()
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--samples", type=click.IntRange(64), default=4096, show_default=True, help="Per epoch.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
@click.option("--figure", type=click.Path(path_type=Path), help="Also draw it here (needs matplotlib).")
def main(epochs: int, samples: int, target: Path | None, figure: Path | None) -> None:
    """Count pixels."""
    result: dict[str, Any] = {"machine": machine(("numpy", "nvidia-dali-cuda120")), "stores": {}}
    with tempfile.TemporaryDirectory() as folder:
        cases = {"within reach": (LARGE, 1e9), "out of reach": (SMALL, 8.0)}
        for name, (radius, repeats) in track(cases.items(), console=console, transient=True):
            with Store(make_lakes(Path(folder, f"{name.split()[0]}.zarr"), radius)) as store:
                rows = rows_of(store, epochs, samples, repeats)
                plan = loader_of(store, samples, balance=Balance(TARGET, repeats=repeats)).plan
            facts = f"effective windows {plan.effective:,.0f} of {plan.count:,}"
            lakes = f"lakes of radius {radius[0]} to {radius[1]} px"
            title = f"target {name}: windows of {PATCH} px, {lakes}; {facts}"
            show(title, rows)
            result["stores"][name] = {
                "about": title,
                "natural": plan.natural.tolist(),
                "reached": plan.reached.tolist(),
                "rows": {
                    row.what: {"mean": row.found.mean(axis=0).tolist(), "worst_pp": row.worst}
                    for row in rows
                },
            }
    console.print(
        f"{epochs} epochs of {samples} samples; worst epoch: largest distance of a class's share from what "
        "the plan says, of uniform and by rarest class from the target, percentage points",
        style="dim",
    )
    if target:
        target.write_text(json.dumps(result, indent=2) + "\n")
    if figure:
        _draw(result, figure)


def _draw(result: dict[str, Any], path: Path) -> None:
    """Mixes as stacked bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from glacier.classes import COLOURS

    figure, panels = pyplot.subplots(2, 1, figsize=(9, 6.4), layout="constrained")
    for axes, (name, store) in zip(panels, result["stores"].items(), strict=True):
        bars = {"target": list(TARGET.values()), "all pixels": store["natural"]}
        bars |= {what: row["mean"] for what, row in store["rows"].items() if "rank" not in what}
        left = np.zeros(len(bars))
        for index, cls in enumerate(NAMES):
            width = np.array([100 * mix[index] for mix in bars.values()])
            drawn = axes.barh(list(bars), width, left=left, color=COLOURS[cls], label=cls, height=0.7)
            words = [f"{share:.1f}" if share > 2.5 else "" for share in width]
            ink = "white" if cls in ("background", "lake") else "black"
            axes.bar_label(drawn, words, label_type="center", fontsize=8, color=ink)
            left += width
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title(f"target {name}", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    panels[1].set_xlabel("% of the labelled pixels that training sees")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
