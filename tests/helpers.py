"""Small real files for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.bands import parse_selection
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.train.ranks import Ranks
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
