"""Where the patches of the HKH release lie: its own footprints, put right.

The release's `slices.geojson` was written by code that counts rows of boxes from the bottom of a scene
while the patches were cut from its top, spaces box corners by (n - 1) instead of n pixels, and gives all
scenes the CRS of the first. All of it can be undone: the wrong spacing betrays the scene's exact size,
and path and row in its name tell the UTM zone it was delivered in. See docs/hkh.md.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from glacier.errors import GlacierError
from glacier.scenes.hkh import GEOJSON, OVERLAP, PIXEL, read_patch_name
from glacier.scenes.scene import Grid

WRS_PATHS, WRS_ROWS = 233, 248
INCLINATION = math.radians(98.2)
FIRST_CROSSING = -64.6
"""Longitude at which path 1 crosses the equator (row 60), degrees."""
ORBITS_PER_DAY = 233 / 16


@dataclass(frozen=True, slots=True)
class Place:
    """A patch on the ground."""

    scene: str
    """`LE07_149036_20071102`"""
    grid: Grid


def read_places(document: str, size: int) -> dict[str, Place]:
    """Patch key -> its place, from the text of `slices.geojson`; patches are `size` px wide.

    A feature without a patch or with a box that none of the release's could have has no place.

    Raises:
        GlacierError: not what the release has under that name.
    """
    try:
        found = json.loads(document)
        declared, features = (
            CRS.from_user_input(found["crs"]["properties"]["name"]),
            list(found["features"]),
        )
    except ODD as error:
        raise GlacierError(
            f"{GEOJSON}: cannot be read as the HKH release's footprints ({error!r})"
        ) from error
    return dict(_places(features, declared, size))


ODD = (ValueError, KeyError, TypeError, IndexError, AttributeError, RasterioError)
"""What documents of another kind raise."""


def _places(features: list[Any], declared: CRS, size: int) -> Iterator[tuple[str, Place]]:
    texts: dict[str, str] = {}
    for feature in features:
        with suppress(*ODD):
            yield _place(feature, declared, size, texts)


def _place(feature: Any, declared: CRS, size: int, texts: dict[str, str]) -> tuple[str, Place]:
    about = feature["properties"]
    patch = read_patch_name(about["img_slice"])
    if patch is None:
        raise ValueError(about["img_slice"])
    scene = about["img_source"].rpartition("/")[2].rpartition(".")[0]
    if scene not in texts:
        texts[scene] = _crs(scene, declared).to_wkt()
    x, y = zip(*((point[0], point[1]) for point in feature["geometry"]["coordinates"][0]), strict=True)
    number = int(patch.key.rpartition("_")[2])
    corner = _corner(number, (min(x), max(x), min(y), max(y)), size)
    transform = Affine(PIXEL, 0, corner[0], 0, -PIXEL, corner[1])
    return patch.key, Place(scene, Grid(size, size, transform, texts[scene]))


def _corner(number: int, box: tuple[float, float, float, float], size: int) -> tuple[float, float]:
    """Upper left corner of patch `number` of a scene, from its box (left, right, bottom, top).

    A box is a step wide, times n / (n - 1) for a scene of n px: from which n follows. Where up to five
    columns are left over, there is one box more in a row than there are patches.
    """
    left, right, bottom, top = box
    step = size - OVERLAP
    columns, rows = (_pixels(span, step) for span in (right - left, top - bottom))
    if columns is None or rows is None:
        return left, top
    row, column = divmod(number, -(-columns // step) - 1)
    scene_left = left - column * (right - left)
    scene_top = bottom - row * (top - bottom) + rows * PIXEL
    row, column = divmod(number, (columns - size) // step + 1)
    return scene_left + column * step * PIXEL, scene_top - row * step * PIXEL


def _pixels(span: float, step: int) -> int | None:
    """Pixels of a scene along one side whose boxes span `span` m; None where boxes are true."""
    excess = span - step * PIXEL
    if excess < 1e-3:
        return None
    pixels = 1 + step * PIXEL / excess
    if abs(pixels - round(pixels)) > 0.02 or round(pixels) < step + OVERLAP:
        raise ValueError(f"a box of {span} m")
    return round(pixels)


def _crs(scene: str, declared: CRS) -> CRS:
    """The UTM zone a Landsat scene is delivered in, by its path and row; as declared for other names."""
    match = re.match(r"L\w\d\d_(\d{3})(\d{3})_", scene)
    if not match or not declared.is_projected or declared.to_epsg() not in range(32601, 32661):
        return declared
    longitude, _ = wrs_centre(int(match[1]), int(match[2]))
    return CRS.from_epsg(32600 + utm_zone(longitude))


def utm_zone(longitude: float) -> int:
    """UTM zone of a longitude, degrees."""
    return int((longitude + 180) // 6) % 60 + 1


def wrs_centre(path: int, row: int) -> tuple[float, float]:
    """Longitude and latitude of a WRS-2 scene centre on a descending orbit, degrees, to some 0.2.

    A circular orbit over a turning sphere: 233 paths in 16 days, 248 rows, inclination 98.2 degrees
    (Landsat 7 Science Data Users Handbook, NASA).
    """
    along = math.radians((60 - row) * 360 / WRS_ROWS)
    latitude = math.asin(math.sin(INCLINATION) * math.sin(along))
    east = math.atan2(-math.cos(INCLINATION) * math.sin(along), math.cos(along))
    turned = math.degrees(along) / ORBITS_PER_DAY
    longitude = FIRST_CROSSING - (path - 1) * 360 / WRS_PATHS + math.degrees(east) + turned
    return (longitude + 180) % 360 - 180, math.degrees(latitude)
