"""How many tiles per second each step of the data path delivers, measured in one run.

    python benchmarks/throughput.py            the only *.zarr here, or a synthetic store
    python benchmarks/throughput.py --json F   also as JSON

Rungs, each doing all that the one before it does and more: `reader` (windows into memory), `loader`
(raw batches, augmented), `inputs` (standardised float32), `train` (the demo's network takes a step).
"""

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.machine import cores
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import Loader
from glacier.pipeline.split import split
from glacier.pipeline.split import statistics as tile_statistics
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store, only_store
from glacier.synth.write import write_synthetic
from glacier.train.loop import Trainer
from glacier.train.ranks import Ranks

Rung = Callable[[int], int]
"""Runs a number of steps; how many tiles it delivered."""


def make_store(folder: Path) -> Path:
    """A store of 64 synthetic tiles, 256 px, 7 bands, 16 bit."""
    write_synthetic(folder / "hills", layout="bands", seed=0, count=64, size=256)
    out = folder / "hills.zarr"
    options = Options(tile_size=256)
    ingest(folder / "hills", find_scenes(folder / "hills"), out, options, workers=cores())
    return out


def rungs(store: Store, batch: int) -> dict[str, Rung]:
    """The ladder."""
    size, meta, device = store.meta.tile_size, store.meta, torch.device("cpu")
    device = torch.device("cuda", 0) if torch.cuda.is_available() else device
    tiles = split(store, 0).train
    inputs = Inputs(meta.bands, tile_statistics(store, tiles)).to(device)
    settings = [f"data.patch={size}", f"train.batch={batch}"]
    trainer = Trainer(Config.load(shipped("demo"), settings), store, Ranks(0, 1, device))

    def batches(steps: int) -> Iterator[Any]:
        return iter(Loader(store, tiles=tiles, patch=size, batch=batch,
                           samples_per_epoch=steps * batch, device=device))  # fmt: skip

    def reader(steps: int) -> int:
        order = np.resize(trainer.loader.order(), steps * batch)
        out = Buffer.empty(batch, size, len(meta.bands), meta.dtype)
        for step in range(steps):
            store.read_into(order[step * batch : (step + 1) * batch], out)
        return steps * batch

    def each(call: Callable[[Any], Any]) -> Rung:
        def run(steps: int) -> int:
            done = 0
            for item in batches(steps):
                call(item)
                done += len(item.samples)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return done

        return run

    return {
        "reader": reader,
        "loader": each(lambda item: None),
        "inputs": each(lambda item: replace(item, image=inputs(item.image))),
        "train": each(trainer.step),
    }


def measure(ladder: dict[str, Rung], rounds: int, steps: int) -> dict[str, list[float]]:
    """Tiles per second of each rung in interleaved rounds, after one to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in ladder}
    for turn in range(rounds + 1):
        for name, run in ladder.items():
            start = time.perf_counter()
            tiles = run(steps)
            if turn:
                speeds[name].append(tiles / (time.perf_counter() - start))
    return speeds


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cores": cores(),
        "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "zarr", "rasterio")},
    }


@click.command()
@click.option("--store", type=click.Path(path_type=Path), help="Default: the only *.zarr here.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=12, show_default=True, help="Batches per rung and round."
)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(store: Path | None, batch: int, rounds: int, steps: int, target: Path | None) -> None:
    """Measure the data path, rung by rung."""
    console = Console()
    if target:
        target.touch()
    with tempfile.TemporaryDirectory() as folder:
        if store is None and not any(Path().glob("*.zarr")):
            console.print("no *.zarr here: measuring on a synthetic store, made now")
            store = make_store(Path(folder))
        try:
            opened = Store(store or only_store(Path()))
            speeds = measure(rungs(opened, batch), rounds, steps)
        except GlacierError as error:
            raise click.ClickException(str(error)) from error
    table = Table(title=f"{opened.path.name}, {rounds} rounds", box=SIMPLE_HEAD)
    table.title_justify = "left"
    for head in ("rung", "tiles/s", "min", "max"):
        table.add_column(head, justify="left" if head == "rung" else "right")
    result = {
        name: {"tiles_per_s": statistics.median(s), "min": min(s), "max": max(s)}
        for name, s in speeds.items()
    }
    for name, row in result.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    console.print(table)
    here = machine()
    console.print(", ".join(f"{k} {v}" for k, v in here.items() if v is not None), style="dim")
    if target:
        target.write_text(json.dumps({"machine": here, "rungs": result, "peers": {}}, indent=2))


if __name__ == "__main__":
    main()
