"""How fast a scene becomes a map, beside the same network in a plain loop.

    python benchmarks/predict.py               a synthetic scene of 3 000 x 3 000 px, seven bands
    python benchmarks/predict.py --json F      also as JSON

Two networks, trained for some steps only, which the speed does not depend on: the demo's, and a U-Net on
ResNet-34. Both ways see the same windows of 512 px one by one, weigh them alike and write the classes. The
loop reads each window with rasterio, standardises it with NumPy, keeps the shares of the whole scene in
memory and writes a plain GeoTIFF; `glacier predict` reads ahead, keeps as many rows as a window has, and
writes a cloud-optimised one, which it reads back. The two take turns; medians of `--rounds`.
"""

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.host import machine
from glacier.config import Config, shipped
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.machine import cores
from glacier.maps.blend import corners, weights
from glacier.maps.command import MapRequest, predict_all
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from glacier.train.loop import train
from glacier.train.members import gather
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run

SIZE = 512
NETWORKS = {
    "demo": [],
    "resnet34": ["model.encoder=resnet34", "model.decoder_channels=[]", "train.batch=2"],
}


def make_runs(folder: Path) -> dict[str, Path]:
    """A run of each network, from tiles of 512 px."""
    write_synthetic(folder / "tiles", layout="bands", seed=1, count=9, size=SIZE)
    scenes = find_scenes(folder / "tiles")
    ingest(
        scenes=scenes, source=folder / "tiles", out=folder / "s.zarr", options=Options(), workers=cores()
    )
    few = ["train.epochs=1", "train.samples_per_epoch=4", "train.batch=4", "data.patch=128"]
    here = Ranks(0, 1, torch.device("cpu"))
    for name, settings in NETWORKS.items():
        config = Config.load(shipped("demo"), [*few, *settings])
        train(config, Store(folder / "s.zarr"), folder / name, here)
    return {name: folder / name for name in NETWORKS}


def plain(run: Path, source: Path, out: Path) -> None:
    """The loop a person would write."""
    members = gather([load_run(run)])
    own = members.runs[0]
    mean = np.array([s.mean for s in own.statistics], np.float32)[:, None, None]
    std = np.array([s.std for s in own.statistics], np.float32)[:, None, None]
    (scene,) = find_scenes(source, labelled=False, bands=members.selection)
    segmenter = own.segmenter()
    files = {path: rasterio.open(path) for path in {band.path for band in scene.bands}}
    height, width = scene.grid.height, scene.grid.width
    total = np.zeros((len(own.classes), height, width), np.float32)
    gone = np.zeros((height, width), bool)
    with torch.inference_mode():
        for y, down in zip(corners(height, SIZE), weights(height, SIZE).numpy(), strict=True):
            for x, along in zip(corners(width, SIZE), weights(width, SIZE).numpy(), strict=True):
                window = Window(x, y, SIZE, SIZE)
                read = [files[b.path].read(b.index, window=window, masked=True) for b in scene.bands]
                pixels = np.stack([band.astype(np.float32).filled(np.nan) for band in read])
                image = torch.from_numpy(np.nan_to_num((pixels - mean) / std))[None]
                scores = segmenter.network(segmenter.features(image)) + segmenter.offset[:, None, None]
                shares = (scores / segmenter.temperature).softmax(dim=1)[0].numpy()
                place = (slice(y, y + SIZE), slice(x, x + SIZE))
                total[:, *place] += shares * np.outer(down, along)
                gone[place] = np.isnan(pixels[:5]).all(axis=0)
    for file in files.values():
        file.close()
    values = np.array([c.value for c in own.classes], np.uint8)
    found = np.where(gone, 254, values[total.argmax(axis=0)])
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8",
        "nodata": 254,
    }
    with rasterio.open(
        out, "w", crs=scene.grid.crs, transform=scene.grid.transform, compress="deflate", **profile
    ) as file:
        file.write(found.astype(np.uint8), 1)


@click.command()
@click.option(
    "--side", type=click.IntRange(SIZE), default=3000, show_default=True, help="Of the scene, px."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Also write the result here.")
def main(side: int, rounds: int, target: Path | None) -> None:
    """Measure maps."""
    console = Console()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = make_runs(folder)
        write_synthetic(folder / "scene", layout="scenes", seed=2, count=1, size=side)
        for network, run in runs.items():
            seconds = found.setdefault(network, {"glacier": [], "plain loop": []})
            for turn in range(rounds):
                out = folder / f"{network}{turn}"
                start = time.perf_counter()
                (made,) = predict_all(MapRequest(runs=[run], source=folder / "scene", out=out))
                seconds["glacier"].append(time.perf_counter() - start)
                start = time.perf_counter()
                plain(run, folder / "scene", folder / "plain.tif")
                seconds["plain loop"].append(time.perf_counter() - start)
            with rasterio.open(made) as one, rasterio.open(folder / "plain.tif") as other:
                agree = (one.read(1) == other.read(1)).mean()
            console.print(f"{network}: {100 * agree:.2f} % of pixels alike")
    table = Table(title=f"{side} x {side} px, seven bands", box=SIMPLE_HEAD, title_justify="left")
    for head in ("network", "way", "Mpx/s", "min", "max"):
        table.add_column(head, justify="left" if head in ("network", "way") else "right")
    speeds = {
        network: {
            way: {
                "mpx_per_s": side**2 / 1e6 / float(np.median(taken)),
                "min": side**2 / 1e6 / max(taken),
                "max": side**2 / 1e6 / min(taken),
            }
            for way, taken in ways.items()
        }
        for network, ways in found.items()
    }
    for network, ways in speeds.items():
        for way, speed in ways.items():
            table.add_row(network, way, *(f"{value:.3f}" for value in speed.values()))
    console.print(table)
    here = machine(("torch", "rasterio", "numpy"))
    console.print(", ".join(f"{k} {v}" for k, v in here.items()), style="dim")
    if target:
        target.write_text(json.dumps({"machine": here, "side": side, "networks": speeds}, indent=2))


if __name__ == "__main__":
    main()
