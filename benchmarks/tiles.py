"""Tiles to measure on: seeded GeoTIFFs, a folder per scene, and the store made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Interleaving
from scipy import ndimage

Kind = Literal["noise", "smooth"]

BANDS: dict[Kind, tuple[str, ...]] = {
    "noise": ("blue", "green", "red", "nir", "swir1", "swir2", "thermal"),
    "smooth": ("blue", "green", "red", "swir1", "thermal"),
}
RELIEF: dict[Kind, float] = {"noise": 2400.0, "smooth": 700.0}
"""Deviation of the terrain, in digital numbers."""
GRAIN: dict[Kind, float] = {"noise": 50.0, "smooth": 60.0}
"""Deviation of the noise on it."""
LEVEL: dict[Kind, float] = {"noise": 24000.0, "smooth": 2000.0}
TOP: dict[Kind, int] = {"noise": 65535, "smooth": 4095}
NODATA = 0
CLASS_VALUES = np.array([0, 85, 170, 255], np.uint8)
PIXEL = 30.0
"""m"""


@dataclass(frozen=True, slots=True)
class Tiles:
    """What `make_tiles` wrote; tile i is `images[i]` and `labels[i]`."""

    folder: Path
    images: tuple[Path, ...]
    """uint16 (C, H, W)"""
    labels: tuple[Path, ...]
    """uint8 (H, W), values of `CLASS_VALUES`"""
    size: int
    mean: NDArray[np.float64]
    """(C,), of pixels with data"""
    std: NDArray[np.float64]
    """(C,)"""
    nodata: int = NODATA

    def __len__(self) -> int:
        return len(self.images)


def make_tiles(folder: Path, kind: Kind, count: int = 96, size: int = 512) -> Tiles:
    """Write `count` scenes of one tile each, in the layout `scenes`: uncompressed, no data as 0.

    Args:
        folder: where a folder per scene is made.
        kind: `noise` is 16 bits of strong texture, 7 bands; `smooth` is 12 bits as of Landsat 8, 5 bands.
        count: scenes.
        size: side of a tile, px, at least 64.
    """
    images, labels = [], []
    total = np.zeros((3, len(BANDS[kind])))
    for place in range(count):
        image, label = _tile(np.random.default_rng([size, place]), kind, size, gaps=place % 4 == 0)
        for band, pixels in enumerate(image):
            valid = pixels[pixels != NODATA].astype(np.float64)
            total[:, band] += len(valid), valid.sum(), (valid * valid).sum()
        name = f"scene_{place:04d}"
        step = 2 * size * PIXEL
        corner = Affine.translation(480000 + place % 16 * step, 3110000 - place // 16 * step)
        here = corner @ Affine.scale(PIXEL, -PIXEL)
        (folder / name).mkdir(parents=True)
        images.append(folder / name / f"{name}.tif")
        labels.append(folder / name / f"{name}_label.tif")
        write(images[-1], image, here, BANDS[kind], NODATA)
        write(labels[-1], CLASS_VALUES[label][None], here, ("label",), None)
    mean = total[1] / total[0]
    return Tiles(folder, tuple(images), tuple(labels), size, mean, np.sqrt(total[2] / total[0] - mean**2))


def make_store(tiles: Tiles, out: Path) -> Path:
    """The glacier store of `tiles`."""
    from glacier.ingest.plan import Options
    from glacier.ingest.write import ingest
    from glacier.machine import cores
    from glacier.scenes.layouts import find_scenes

    options = Options(tile_size=tiles.size)
    ingest(tiles.folder, find_scenes(tiles.folder), out, options, workers=cores())
    return out


def _tile(
    rng: np.random.Generator, kind: Kind, size: int, *, gaps: bool
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """An image (C, H, W) and class indices (H, W); `gaps` takes other rows from each band."""
    ground = _field(rng, size)
    image = np.empty((len(BANDS[kind]), size, size), np.uint16)
    for band in range(len(image)):
        pixels = rng.standard_normal((size, size), np.float32)
        pixels *= GRAIN[kind]
        pixels += np.float32(rng.uniform(0.5, 1.0) * RELIEF[kind]) * ground
        pixels += np.float32(LEVEL[kind] * (1 + band / 16))
        np.clip(pixels, 1, TOP[kind], out=pixels)
        image[band] = pixels
        if gaps:
            image[band, size // 4 + 2 * band : size // 4 + 2 * band + 2, size // 3 :] = NODATA
    return image, np.digitize(_field(rng, size), (-0.5, 0.3, 1.0)).astype(np.uint8)


def _field(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Hills of deviation 1 (H, W)."""
    coarse = ndimage.zoom(rng.standard_normal((size // 32 + 3,) * 2, np.float32), 4, order=3)
    hills = ndimage.zoom(coarse, 8, order=1)[:size, :size]
    return np.asarray((hills - hills.mean()) / hills.std(), np.float32)


def write(
    path: Path,
    pixels: NDArray[np.uint16] | NDArray[np.uint8],
    transform: Affine,
    names: tuple[str, ...],
    nodata: int | None,
) -> None:
    """One GeoTIFF of (C, H, W), a strip per band: one read each."""
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype,
        crs="EPSG:32645", transform=transform, nodata=nodata, interleave=Interleaving.band,
        blockysize=height,
    ) as file:  # fmt: skip
        file.write(pixels)
        file.descriptions = names
