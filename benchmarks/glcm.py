"""Texture of every pixel's window: the array code against scikit-image's matrices, window by window.

    python benchmarks/glcm.py                     an image of 512 px, window 7 px, 32 grey levels
    python benchmarks/glcm.py --json FILE

On one core. The loop makes a matrix per pixel and angle, of the window cut off at the edge; it is run on
every sixteenth row and its time scaled up, and both must give the same there.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops

from benchmarks.host import machine
from glacier.scenes.glcm import FEATURES, grey_levels, texture

JOBS = (("contrast", "homogeneity"), ("dissimilarity",), ("correlation",), ("asm",), ("entropy",), FEATURES)
LOOPED = (JOBS[0], FEATURES)
"""Jobs that scikit-image does too; the others would take it about as long."""
ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
EVERY = 16
console = Console()


def made_up(size: int, levels: int) -> NDArray[np.int32]:
    """Grey levels of smooth noise with grain, as of a mountain scene."""
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), 3)
    field = field / field.std() + 0.2 * rng.normal(size=(size, size))
    return grey_levels(field, -2.0, 2.0, levels)


def loop(
    grey: NDArray[np.int32], names: tuple[str, ...], levels: int, window: int
) -> dict[str, NDArray[np.float64]]:
    """The features of every `EVERY`-th row by scikit-image (row, column)."""
    half, image = window // 2, grey.astype(np.uint8)
    rows = range(0, len(grey), EVERY)
    found = {name: np.empty((len(rows), grey.shape[1])) for name in names}
    for r, row in enumerate(rows):
        for column in range(grey.shape[1]):
            near = image[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
            matrices = graycomatrix(near, [1], ANGLES, levels, symmetric=True, normed=True)
            for name in names:
                by_angle = graycoprops(matrices, {"asm": "ASM"}.get(name, name))
                found[name][r, column] = by_angle.mean()
    return found


def timed(call: Callable[[], Any], times: int) -> tuple[list[float], Any]:
    """Seconds of each call, and what the last gave."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return seconds, result


@click.command()
@click.option("--size", default=512, show_default=True, help="px")
@click.option("--window", default=7, show_default=True, help="px")
@click.option("--levels", default=32, show_default=True)
@click.option("--times", default=5, show_default=True, help="Runs of the array code; the median counts.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(size: int, window: int, levels: int, times: int, target: Path | None) -> None:
    """Time each job both ways."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    grey = made_up(size, levels)
    rows = []
    for names in JOBS:
        seconds, found = timed(lambda n=names: texture(grey, n, levels=levels, window=window), times)
        row: dict[str, Any] = {
            "features": list(names),
            "s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds),
        }  # fmt: skip
        if names in LOOPED:
            (spent,), expected = timed(lambda n=names: loop(grey, n, levels, window), 1)
            for name in names:
                np.testing.assert_allclose(found[name][::EVERY], expected[name], rtol=1e-5, atol=1e-5)
            row["loop_s"] = spent * size / len(range(0, size, EVERY))
            row["times_faster"] = row["loop_s"] / row["s"]
        rows.append(row)
    title = f"{size} x {size} px, window {window} px, {levels} levels, one core"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for head in ("features", "array code", "min … max", "scikit-image", "times faster"):
        table.add_column(head, justify="left" if head == "features" else "right")
    for row in rows:
        names = "all seven" if len(row["features"]) == len(FEATURES) else ", ".join(row["features"])
        looped = (f"{row['loop_s']:.0f} s", f"{row['times_faster']:.0f}") if "loop_s" in row else ("", "")
        table.add_row(names, f"{row['s']:.3f} s", f"{row['min_s']:.3f} … {row['max_s']:.3f}", *looped)
    console.print(table)
    if target:
        packages = ("numpy", "scikit-image")
        result = {
            "machine": machine(packages),
            "size": size,
            "window": window,
            "levels": levels,
            "jobs": rows,
        }
        target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
