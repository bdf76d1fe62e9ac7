"""What it takes to open a large store and to get its first batch, in a process of its own.

    python benchmarks/opening.py                  100 000 tiles from 100 000 scenes

Tiles are small (32 px, 2 bands), shards as many as if they were 512 px with 7 bands.
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
from rich.console import Console

from benchmarks.host import machine
from glacier.classes import COMPETITION
from glacier.store import schema
from glacier.store.bands import Band, Statistics
from glacier.store.folder import Folder
from glacier.store.schema import Meta
from glacier.store.writer import StoreWriter, Tile

SIZE, BANDS = 32, 2
LIKE = 512 * 512 * 7 / (SIZE * SIZE * BANDS)
"""Pixels of the tiles that these stand for, per pixel of these."""


def make(path: Path, tiles: int) -> None:
    """A complete store of `tiles` tiles of noise, a scene each."""
    schema.SHARD_BYTES = int(schema.SHARD_BYTES / LIKE)
    statistics = Statistics(mean=0, std=1, minimum=-100, maximum=100, p2=-90, p98=90)
    bands = tuple(
        Band(name=f"b{i}", role="other", code=f"B{i}", dtype="int16", nodata=-32768, statistics=statistics)
        for i in range(BANDS)
    )
    meta = Meta(
        tile_size=SIZE, dtype="int16", bands=bands, classes=COMPETITION.classes, crs=("",), folds=5,
        codec="lz4", created_by="benchmark", source={"files": tiles},
    )  # fmt: skip
    names = [f"LE07_{i:06d}_20060712" for i in range(tiles)]
    writer = StoreWriter(Folder(path), meta, tiles, tiles)
    random = np.random.default_rng(0)
    for number, where in writer.shards.items():
        image = random.integers(-100, 100, (len(where), SIZE, SIZE, BANDS), np.int16)
        label = random.integers(0, 4, (len(where), SIZE, SIZE), np.uint8)
        writer.write_shard(number, (Tile(*pair, {}) for pair in zip(image, label, strict=True)))
    numbers = np.arange(tiles)
    moments = np.zeros((tiles, BANDS, 5))
    moments[:] = SIZE * SIZE, 0, SIZE * SIZE * 3300, -100, 99
    transform = np.tile([30.0, 0, 0, 0, -30, 0], (tiles, 1))
    transform[:, 2], transform[:, 5] = numbers % 400 * 1500.0, numbers // 400 * 1500.0
    text = np.array(names, f"S{schema.NAME_BYTES + 1}").view(np.uint8).reshape(tiles, -1)
    arrays: dict[str, Any] = {
        "histogram": np.full((tiles, 1, 1, 4), 256, np.uint16),
        "moments": moments,
        "scene": numbers.astype(np.int32),
        "origin": np.zeros((tiles, 2), np.int32),
        "transform": transform,
        "fold": (numbers * 5 // tiles).astype(np.int8),
        "scene_name": text,
        "scene_crs": np.zeros(tiles, np.int32),
    }
    writer.commit(meta, arrays)


def take(path: Path, answers: Any) -> None:
    """Open, then take a first batch; seconds and MiB of each."""
    import glacier.pipeline.loader
    import glacier.store.reader

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    before, start = resident(), time.perf_counter()
    store = glacier.open(path)
    opened, memory = time.perf_counter() - start, resident() - before
    start = time.perf_counter()
    next(iter(glacier.loader(store, batch=8)))
    answers.put((opened, memory, time.perf_counter() - start, resident() - before))


@click.command()
@click.option("--tiles", type=click.IntRange(100), default=100_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(tiles: int, rounds: int, target: Path | None) -> None:
    """Open a large store in fresh processes; the slowest is shown."""
    console = Console()
    context = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.zarr")
        make(path, tiles)
        shards = sum(1 for _ in path.glob("image/c/*"))
        for _ in range(rounds):
            answers = context.SimpleQueue()
            process = context.Process(target=take, args=(path, answers))
            process.start()
            rows.append(answers.get())
            process.join()
    opened, memory, first, whole = (max(column) for column in zip(*rows, strict=True))
    console.print(
        f"{tiles} tiles from {tiles} scenes in {shards} shards; the slowest of {rounds}, after imports:"
    )
    console.print(f"open: {opened:.2f} s, {memory:.0f} MiB")
    console.print(f"first batch of a uniform plan: {first:.2f} s, {whole:.0f} MiB with opening")
    if target:
        result = {
            "machine": machine(("zarr", "numba", "torch")),
            "tiles": tiles, "shards": shards, "open_s": opened, "open_mib": memory,
            "first_batch_s": first, "first_batch_mib": whole,
        }  # fmt: skip
        target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
