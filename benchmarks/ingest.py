"""How fast GeoTIFF becomes a store, beside a plain loop and GDAL's own translation, in one run.

    python benchmarks/ingest.py                   256 tiles of 512 px, seven bands, uint16
    python benchmarks/ingest.py --layout bands    one file per band and tile
    python benchmarks/ingest.py --json F          also as JSON

The sources are made in a temporary folder (`TMPDIR` says where) and stay in the page cache. `glacier`
surveys, packs, maps labels, keeps statistics and can go on after a kill. The plain loops read each tile
with rasterio and assign it to zarr-python arrays of the same chunks, shards and codecs: a shard at a
time, or a tile at a time, which rewrites the shard for every tile and is measured on a quarter of the
sources. GDAL translates each band file to a Zarr of the same chunks and compressor (in `bands`, a chunk
per band), without shards, checksums or labels.

What only the main process needs is imported where it is used: glacier's workers import this module too,
as they would the `glacier` command.
"""

import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.host import machine
from glacier.machine import cores
from glacier.store.schema import tiles_per_shard

Layout = Literal["scenes", "bands"]
Run = Callable[[Path], None]
"""Makes a store at a path that does not exist."""
Peers = dict[str, tuple[Run, int]]
"""What is measured, and how many tiles it ingests."""

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2", "thermal")
SIDE = 4
"""Tiles along each side of a scene."""
CLASSES = np.array([0, 85, 170, 255], np.uint8)
BASE = "plain loop, by shard"


def make_sources(folder: Path, layout: Layout, tiles: int, size: int) -> list[tuple[list[Path], Path]]:
    """Seeded scenes, uint16 with 0 for no data, uncompressed: smooth fields with noise.

    Returns:
        For each scene, its band files and its label.
    """
    rng = np.random.default_rng(0)
    side = SIDE * size if layout == "scenes" else size
    made = []
    for i in range(-(-tiles // SIDE**2) if layout == "scenes" else tiles):
        level = rng.integers(6000, 12000, (len(BANDS), 1, 1), np.uint16)
        pixels = np.stack([level[b] + _field(rng, side) for b in range(len(BANDS))])
        pixels[:, :8, : side // 2] = 0
        label = CLASSES[np.repeat(np.repeat(rng.integers(0, 4, (side // 32,) * 2), 32, 0), 32, 1)]
        corner = rasterio.Affine(30, 0, 480000 + 30 * side * i, 0, -30, 3110000)
        if layout == "scenes":
            files = [_write(folder / f"s{i}.tif", pixels, corner, BANDS)]
            made.append((files, _write(folder / f"s{i}_label.tif", label[None], corner)))
        else:
            files = [
                _write(folder / f"Band{b + 1}" / f"B{b + 1}_masked_{i:04d}_00.tif", band[None], corner)
                for b, band in enumerate(pixels)
            ]
            made.append((files, _write(folder / "label" / f"Y_{i:04d}_00.tif", label[None], corner)))
    return made


def _field(rng: np.random.Generator, side: int) -> NDArray[np.uint16]:
    """Hills of 32 px with noise as a sensor's (side, side)."""
    coarse = rng.normal(0, 900, (side // 32 + 1,) * 2).astype(np.float32)
    at = np.arange(side, dtype=np.float32) / 32
    near, share = at.astype(int), at % 1
    rows = coarse[near] * (1 - share[:, None]) + coarse[near + 1] * share[:, None]
    hills = rows[:, near] * (1 - share) + rows[:, near + 1] * share
    return (hills + 40 * rng.standard_normal((side, side), np.float32)).clip(-5000, 5000).astype(np.uint16)


def _write(path: Path, pixels: NDArray[Any], transform: Any, names: tuple[str, ...] = ()) -> Path:
    path.parent.mkdir(exist_ok=True)
    profile: dict[str, Any] = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=pixels.dtype,
        crs="EPSG:32645",
        transform=transform,
        nodata=0 if pixels.dtype == np.uint16 else None,
        **profile,
    ) as file:
        file.write(pixels)
        if names:
            file.descriptions = names
    return path


def glacier(source: Path, size: int, workers: int) -> Run:
    """`glacier ingest`, scenes found and all."""
    from glacier.ingest.plan import Options
    from glacier.ingest.write import ingest
    from glacier.scenes.layouts import find_scenes

    def run(out: Path) -> None:
        ingest(source, find_scenes(source), out, Options(tile_size=size), workers=workers)

    return run


def plain(made: list[tuple[list[Path], Path]], size: int, shard: int, *, by_shard: bool) -> Run:
    """The loop a person would write: rasterio's windows into zarr-python's arrays."""

    def run(out: Path) -> None:
        tiles = sum(len(_windows(label, size)) for _, label in made)
        image = _array(out / "image", np.uint16, (size, size, len(BANDS)), tiles, shard)
        labels = _array(out / "label", np.uint8, (size, size), tiles, shard)
        step = shard if by_shard else 1
        start, held = 0, []
        for pair in _read(made, size):
            held.append(pair)
            if len(held) == step or start + len(held) == tiles:
                image[start : start + len(held)] = np.stack([i for i, _ in held])
                labels[start : start + len(held)] = np.stack([c for _, c in held])
                start, held = start + len(held), []

    return run


def _windows(label: Path, size: int) -> list[Window]:
    with rasterio.open(label) as file:
        return [
            Window(column, row, size, size)
            for row in range(0, file.height, size)
            for column in range(0, file.width, size)
        ]


def _read(
    made: list[tuple[list[Path], Path]], size: int
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint8]]]:
    """Every tile (S, S, B) with its class indices (S, S)."""
    index = np.zeros(256, np.uint8)
    index[CLASSES] = np.arange(len(CLASSES))
    for paths, label in made:
        files = [rasterio.open(path) for path in paths]
        with rasterio.open(label) as labels:
            for window in _windows(label, size):
                bands = np.concatenate([file.read(window=window) for file in files])
                yield np.moveaxis(bands, 0, -1), index[labels.read(1, window=window)]
        for file in files:
            file.close()


def _array(path: Path, dtype: Any, tile: tuple[int, ...], tiles: int, shard: int) -> Any:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    blosc = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=np.dtype(dtype).itemsize)
    return zarr.create_array(
        path,
        shape=(tiles, *tile),
        chunks=(1, *tile),
        shards=(shard, *tile),
        dtype=dtype,
        fill_value=0,
        compressors=[blosc, Crc32cCodec()],
    )


def gdal(made: list[tuple[list[Path], Path]], size: int) -> Run:
    """GDAL's translation of each band file to Zarr; its blosc is lz4, level 5, byte shuffle by default."""

    def run(out: Path) -> None:
        out.mkdir()
        for paths, _ in made:
            for path in paths:
                rasterio.shutil.copy(
                    path,
                    out / f"{path.stem}.zarr",
                    driver="Zarr",
                    strict=False,
                    FORMAT="ZARR_V3",
                    COMPRESS="BLOSC",
                    BLOCKSIZE=f"{len(BANDS)},{size},{size}" if len(paths) == 1 else f"{size},{size}",
                )

    return run


def without_gdal_zarr(folder: Path) -> str | None:
    """Why rasterio's GDAL cannot write Zarr; None where it can."""
    trial = folder / "trial.tif"
    _write(trial, np.ones((1, 32, 32), np.uint16), rasterio.Affine.scale(30))
    try:
        rasterio.shutil.copy(
            trial, folder / "trial.zarr", driver="Zarr", FORMAT="ZARR_V3", COMPRESS="BLOSC"
        )
    except rasterio.errors.RasterioError as error:
        return str(error)
    return None


def measure(peers: Peers, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Tiles per second of each peer in interleaved rounds, after one to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(rounds + 1):
        for name, (run, tiles) in peers.items():
            out = folder / "out"
            start = time.perf_counter()
            run(out)
            if turn:
                speeds[name].append(tiles / (time.perf_counter() - start))
            shutil.rmtree(out)
    return speeds


@click.command()
@click.option("--tiles", type=click.IntRange(1), default=256, show_default=True)
@click.option("--size", type=click.IntRange(32), default=512, show_default=True, help="Tile side, px.")
@click.option(
    "--layout",
    type=click.Choice(["scenes", "bands"]),
    default="scenes",
    show_default=True,
    help=f"A stack per scene of {SIDE} x {SIDE} tiles, or a file per band and tile.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(tiles: int, size: int, layout: Layout, rounds: int, target: Path | None) -> None:
    """Measure ingest."""
    console, several = Console(), cores() > 1
    if target:
        target.touch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in"
        source.mkdir()
        made = make_sources(source, layout, tiles, size)
        each = SIDE**2 if layout == "scenes" else 1
        count, few = len(made) * each, made[: -(-len(made) // 4)]
        shard = tiles_per_shard(count, size, len(BANDS), 2)
        peers: Peers = {
            **({f"glacier, {cores()} workers": (glacier(source, size, cores()), count)} if several else {}),
            "glacier, 1 worker": (glacier(source, size, 1), count),
            BASE: (plain(made, size, shard, by_shard=True), count),
            "plain loop, by tile": (plain(few, size, shard, by_shard=False), len(few) * each),
        }
        missing = without_gdal_zarr(folder)
        if missing is None:
            peers["GDAL, bands only"] = gdal(made, size), count
        speeds = measure(peers, folder, rounds)
    result = {
        name: {"tiles_per_s": statistics.median(s), "min": min(s), "max": max(s)}
        for name, s in speeds.items()
    }
    table = Table(
        title=f"{count} tiles of {size} px x {len(BANDS)} bands uint16, {layout}, {rounds} rounds",
        box=SIMPLE_HEAD,
        title_justify="left",
    )
    for head in ("ingest", "tiles/s", "min", "max", "MPix/s", "ratio"):
        table.add_column(head, justify="left" if head == "ingest" else "right")
    for name, row in result.items():
        row["mpix_per_s"] = row["tiles_per_s"] * size**2 / 1e6
        row["ratio"] = row["tiles_per_s"] / result[BASE]["tiles_per_s"]
        table.add_row(name, *(f"{v:.1f}" for v in list(row.values())[:4]), f"{row['ratio']:.2f}")
    if missing:
        table.add_row("GDAL, bands only", missing)
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    if several:
        console.print(f"most memory of a worker process: {peak:.2f} GiB")
    here = machine(("rasterio", "zarr", "numcodecs", "numpy")) | {"gdal": rasterio.__gdal_version__}
    console.print(", ".join(f"{k} {v}" for k, v in here.items()), style="dim")
    if target:
        record = {"machine": here, "peers": result, "worker_gib": peak if several else None}
        target.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
