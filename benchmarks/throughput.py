"""How many tiles per second each step of the data path delivers, and other loaders beside it, in one run.

    python benchmarks/throughput.py                    the only *.zarr here; none: made-up tiles
    python benchmarks/throughput.py --tiles smooth     made-up tiles, with peers on the same (--tiles noise)
    python benchmarks/throughput.py --cold             the store's pages dropped before each measurement
    python benchmarks/throughput.py --step-ms 500 --ranks 2 --batch 48     would two GPUs wait?

Every row is measured once a round, all rows in turn, and the median of its rounds is shown with their
least and most. Peers come with `pip install .[peers]`.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.host import machine
from benchmarks.ladder import Ladder, Rung
from benchmarks.peers import MISSING, PEERS, UNMEASURED, TensorstoreReader, ZarrReader, open_peer, touch
from benchmarks.starve import FILLING, Starved, starve
from benchmarks.tiles import Kind, Tiles, make_store, make_tiles
from glacier.errors import GlacierError
from glacier.machine import cores
from glacier.store.reader import Store, only_store

Speeds = dict[str, list[float]]
SLOW_ROUNDS = 2
"""Rounds of a rung that is slow."""
PACKAGES = (
    "torch", "nvidia-dali-cuda120", "numcodecs", "zarr", "rasterio", "torchgeo", "litdata", "webdataset",
    "tensorstore", "spdl",
)  # fmt: skip
console = Console()


def measure(rungs: dict[str, Rung], rounds: int, before: Callable[[], None]) -> Speeds:
    """Tiles per second of each rung, round by round, after one to warm up; slow ones last, and fewer."""
    speeds: Speeds = {name: [] for name in rungs}
    turns = [(turn, name) for turn in range(rounds + 1) for name in rungs if not rungs[name].slow]
    turns += [(turn, name) for turn in range(SLOW_ROUNDS + 1) for name in rungs if rungs[name].slow]
    for turn, name in track(turns, "measure", console=console, transient=True):
        before()
        start = time.perf_counter()
        tiles = rungs[name].run()
        if turn:
            speeds[name].append(tiles / (time.perf_counter() - start))
    return speeds


def drop_pages(store: Store) -> None:
    """Have the kernel forget what it holds of a store's files; none of them may be mapped."""
    store.close_files()
    for folder, _, files in os.walk(store.path):
        for file in files:
            descriptor = os.open(Path(folder, file), os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


@contextmanager
def peers(
    tiles: Tiles, store: Path, work: Path, batch: int
) -> Iterator[tuple[dict[str, Rung], dict[str, str]]]:
    """Every peer as a rung, and for those that cannot run the reason."""
    opened: list[Any] = []
    rungs: dict[str, Rung] = {}
    absent: dict[str, str] = dict(UNMEASURED)

    def epochs(peer: Any) -> Callable[[], int]:
        def run() -> int:
            done = 0
            for batch in peer.epoch():
                touch(batch)
                done += len(batch[1])
            return done

        return run

    def reads(reader: Any) -> Callable[[], int]:
        def run() -> int:
            for first in range(0, len(tiles), batch):
                reader.read(range(first, min(first + batch, len(tiles))))
            return len(tiles)

        return run

    for kind in PEERS:
        peer = open_peer(kind, tiles, store, work / kind.__name__, batch=batch, workers=cores())
        if isinstance(peer, str):
            absent[kind.name] = peer  # type: ignore[attr-defined]
        else:
            opened.append(peer)
            rungs[peer.name] = Rung(epochs(peer), peer.settings)
    try:
        reader, again = (TensorstoreReader(store, cores(), again=again) for again in (False, True))
        rungs["read: tensorstore"] = Rung(reads(reader), "glacier's store, a batch's reads at once")
        rungs["read: tensorstore, reusing"] = Rung(reads(again), "the same into memory used again")
    except ImportError:
        absent["read: tensorstore"] = MISSING
    rungs["read: zarr-python"] = Rung(reads(ZarrReader(store)), "glacier's store, tile by tile")
    try:
        yield rungs, absent
    finally:
        for peer in opened:
            peer.close()


def summary(speeds: Speeds) -> dict[str, dict[str, float]]:
    """Median, least and most of each row."""
    return {
        name: {"tiles_per_s": statistics.median(s), "min": min(s), "max": max(s)}
        for name, s in speeds.items()
    }


def show(
    title: str, rows: dict[str, dict[str, float]], does: dict[str, str], absent: dict[str, str]
) -> None:
    """One table."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for head in ("", "tiles/s", "min", "max"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    table.add_column("", style="dim")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:,.1f}" for value in row.values()), does[name])
    for name, reason in absent.items():
        table.add_row(name, "–", "–", "–", reason)
    console.print(table)


def show_starved(found: Starved) -> None:
    """What each rank waited."""
    table = Table(title=found.title, box=SIMPLE_HEAD, title_justify="left")
    for head in ("rank", "filling", "data wait", "worst step", "cores taken", "peak memory"):
        table.add_column(head, justify="right")
    for rank, row in enumerate(found.ranks):
        table.add_row(
            str(rank),
            f"{row.filling:.1f} s",
            f"{row.wait:.2%}",
            f"{row.worst * 1e3:.0f} ms",
            f"{row.cores:.2f}",
            f"{row.peak_gib:.1f} GiB",
        )
    console.print(table)
    console.print(
        f"{found.tiles_per_s:.1f} tiles/s of {found.asked:.1f} asked for; data wait {found.wait:.2%}; "
        f"{found.share:.0%} of {cores()} cores went into loading"
    )


@click.command()
@click.option("--store", type=click.Path(path_type=Path), help="Default: the only *.zarr here.")
@click.option("--tiles", "kind", type=click.Choice(["noise", "smooth"]), help="Make up tiles of this kind.")
@click.option("--count", type=click.IntRange(8), default=96, show_default=True, help="Tiles to make up.")
@click.option("--size", type=click.IntRange(64), default=512, show_default=True, help="Their side, px.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=24, show_default=True, help="Batches per measurement."
)
@click.option("--cold", is_flag=True, help="Drop the store's pages before each measurement; rungs only.")
@click.option(
    "--step-ms", type=click.FloatRange(0), help="Instead: a step that takes this long and no CPU."
)
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="With --step-ms.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
@click.option("--figure", type=click.Path(path_type=Path), help="Also draw it here (needs matplotlib).")
def main(
    store: Path | None,
    kind: Kind | None,
    count: int,
    size: int,
    batch: int,
    rounds: int,
    steps: int,
    cold: bool,
    step_ms: float | None,
    ranks: int,
    target: Path | None,
    figure: Path | None,
) -> None:
    """Measure the data path, rung by rung."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    result: dict[str, Any] = {"machine": machine(PACKAGES) | {"gpu": gpu}, "rungs": {}, "peers": {}}
    if target:
        target.touch()
    with tempfile.TemporaryDirectory() as folder:
        tiles = None
        if kind is None and store is None and not any(Path().glob("*.zarr")):
            console.print("no *.zarr here: measuring on made-up tiles")
            kind = "noise"
        if kind:
            tiles = make_tiles(Path(folder, "tiles"), kind, count, size)
            store = make_store(tiles, Path(folder, f"{kind}.zarr"))
        try:
            with Store(store or only_store(Path())) as opened:
                result["tiles"] = about(opened)
                if step_ms is not None:
                    if steps <= FILLING:
                        raise click.UsageError(
                            f"--steps {steps}: expected more than the {FILLING} that fill up"
                        )
                    found = starve(opened, step_ms / 1e3, ranks, batch, steps)
                    show_starved(found)
                    result["starved"] = found.to_json()
                else:
                    _ladder(opened, tiles, Path(folder, "peers"), batch, rounds, steps, cold, result)
        except GlacierError as error:
            raise click.ClickException(str(error)) from error
    console.print(", ".join(f"{k} {v}" for k, v in result["machine"].items() if v is not None), style="dim")
    if target:
        target.write_text(json.dumps(result, indent=2) + "\n")
    if figure:
        from benchmarks.figure import draw

        draw(result, figure)


def about(store: Store) -> str:
    """What tiles a store holds."""
    meta, size = store.meta, store.meta.tile_size
    return (
        f"{store.name}: {len(store)} tiles of {size} px, {len(meta.bands)} bands {meta.dtype}, {meta.codec}"
    )


def _ladder(
    store: Store,
    tiles: Tiles | None,
    work: Path,
    batch: int,
    rounds: int,
    steps: int,
    cold: bool,
    result: Any,
) -> None:
    rungs = Ladder(store, batch, steps).rungs()
    cache = "cold" if cold else "warm"
    before = (lambda: drop_pages(store)) if cold else (lambda: None)
    title = f"{result['tiles']}; batches of {batch}, {rounds} rounds, {cache} cache"
    absent: dict[str, str] = {}
    others: dict[str, Rung] = {}
    if cold:
        rungs = {
            name: rung
            for name, rung in rungs.items()
            if not rung.slow and name not in ("decode", "checksum")
        }
    if tiles and not cold:
        with peers(tiles, Path(store.path), work, batch) as (others, absent):
            speeds = measure(rungs | others, rounds, before)
    else:
        speeds = measure(rungs, rounds, before)
    result |= {"cache": cache, "batch": batch, "rounds": rounds}
    rows = summary(speeds)
    does = {name: rung.does for name, rung in (rungs | others).items()}
    result["does"] = does
    result["rungs"] = {name: rows[name] for name in rungs}
    result["peers"] = {name: rows[name] for name in others}
    show(title, result["rungs"], does, {})
    if others:
        show(
            "peers: the job of `mirrored`; read: the job of `reader`",
            result["peers"],
            does,
            absent,
        )


if __name__ == "__main__":
    main()
