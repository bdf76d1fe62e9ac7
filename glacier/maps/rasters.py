"""Maps as cloud-optimised GeoTIFFs on their scene's grid."""

import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what `rasterio.shutil` raises
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from glacier.classes import Class
from glacier.errors import GlacierError
from glacier.scenes.scene import Grid, Scene

Shares = Literal["uint8", "float16"]
"""How probabilities are stored: scaled, or in half precision."""
STEPS = 250
"""Scaled probabilities count steps of 0.004; 255 is no data."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a raster holds."""

    dtype: str
    nodata: float
    bands: tuple[str, ...] = ("",)
    """Their descriptions."""
    scale: float = 1.0
    colours: tuple[tuple[int, str], ...] = ()
    """Value and #rrggbb."""
    tags: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    """Of GDAL's COG driver."""


def class_kind(
    scene: Scene, classes: Sequence[Class], made: tuple[str, str]
) -> tuple[Kind, NDArray[np.generic]]:
    """A map of classes with the labels' own values and colours, and the value of each class index (256,).

    No data is the scene's own no-data value, or where a class has that value, or the scene has none,
    the highest value that no class has. `made` is a tag of its own.
    """
    values = [c.value for c in classes]
    byte = all(0 <= value <= 255 for value in values)
    dtype = np.dtype("uint8" if byte else "int32")
    nodata = _nodata(scene, values, np.iinfo(dtype.name).max)
    table = np.full(256, nodata, dtype)
    table[: len(values)] = values
    colours = tuple((c.value, c.colour) for c in classes) if byte else ()
    tags = (("CLASSES", ",".join(f"{c.value}={c.name}" for c in classes)), made)
    options = (("overview_resampling", "mode"),)
    return Kind(dtype.name, nodata, ("class",), colours=colours, tags=tags, options=options), table


def _nodata(scene: Scene, values: Sequence[int], highest: int) -> int:
    own = scene.bands[0].nodata
    if own is not None and float(own).is_integer() and 0 <= own <= highest and own not in values:
        return int(own)
    return max(set(range(max(0, highest - len(values)), highest + 1)) - set(values))


def shares_kind(how: Shares, bands: tuple[str, ...], made: tuple[str, str]) -> Kind:
    """Probabilities, what each band holds by name; `made` is a tag."""
    average = ("overview_resampling", "average")
    if how == "uint8":
        return Kind("uint8", 255, bands, scale=1 / STEPS, tags=(made,), options=(average,))
    half = (average, ("nbits", 16), ("predictor", "yes"))
    return Kind(
        "float32", np.nan, bands, tags=(made,), options=half
    )  # GDAL stores what has 16 bits as halves


def stored(shares: NDArray[np.float32], how: Shares) -> NDArray[np.generic]:
    """Shares (C, H, W), NaN without data, as they are stored."""
    if how == "float16":
        return shares.astype(np.float16)
    return np.where(np.isnan(shares), 255, np.rint(shares * STEPS)).astype(np.uint8)


def write_raster(
    path: Path, strips: Iterable[NDArray[np.generic]], grid: Grid, kind: Kind, aside: Path
) -> None:
    """Write a raster on a scene's grid, whole or not at all.

    Args:
        path: of the raster.
        strips: its rows (band, h, W), from top to bottom.
        grid: of the scene.
        kind: what it holds.
        aside: a folder for what is not finished.

    Raises:
        GlacierError: it could not be written.
    """
    plain, whole = aside / f"{path.name}.plain.tif", aside / f"{path.name}.whole.tif"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            sums = _write_plain(plain, strips, grid, kind)
            rasterio.shutil.copy(
                plain, whole, driver="COG", compress="deflate", bigtiff="if_safer", **dict(kind.options)
            )
            _compare(whole, sums, kind.dtype)  # a full disk is no error to what closes the file
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(path)
    except (RasterioError, CPLE_BaseError) as error:
        raise GlacierError(f"{path}: could not be written whole ({error}); is the disk full?") from error
    finally:
        for file in (plain, whole):
            file.unlink(missing_ok=True)


def _write_plain(
    path: Path, strips: Iterable[NDArray[np.generic]], grid: Grid, kind: Kind
) -> list[tuple[Window, int]]:
    """Write a GeoTIFF row by row; the checksum of each strip."""
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(kind.bands),
        "dtype": kind.dtype,
        "nodata": kind.nodata,
        "bigtiff": "if_safer",
        "photometric": "minisblack",  # or four bands of bytes are taken for three colours and an alpha
        **grid.profile(),
    }
    sums = []
    with rasterio.open(path, "w", **profile) as file:
        if kind.colours:
            file.write_colormap(1, {value: _rgba(colour) for value, colour in kind.colours})
        file.update_tags(**dict(kind.tags))
        file.descriptions, file.scales = kind.bands, [kind.scale] * len(kind.bands)
        for window, strip in _placed(strips, grid.width):
            pixels = strip.astype(kind.dtype, copy=False)
            file.write(pixels, window=window)
            sums.append((window, _sum(pixels)))
    return sums


def _placed(
    strips: Iterable[NDArray[np.generic]], width: int
) -> Iterator[tuple[Window, NDArray[np.generic]]]:
    top = 0
    for strip in strips:
        yield Window(0, top, width, strip.shape[1]), strip
        top += strip.shape[1]


def _sum(pixels: NDArray[np.generic]) -> int:
    return zlib.crc32(np.nan_to_num(pixels, nan=-1.0).tobytes())


def _compare(path: Path, sums: Sequence[tuple[Window, int]], dtype: str) -> None:
    """GDAL from 3.11 on reads halves as such, before as float32; NaNs may come back with other bits."""
    with rasterio.open(path) as file:
        for window, expected in sums:
            if _sum(file.read(window=window, out_dtype=dtype)) != expected:
                raise RasterioError("pixels differ")


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.lstrip("#"))
    return red, green, blue, 255
