"""Vector labels: outlines brought into a scene's CRS and burnt into its pixels."""

from pathlib import Path

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform as reproject
from rasterio.warp import transform_bounds

from glacier.errors import GlacierError
from glacier.scenes.scene import Grid, Window


class Outlines:
    """Polygons in one CRS, found by place."""

    def __init__(self, polygons: NDArray[np.object_]) -> None:
        self._polygons = polygons
        self._tree = shapely.STRtree(polygons)

    def burn(self, transform: Affine, window: Window) -> NDArray[np.int64]:
        """1 where a pixel's centre lies inside an outline, else 0; (h, w) of `window`."""
        here = transform @ Affine.translation(window.column, window.row)
        shape = (window.height, window.width)
        corners = [here @ c for c in ((0, 0), (shape[1], 0), (shape[1], shape[0]), (0, shape[0]))]
        near = self._polygons[self._tree.query(shapely.Polygon(corners))]
        if not len(near):
            return np.zeros(shape, np.int64)
        burnt = rasterize(near, out_shape=shape, transform=here, default_value=1, dtype="uint8")
        return np.asarray(burnt, np.int64)


def read_outlines(path: Path, grid: Grid) -> Outlines:
    """The polygons of a vector file that lie near a scene, in the scene's CRS.

    Those elsewhere are not read: a projection need not be able to hold the whole earth.

    Raises:
        GlacierError: the file cannot be read, has several layers, holds no polygon, or one of the two
            has no CRS.
    """
    try:
        return Outlines(_near(path, grid))
    except (DataSourceError, RasterioError, CPLE_BaseError, shapely.GEOSException, TypeError) as error:
        raise GlacierError(f"{path}: cannot be read as outlines ({error})") from error


def _near(path: Path, grid: Grid) -> NDArray[np.object_]:
    layers = pyogrio.list_layers(path)
    if len(layers) != 1:
        names = ", ".join(str(name) for name in layers[:, 0])
        raise GlacierError(f"{path}: holds {len(layers)} layers ({names}); expected one of outlines")
    about = pyogrio.read_info(path)
    if not about["features"] or "Polygon" not in (about["geometry_type"] or "Unknown Polygon"):
        raise GlacierError(f"{path}: holds no polygon; expected glacier outlines")
    if not about["crs"] or not grid.crs:
        which = "the scene" if about["crs"] else str(path)
        raise GlacierError(f"{which} names no CRS; expected one, to bring outlines and pixels together")
    bounds = transform_bounds(grid.crs, about["crs"], *_bounds(grid))
    polygons = shapely.from_wkb(pyogrio.raw.read(path, columns=[], force_2d=True, bbox=bounds)[2])
    polygons = polygons[np.isin(shapely.get_type_id(polygons), (3, 6))]

    def into_crs(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(reproject(about["crs"], grid.crs, points[:, 0], points[:, 1]))

    there = shapely.transform(polygons, into_crs)
    finite = [bool(np.isfinite(shapely.get_coordinates(polygon)).all()) for polygon in there]
    return np.asarray(there[np.array(finite, bool)])


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a scene in its CRS."""
    corners = [
        grid.transform @ c for c in ((0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height))
    ]
    x, y = zip(*corners, strict=True)
    return min(x), min(y), max(x), max(y)
