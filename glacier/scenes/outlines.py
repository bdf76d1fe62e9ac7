"""Vector labels: outlines brought into a scene's CRS and burnt into its pixels."""

import re
from typing import Any

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform as reproject
from rasterio.warp import transform_bounds

from glacier.classes import attribute_key
from glacier.errors import GlacierError
from glacier.scenes.scene import Grid, Outline, VectorLabel, Window

_UNREADABLE = (
    DataSourceError,
    DataLayerError,
    RasterioError,
    CPLE_BaseError,
    shapely.GEOSException,
    TypeError,
)


class Outlines:
    """Polygons in one CRS, each with the value it is burnt with, found by place."""

    def __init__(self, polygons: NDArray[np.object_], values: NDArray[np.int64]) -> None:
        """Take polygons (n,) and their values (n,), in the order of burning."""
        self._polygons, self._tree = polygons, shapely.STRtree(polygons)
        self._values, self._codes = np.unique(np.append(values, 0), return_inverse=True)

    def burn(self, transform: Affine, window: Window) -> NDArray[np.int64]:
        """The value of the last outline that a pixel's centre lies in, else 0; (h, w) of `window`."""
        here = transform @ Affine.translation(window.column, window.row)
        shape = (window.height, window.width)
        corners = [here @ c for c in ((0, 0), (shape[1], 0), (shape[1], shape[0]), (0, shape[0]))]
        near = np.sort(self._tree.query(shapely.Polygon(corners)))
        if not len(near):
            return np.zeros(shape, np.int64)
        pairs = zip(self._polygons[near], self._codes[near].tolist(), strict=True)
        burnt = rasterize(pairs, out_shape=shape, transform=here, fill=int(self._codes[-1]), dtype="int32")
        return np.asarray(self._values[burnt])


def read_outlines(label: VectorLabel, grid: Grid) -> Outlines:
    """The polygons of a label's layers that lie near a scene, in the scene's CRS.

    Those elsewhere are not read: a projection need not be able to hold the whole earth. An edge that
    is straight in another CRS than the scene's is bent along with it.

    Raises:
        GlacierError: a file cannot be read, has several layers, holds no polygon, or one of the two
            has no CRS.
    """
    polygons, values = [np.array([], object)], [np.array([], np.int64)]
    for layer in label.layers:
        try:
            found, meant = _near(layer, grid)
        except _UNREADABLE as error:
            raise GlacierError(f"{layer.path}: cannot be read as outlines ({error})") from error
        polygons.append(found)
        values.append(meant)
    return Outlines(np.concatenate(polygons), np.concatenate(values))


def attributes(layer: Outline) -> set[str]:
    """The values of a layer's attribute column over all its polygons, as `attribute_key` writes them.

    Raises:
        GlacierError: the file cannot be read as outlines, or has no such column.
    """
    try:
        _about(layer)
        read = pyogrio.raw.read(layer.path, columns=[layer.attribute], read_geometry=False)
        return set(map(attribute_key, read[3][0].tolist()))
    except _UNREADABLE as error:
        raise GlacierError(f"{layer.path}: cannot be read as outlines ({error})") from error


def _about(layer: Outline) -> dict[str, Any]:
    """What a layer's file says of itself."""
    path = layer.path
    names = pyogrio.list_layers(path)[:, 0].tolist()
    if len(names) != 1:
        raise GlacierError(
            f"{path}: holds {len(names)} layers ({', '.join(map(str, names))}); expected one of outlines"
        )
    about: dict[str, Any] = pyogrio.read_info(path)
    kind = about["geometry_type"] or "Unknown"
    if not about["features"] or not re.search("Polygon|Surface|Collection|Unknown", kind):
        raise GlacierError(f"{path}: holds no polygon; expected glacier outlines")
    if layer.attribute and layer.attribute not in about["fields"]:
        have = ", ".join(about["fields"]) or "none"
        raise GlacierError(
            f"{path}: no attribute {layer.attribute}; it has {have}; choose with --attribute"
        )
    return about


def _near(layer: Outline, grid: Grid) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """A layer's polygons near a scene, in its CRS, and their values, in the order of burning."""
    about = _about(layer)
    crs = about["crs"]
    if not crs or not grid.crs:
        which = "the scene" if crs else str(layer.path)
        raise GlacierError(f"{which} names no CRS; expected one, to bring outlines and pixels together")
    columns = [layer.attribute] if layer.attribute else []
    _, _, shapes, fields = pyogrio.raw.read(
        layer.path, columns=columns, force_2d=True, bbox=_bounds_in(grid, crs)
    )
    polygons, of = shapely.get_parts(shapely.from_wkb(shapes), return_index=True)
    keep = np.isin(shapely.get_type_id(polygons), (3, 6)) & ~shapely.is_empty(polygons)
    polygons, of = polygons[keep], of[keep]

    def into_crs(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(reproject(crs, grid.crs, points[:, 0], points[:, 1]))

    if crs != grid.crs:
        polygons = shapely.segmentize(polygons, 0.01 if CRS.from_user_input(crs).is_geographic else 1000)
    there = shapely.transform(polygons, into_crs)
    finite = [bool(np.isfinite(shapely.get_coordinates(polygon)).all()) for polygon in there]
    keep = np.array(finite, bool)
    if layer.value is not None:
        return there[keep], np.full(keep.sum(), layer.value, np.int64)
    place = {key: i for i, (key, _) in enumerate(layer.meanings)}
    rank = np.array([place.get(attribute_key(v), -1) for v in fields[0].tolist()], np.int64)[of[keep]]
    if (rank < 0).any():
        raise GlacierError(f"{layer.path}: changed while it was ingested; leave it alone, and start again")
    order = np.argsort(rank, kind="stable")
    values = np.array([value for _, value in layer.meanings], np.int64)
    return there[keep][order], values[rank[order]]


def _bounds_in(grid: Grid, crs: str) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a scene in another CRS; all round where it crosses 180 degrees."""
    corners = [
        grid.transform @ c for c in ((0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height))
    ]
    x, y = zip(*corners, strict=True)
    left, bottom, right, top = transform_bounds(grid.crs, crs, min(x), min(y), max(x), max(y))
    return (left, bottom, right, top) if left <= right else (-180.0, bottom, 180.0, top)
