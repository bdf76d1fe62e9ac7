"""The texture rasters of one scene, computed and written block by block."""

import warnings
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from glacier.errors import GlacierError, UsageError
from glacier.ingest.survey import grid_tiles
from glacier.scenes.files import open_raster
from glacier.scenes.glcm import FEATURES, grey_levels, texture
from glacier.scenes.read import SceneReader
from glacier.scenes.scene import Grid, Scene, Window

BLOCK = 512
"""px; side of the blocks that are computed and stored."""

Tags = dict[str, str]
"""What a raster says of itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Which textures, of what neighbourhood."""

    features: tuple[str, ...]
    window: int = 7
    """px, odd"""
    levels: int = 32

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range."""
        strange = [name for name in self.features if name not in FEATURES]
        if strange or not self.features or len(set(self.features)) < len(self.features):
            raise UsageError(
                f"--features: {','.join(strange or self.features) or 'none'}, expected some of "
                f"{','.join(FEATURES)}, each once"
            )
        if self.window < 3 or self.window % 2 == 0 or self.window > 63:
            raise UsageError(f"--window: {self.window}, expected an odd number of px from 3 to 63")
        if not 2 <= self.levels <= 256:
            raise UsageError(f"--levels: {self.levels}, expected 2 to 256")


def sample(scene: Scene, step: int) -> NDArray[np.float64]:
    """Every `step`-th valid pixel of a scene's band (n,)."""
    taken = []
    with SceneReader(scene) as reader:
        for window in grid_tiles(scene.grid, BLOCK, BLOCK):
            pixels = _read(reader, window)
            taken.append(pixels[np.isfinite(pixels)][::step].copy())  # or a slice would keep it all
    return np.concatenate(taken)


def _read(reader: SceneReader, window: Window) -> NDArray[np.float64]:
    """A window of a scene's band (h, w), NaN where it is no data."""
    ((_, values, valid),) = reader.bands(window)
    pixels = values.astype(np.float64)
    return pixels if valid is None else np.where(valid, pixels, np.nan)


def write_rasters(
    scene: Scene, wanted: Mapping[Path, Tags], settings: Settings, bounds: tuple[float, float]
) -> None:
    """Compute a scene's rasters block by block; each is whole or not there.

    Raises:
        GlacierError: the band cannot be read, or a raster not be written.
    """
    partial = {path: path.with_name(f".{path.name}.partial") for path in wanted}
    names = tuple(tags["GLCM_FEATURE"] for tags in wanted.values())
    windows = grid_tiles(scene.grid, BLOCK, BLOCK)
    sums: dict[Path, list[int]] = {path: [] for path in wanted}
    try:
        with ExitStack() as stack:
            reader = stack.enter_context(SceneReader(scene))
            files = {}
            for path, tags in wanted.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                files[path] = stack.enter_context(_create(partial[path], scene.grid))
                files[path].update_tags(**tags)
                files[path].set_band_description(1, f"glcm_{tags['GLCM_FEATURE']}")
            for window in windows:
                made = _block(reader, window, names, settings, bounds)
                for (path, file), name in zip(files.items(), names, strict=True):
                    file.write(made[name], 1, window=_here(window))
                    sums[path].append(_sum(made[name]))
        for path, written in partial.items():
            with open_raster(written) as back:  # a full disk is no error to what closes the file
                if [_sum(back.read(1, window=_here(window))) for window in windows] != sums[path]:
                    raise RasterioError("pixels differ")
        for path, written in partial.items():
            written.replace(path)
    except RasterioError as error:
        raise GlacierError(f"{path}: could not be written whole ({error}); is the disk full?") from error
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)


def _here(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window(window.column, window.row, window.width, window.height)


def _sum(values: NDArray[np.float32]) -> int:
    return zlib.crc32(values.tobytes())


def _block(
    reader: SceneReader,
    window: Window,
    names: tuple[str, ...],
    settings: Settings,
    bounds: tuple[float, float],
) -> dict[str, NDArray[np.float32]]:
    """The features of a window (h, w), by name, from it and what lies half a neighbourhood around it."""
    half, grid = settings.window // 2, reader.scene.grid
    top, left = max(0, window.row - half), max(0, window.column - half)
    bottom = min(grid.height, window.row + window.height + half)
    right = min(grid.width, window.column + window.width + half)
    pixels = _read(reader, Window(top, left, bottom - top, right - left))
    grey = grey_levels(pixels, *bounds, settings.levels)
    made = texture(grey, names, levels=settings.levels, window=settings.window)
    rows = slice(window.row - top, window.row - top + window.height)
    columns = slice(window.column - left, window.column - left + window.width)
    return {name: values[rows, columns] for name, values in made.items()}


def _create(path: Path, grid: Grid) -> rasterio.io.DatasetWriter:
    """A new float32 GeoTIFF of a band on a scene's grid."""
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "float32",
        "nodata": np.nan,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 3,
        "bigtiff": "if_safer",
        **grid.profile(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, "w", **profile)
