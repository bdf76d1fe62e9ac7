"""How fast one large scene becomes a store, and with how much memory, beside a plain loop.

    python benchmarks/large.py                 8 000 x 7 000 px x 15 bands float32, 3.4 GB
    python benchmarks/large.py --json F        also as JSON

The scene is made in a temporary folder (`TMPDIR` says where; all takes 10 GB there) and deleted in the
end: a GeoTIFF in tiles of 256 px, not compressed, smooth fields with noise and gaps of NaN, and a label
raster. `glacier ingest` runs as its users run it, in two passes: one for the bands' ranges, one to pack.
The plain loop reads the same windows once with rasterio and assigns them to zarr-python arrays of the
same chunks, shards and codecs, a shard at a time, in one process; it packs nothing, and so `--dtype
float32` stands beside it. Memory is the most that any one process held (VmHWM), with what it mapped.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import rasterio
from rasterio.windows import Window
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.host import family, machine, memory

HEIGHT, WIDTH, BANDS, SIZE = 8000, 7000, 15, 512
OPTIONS = ("--classes", "0=background,1=glacier", "--workers", "2")


def make_scene(folder: Path, height: int = HEIGHT, width: int = WIDTH, bands: int = BANDS) -> None:
    """A scene with its label in `folder`, seeded, written 256 rows at a time."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "crs": "EPSG:32645",
        "tiled": True,
        "transform": rasterio.Affine(30, 0, 400000, 0, -30, 3100000),
    }
    columns = np.arange(width, dtype=np.float32)
    with (
        rasterio.open(folder / "s.tif", "w", count=bands, dtype="float32", **profile) as image,
        rasterio.open(folder / "s_label.tif", "w", count=1, dtype="uint8", **profile) as label,
    ):
        for row in range(0, height, 256):
            rows = np.arange(row, min(row + 256, height), dtype=np.float32)[:, None]
            window = Window(0, row, width, len(rows))
            hills = np.sin(rows / 97) + np.sin(columns / 131)
            gap = (columns + rows) % 613 < 40
            for band in range(1, bands + 1):
                noise = rng.standard_normal(hills.shape, np.float32)
                image.write(
                    np.where(gap, np.float32(np.nan), band * hills + noise / 8), band, window=window
                )
            label.write((hills > 0.8).astype(np.uint8), 1, window=window)


def plain(folder: Path, out: Path) -> None:
    """The loop a person would write."""
    from benchmarks.ingest import _array
    from glacier.store.schema import tiles_per_shard

    with rasterio.open(folder / "s.tif") as image, rasterio.open(folder / "s_label.tif") as label:
        windows = [
            Window(column, row, min(SIZE, image.width - column), min(SIZE, image.height - row))
            for row in range(0, image.height, SIZE)
            for column in range(0, image.width, SIZE)
        ]
        shard = tiles_per_shard(len(windows), SIZE, image.count, 4)
        pixels = _array(out / "image", np.float32, (SIZE, SIZE, image.count), len(windows), shard)
        classes = _array(out / "label", np.uint8, (SIZE, SIZE), len(windows), shard)
        for start in range(0, len(windows), shard):
            here = windows[start : start + shard]
            many = np.full((len(here), SIZE, SIZE, image.count), np.nan, np.float32)
            held = np.full((len(here), SIZE, SIZE), 255, np.uint8)
            for i, window in enumerate(here):
                inside = (i, slice(0, window.height), slice(0, window.width))
                many[inside] = np.moveaxis(image.read(window=window), 0, -1)
                held[inside] = label.read(1, window=window)
            pixels[start : start + len(here)] = many
            classes[start : start + len(here)] = held


def watched(command: list[str]) -> tuple[float, float, float]:
    """Seconds and processor seconds of a command, and the most that one of its processes held, MiB."""
    start, busy, peak = time.perf_counter(), _busy(), 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max([peak, *(memory(each, "VmHWM") for each in family(process.pid))])
            time.sleep(0.05)
        if process.returncode and process.stderr:
            raise RuntimeError(process.stderr.read())
    return time.perf_counter() - start, _busy() - busy, peak / 1024


def _busy() -> float:
    """Processor seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ingest_command(source: Path, out: Path, *options: str) -> list[str]:
    """`glacier ingest` of a scene that `make_scene` made."""
    return [sys.executable, "-m", "glacier", "ingest", str(source), "--out", str(out), *OPTIONS, *options]


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
@click.option("--plain", "loop", nargs=2, type=click.Path(path_type=Path), hidden=True)
def main(rounds: int, target: Path | None, loop: tuple[Path, Path] | None) -> None:
    """Measure a large scene."""
    if loop:
        plain(*loop)
        return
    console = Console()
    peers: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in"
        make_scene(source)
        again = [sys.executable, "-m", "benchmarks.large", "--plain", str(source)]
        runs = {
            "glacier, 2 workers": lambda out: ingest_command(source, out),
            "glacier, 2 workers, float32": lambda out: ingest_command(source, out, "--dtype", "float32"),
            "plain loop": lambda out: [*again, str(out)],
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for peer, command in runs.items():
                with tempfile.TemporaryDirectory() as place:
                    found[peer].append(watched(command(Path(place) / "s.zarr")))
    raw = HEIGHT * WIDTH * BANDS * 4 / 1e6
    table = Table(
        title=f"{HEIGHT} x {WIDTH} px x {BANDS} bands float32", box=SIMPLE_HEAD, title_justify="left"
    )
    for head in ("ingest", "s", "min", "max", "MB/s", "CPU s", "most MiB"):
        table.add_column(head, justify="left" if head == "ingest" else "right")
    for peer, pairs in found.items():
        seconds, busy, memory = zip(*pairs, strict=True)
        middle = float(np.median(seconds))
        peers[peer] = {
            "seconds": middle,
            "min": min(seconds),
            "max": max(seconds),
            "mb_per_s": raw / middle,
            "cpu_s": float(np.median(busy)),
            "peak_mib": max(memory),
        }
        table.add_row(peer, *(f"{value:.1f}" for value in peers[peer].values()))
    console.print(table)
    here = machine(("rasterio", "zarr", "numcodecs", "numpy")) | {"gdal": rasterio.__gdal_version__}
    console.print(", ".join(f"{k} {v}" for k, v in here.items()), style="dim")
    if target:
        target.write_text(json.dumps({"machine": here, "peers": peers}, indent=2))


if __name__ == "__main__":
    main()
