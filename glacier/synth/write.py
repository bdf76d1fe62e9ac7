"""Synthetic scenes on disk, in the layouts that `ingest` reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from glacier.classes import COMPETITION
from glacier.errors import GlacierError, UsageError
from glacier.synth.hkh import write_release
from glacier.synth.ice import glaciate
from glacier.synth.sensor import NODATA, View, look
from glacier.synth.terrain import PIXEL, elevation

Layout = Literal["bands", "scenes", "hkh"]

CRS = "EPSG:32645"
CORNER = (480000.0, 3110000.0)
"""Easting and northing of the first scene's upper left corner, m."""
CODES = {"blue": "B2", "green": "B3", "red": "B4", "swir1": "B6", "thermal": "B10"}
"""Landsat 8's codes of the bands."""
LAKES = 0.001
CLOUDS = 0.03


@dataclass(frozen=True, slots=True)
class Synthetic:
    """One made-up scene."""

    view: View
    label: NDArray[np.uint8]
    """(H, W): 0 background, 85 glacier, 170 debris, 255 lake."""
    transform: Affine


def synthesise(seed: int, height: int, width: int, *, place: int = 0) -> Synthetic:
    """One scene of `height` x `width` px, the same for the same seed; `place` moves it on the ground."""
    rng = np.random.default_rng([seed, place])
    land = glaciate(rng, elevation(rng, (height, width)), LAKES)
    view = look(rng, land, CLOUDS)
    values = np.array([c.value for c in COMPETITION.classes], np.uint8)
    step = 2 * PIXEL * max(height, width)
    corner = Affine.translation(CORNER[0] + place % 5 * step, CORNER[1] - place // 5 * step)
    return Synthetic(view, values[land.classes], corner @ Affine.scale(PIXEL, -PIXEL))


def write_synthetic(out: Path, *, layout: Layout, seed: int, count: int, size: int) -> int:
    """Write scenes below `out`.

    Args:
        out: a folder that does not exist yet.
        layout: `bands` cuts one landscape into `count` tiles of `size` px, in folders Band1 … Band5,
            GLCM_contrast, GLCM_homogeneity and label; `scenes` makes `count` landscapes, each a
            folder with a five-band stack, textures and a label; `hkh` is the HKH release in small.
        seed: of everything.
        count: tiles or scenes.
        size: side of a tile or scene, px; of a patch in the HKH release.

    Returns:
        How many files were written.

    Raises:
        GlacierError: `out` exists.
        UsageError: sizes that make no landscape.
    """
    if out.exists():
        raise GlacierError(f"{out}: exists; give a new folder to write synthetic scenes to")
    if size < 64 or count < 1:
        raise UsageError(f"{count} of {size} px: expected at least one, of at least 64 px")
    write = {"bands": _write_band_folders, "scenes": _write_scenes, "hkh": write_release}[layout]
    return write(out, seed, count, size)


def _write_band_folders(out: Path, seed: int, count: int, size: int) -> int:
    """Tiles as a competition hands them out: names differ by folder, ids `row_column` agree."""
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    whole = synthesise(seed, rows * size, columns * size)
    written = 0
    for tile in range(count):
        row, column = divmod(tile, columns)
        window = (slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))
        here = whole.transform @ Affine.translation(column * size, row * size)
        name = f"{row:02d}_{column:02d}"
        for number, (role, code) in enumerate(CODES.items(), start=1):
            path = out / f"Band{number}" / f"{code}_{code}_masked_{name}.tif"
            _write(path, {role: whole.view.bands[role][window]}, here, nodata=NODATA)
        for role, texture in whole.view.glcm.items():
            folder = role.replace("glcm", "GLCM")
            _write(out / folder / f"{folder}_{name}.tif", {role: texture[window]}, here, nodata=np.nan)
        label = out / "label" / f"Y_output_resized_{name}.tif"
        _write(label, {"label": whole.label[window]}, here, nodata=None)
        written += len(CODES) + len(whole.view.glcm) + 1
    return written


def _write_scenes(out: Path, seed: int, count: int, size: int) -> int:
    for place in range(count):
        scene = synthesise(seed, size, size, place=place)
        name = f"scene_{place:02d}"
        folder = out / name
        _write(folder / f"{name}.tif", scene.view.bands, scene.transform, nodata=NODATA)
        for role, texture in scene.view.glcm.items():
            path = folder / "glcm" / f"{role.removeprefix('glcm_')}.tif"
            _write(path, {role: texture}, scene.transform, nodata=np.nan)
        _write(folder / f"{name}_label.tif", {"label": scene.label}, scene.transform, nodata=None)
    return count * 4


def _write(path: Path, bands: Mapping[str, NDArray[Any]], transform: Affine, nodata: float | None) -> None:
    """One compressed GeoTIFF whose bands carry their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.stack(list(bands.values()))
    profile = {"driver": "GTiff", "compress": "deflate", "predictor": 2}
    if pixels.dtype == np.float32:
        profile["predictor"] = 3
    with rasterio.open(
        path,
        "w",
        count=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=pixels.dtype,
        crs=CRS,
        transform=transform,
        nodata=nodata,
        **profile,
    ) as file:
        file.write(pixels)
        file.descriptions = tuple(bands)
