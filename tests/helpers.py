"""Small real files for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from glacier.config import Config, shipped
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.pipeline.split import split, statistics
from glacier.scenes.bands import parse_selection
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Trained, make_segmenter
from glacier.train.stop import Stop

NORTH_UP = Affine(30, 0, 500000, 0, -30, 3100000)


def write_raster(
    path: Path,
    pixels: NDArray,
    *,
    transform: Affine = NORTH_UP,
    crs: str | None = "EPSG:32645",
    nodata: float | None = None,
    names: Sequence[str] = (),
    **options,
) -> Path:
    """A GeoTIFF of (H, W) or (B, H, W)."""
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(pixels), height=pixels.shape[1], width=pixels.shape[2],
        dtype=pixels.dtype, crs=crs, transform=transform, nodata=nodata, **options,
    ) as file:  # fmt: skip
        file.write(pixels)
        if names:
            file.descriptions = tuple(names)
    return path


def cut_tile(source: Path, tile: str, out: Path, *, size: int) -> Path:
    """The upper left corner, `size` px a side, of one tile in folders of bands."""
    for path in source.glob(f"*/*_{tile}.tif"):
        (out / path.parent.name).mkdir(parents=True)
        with rasterio.open(path) as file:
            profile = {**file.profile, "width": size, "height": size}
            with rasterio.open(out / path.relative_to(source), "w", **profile) as corner:
                corner.write(file.read(window=Window(0, 0, size, size)))
                corner.descriptions = file.descriptions
    return out


def write_scene(folder: Path, name: str, *, seed: int = 0, size: int = 64, **label) -> Path:
    """A scene of two uint16 bands and a label of 0/1 in `folder`."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 5000, (2, size, size)).astype(np.uint16)
    write_raster(folder / f"{name}.tif", pixels, nodata=0, names=("red", "nir"))
    write_raster(folder / f"{name}_label.tif", rng.integers(0, 2, (size, size)).astype(np.uint8), **label)
    return folder


def make_store(source: Path, out: Path, *, workers: int = 1, **options) -> Store:
    """Ingest `source` into `out` and open it."""
    settings = Options(**options)
    scenes = find_scenes(source, bands=parse_selection(settings.bands))
    ingest(source, scenes, out, settings, workers=workers)
    return Store(out)


def untrained(store: Store, out: Path, *settings: str, seed: int = 0, **learnt) -> Path:
    """A run as training writes it, with weights at random: what does not ask how well it maps."""
    config = Config.load(shipped("demo"), list(settings))
    names = config.data.bands or store.meta.band_names
    places = [store.meta.band_names.index(name) for name in names]
    pooled = statistics(store, split(store, 0).train)
    known = {
        "config": config,
        "bands": tuple(store.meta.bands[place] for place in places),
        "statistics": tuple(pooled[place] for place in places),
        "classes": store.meta.classes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = make_segmenter(inputs=None, **known).network.state_dict()
    head = [name for name in weights if name.startswith("segmentation_head") and "weight" in name]
    weights |= {name: 30 * weights[name] for name in head}  # or all pixels get one class
    other = {"mcc": 0.5, "prior": (0.0,) * 4, "thresholds": (0.0,) * 4, "temperature": 1.0}
    rest = {"tile_size": store.meta.tile_size, "epoch": 1, "source": store.meta.source, "weights": weights}
    out.mkdir()
    Trained(**known, **rest, **{**other, **learnt}).save(out)
    return out


def one_line(result, code=1):
    """The error's text, once it is sure that it is one line with the right exit code."""
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in result.output
    return lines[-1]


class After(Stop):
    """Due after so many questions."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.left = questions

    def due(self, ranks: Ranks, reserve: float = 0.0) -> bool:
        self.left -= 1
        return self.left < 0
