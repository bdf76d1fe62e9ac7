"""Outlines of a class map, as a GeoPackage with the area of each."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.warp import transform
from shapely.geometry import shape

from glacier.classes import Class
from glacier.errors import GlacierError
from glacier.ground import degrees
from glacier.scenes.files import open_raster
from glacier.scenes.scene import Grid

LAYER = "outlines"
DESCRIPTION = (
    "Areas of one class. area_m2: in m², on the WGS84 ellipsoid, in the Lambert azimuthal equal-area "
    "projection around the centre of the map"
)
BATCH = 10_000
"""Polygons written at a time."""
EDGE = 64
"""Edges are bent along into the equal-area projection at every so many pixels."""


def write_polygons(
    map_path: Path, classes: Sequence[Class], out: Path, aside: Path, made: tuple[str, str]
) -> int:
    """Write the outline of each area of one class, neighbours by sides, whole or not at all.

    The layer `outlines` lies in the map's CRS; its columns are `class`, `value`, and `area_m2`, measured
    on the WGS84 ellipsoid in the Lambert azimuthal equal-area projection around the map's centre.
    Background and no data are not outlined. Memory grows with the corners of outlines, not with pixels.

    Args:
        map_path: a raster of class values.
        classes: what they mean.
        out: the GeoPackage; one that is there is replaced.
        aside: a folder for what is not finished.
        made: an item of the layer's metadata.

    Returns:
        How many outlines there are.

    Raises:
        GlacierError: the map names no CRS, or one that cannot be measured in; it cannot be read, or `out`
            not be written.
    """
    named = {c.value: c.name for c in classes if c.name != "background"}
    partial = aside / f"whole.{out.name}"
    count = 0
    try:
        with open_raster(map_path) as file:
            if not file.crs:
                raise GlacierError(
                    f"{map_path}: names no CRS, expected one to measure areas in; map it without --polygons"
                )
            areas, crs, found = _measure(file), file.crs.to_wkt(), _outlines(file, named)
            _write(partial, crs, [], np.empty(0), append=False, metadata=dict([made]))
            while rows := list(islice(found, BATCH)):
                _write(partial, crs, rows, areas(np.array([row[0] for row in rows])), append=True)
                count += len(rows)
        out.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, out)
    except (RasterioError, CPLE_BaseError, DataLayerError, DataSourceError) as error:
        raise GlacierError(f"{out}: outlines of {map_path} cannot be made ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _outlines(
    file: rasterio.DatasetReader, named: Mapping[int, str]
) -> Iterator[tuple[shapely.Polygon, str, int]]:
    """Polygon, class and value of each area."""
    for _, window in file.block_windows(1):
        file.read(1, window=window)  # raises where it cannot; below, rasterio 1.4 takes it for the end
    for outline, value in shapes(rasterio.band(file, 1), connectivity=4):
        if (name := named.get(int(value))) is not None:
            yield shape(outline), name, int(value)


def measurable(grid: Grid) -> bool:
    """Whether the middle of a grid lies anywhere on the earth."""
    centre = grid.transform @ (grid.width / 2, grid.height / 2)
    try:
        return bool(np.isfinite(degrees(grid.crs, np.array([centre]))).all())
    except GlacierError:
        return False


def _measure(file: rasterio.DatasetReader) -> Callable[[NDArray[np.object_]], NDArray[np.float64]]:
    """What tells the areas (n,) in m² of polygons (n,) in a raster's CRS."""
    centre = file.transform @ (file.width / 2, file.height / 2)
    (lon,), (lat,) = transform(file.crs, "EPSG:4326", centre[:1], centre[1:])
    onto = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m"
    grid = file.transform
    edge = EDGE * min(math.hypot(grid.a, grid.d), math.hypot(grid.b, grid.e))

    def projected(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transform(file.crs, onto, points[:, 0], points[:, 1]))

    def areas(polygons: NDArray[np.object_]) -> NDArray[np.float64]:
        return np.asarray(shapely.area(shapely.transform(shapely.segmentize(polygons, edge), projected)))

    return areas


def _write(
    path: Path,
    crs: str,
    rows: Sequence[tuple[shapely.Polygon, str, int]],
    areas: NDArray[np.float64],
    *,
    append: bool,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write rows into the layer, which is made where it is not there to be appended to."""
    pyogrio.raw.write(
        path,
        shapely.to_wkb([polygon for polygon, _, _ in rows]),
        [
            np.array([name for _, name, _ in rows], object),
            np.array([value for _, _, value in rows], np.int32),
            areas,
        ],
        ["class", "value", "area_m2"],
        layer=LAYER,
        driver="GPKG",
        geometry_type="Polygon",
        crs=crs,
        append=append,
        layer_metadata=metadata,
        **({} if append else {"layer_options": {"DESCRIPTION": DESCRIPTION}}),
    )
