"""What a plan and an epoch's order cost for very many tiles.

    python benchmarks/scale.py                     ten thousand, 100 000 and a million tiles
    python benchmarks/scale.py --json FILE --figure FILE

Tiles of 512 px, windows of 256 px. Histograms are made up and mapped from a file; each size runs in a
process of its own. An epoch draws as many windows as cover the tiles once: four per tile.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.host import machine
from glacier.pipeline.augment import D4
from glacier.pipeline.order import epoch_order
from glacier.pipeline.plan import Balance, make_plan
from glacier.pipeline.windows import candidates

NAMES = ("background", "glacier", "debris", "lake")
TARGET = dict(zip(NAMES, (0.10, 0.35, 0.40, 0.15), strict=True))
BLOCKS, PATCH, PART = 16, 256, 20_000
console = Console()


def made_up(rng: np.random.Generator, tiles: int) -> NDArray[np.uint16]:
    """Ice in a tenth of the tiles, debris on some, lakes in a hundredth (tile, by, bx, class)."""
    y, x = np.mgrid[:BLOCKS, :BLOCKS] / BLOCKS
    slope = rng.normal(size=(3, tiles, 1, 1))
    ice = 1 / (1 + np.exp(-6 * (slope[0] + slope[1] * x + slope[2] * y - 2)))
    dirt = ice / (1 + np.exp(-8 * (rng.normal(size=(tiles, 1, 1)) + x - 1.8)))
    counts = np.zeros((tiles, BLOCKS, BLOCKS, 4), np.uint16)
    counts[..., 1], counts[..., 2] = 1024 * (ice - dirt), 1024 * dirt
    for tile in range(0, tiles, 100):
        row, column = rng.integers(0, BLOCKS - 6, 2)
        counts[tile, row : row + 6, column : column + 6] = (0, 0, 0, 1024)
    counts[..., 0] = 1024 - counts[..., 1:].sum(axis=-1)
    return counts


def write_histogram(path: Path, tiles: int) -> None:
    """Made-up counts, in a file."""
    with path.open("wb") as file:
        for start in range(0, tiles, PART):
            rng = np.random.default_rng(start)
            file.write(made_up(rng, min(PART, tiles - start)).tobytes())


def measure(path: Path, tiles: int, answers: Any) -> None:
    """Seconds and memory of one size, MiB beyond the mapped histogram."""
    counts = np.memmap(path, np.uint16, "r", shape=(tiles, BLOCKS, BLOCKS, 4))
    before = _own_mib()
    start = time.perf_counter()
    windows = candidates(counts, np.arange(tiles), PATCH, D4, 0.05)
    samples = windows.covering
    plan = make_plan(windows, NAMES, Balance(TARGET), samples)
    planned = time.perf_counter()
    kept = _own_mib()
    order = epoch_order(plan, 0, 0, samples)
    ordered = time.perf_counter()
    assert len(order) == samples
    answers.put(
        {
            "tiles": tiles,
            "windows": plan.count,
            "samples": samples,
            "plan_s": planned - start,
            "order_s": ordered - planned,
            "kept_mib": kept - before,
            "peak_mib": _peak_own_mib(path) - before,
            "reached": plan.reached.tolist(),
        }
    )


def _own_mib() -> float:
    """Resident memory that is not mapped from files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 2**10


def _peak_own_mib(path: Path) -> float:
    """Most resident memory so far, less the histogram's pages that were in it at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    mapped = sum(
        int(line.split()[1])
        for block in Path("/proc/self/smaps").read_text().split("VmFlags")
        if str(path) in block
        for line in block.splitlines()
        if line.startswith("Rss:")
    )
    return peak - mapped / 2**10


@click.command()
@click.option("--sizes", default="10000,100000,1000000", show_default=True, help="Tiles.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
@click.option("--figure", type=click.Path(path_type=Path), help="Also draw it here (needs matplotlib).")
def main(sizes: str, target: Path | None, figure: Path | None) -> None:
    """Measure each size in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for tiles in map(int, sizes.split(",")):
            path = Path(folder, f"{tiles}.u16")
            write_histogram(path, tiles)
            answers: Any = spawn.Queue()
            worker = spawn.Process(target=measure, args=(path, tiles, answers))
            worker.start()
            rows.append(answers.get())
            worker.join()
            path.unlink()
    table = Table(title="plan and order, four samples a tile", title_justify="left", box=SIMPLE_HEAD)
    for head in ("tiles", "windows", "samples", "plan", "order", "kept", "peak"):
        table.add_column(head, justify="right")
    for row in rows:
        counts = (f"{row[key]:,}" for key in ("tiles", "windows", "samples"))
        seconds = (f"{row[key]:.1f} s" for key in ("plan_s", "order_s"))
        memory = (f"{row[key]:,.0f} MiB" for key in ("kept_mib", "peak_mib"))
        table.add_row(*counts, *seconds, *memory)
    console.print(table)
    if target:
        target.write_text(json.dumps({"machine": machine(("numpy",)), "sizes": rows}, indent=2) + "\n")
    if figure:
        _draw(rows, figure)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against tiles, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tiles = [row["tiles"] for row in rows]
    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for key, label, colour in (("plan_s", "plan", "#2b7bba"), ("order_s", "order of an epoch", "#c8742f")):
        time_axes.loglog(tiles, [row[key] for row in rows], "o-", label=label, color=colour)
    memory_axes.loglog(tiles, [row["peak_mib"] for row in rows], "o-", label="peak", color="#2b7bba")
    memory_axes.loglog(tiles, [row["tiles"] * 2 / 2**10 for row in rows], ":", color="#54606d",
                       label="the histogram itself (mapped)")  # fmt: skip
    for axes, words in ((time_axes, "seconds"), (memory_axes, "MiB")):
        axes.set_xlabel("tiles of 512 px, windows of 256 px")
        axes.set_ylabel(words)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
