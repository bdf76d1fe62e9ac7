"""Vector labels: outlines brought into a scene's CRS and burnt into its pixels."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.warp import transform as reproject

from glacier.errors import GlacierError

if TYPE_CHECKING:
    from glacier.scenes.scene import Window


class Outlines:
    """Polygons in one CRS, found by place."""

    def __init__(self, polygons: NDArray[np.object_]) -> None:
        self._polygons = polygons
        self._tree = shapely.STRtree(polygons)

    def burn(self, transform: Affine, window: "Window") -> NDArray[np.int64]:
        """1 where a pixel's centre lies inside an outline, else 0; (h, w) of `window`."""
        here = transform @ Affine.translation(window.column, window.row)
        shape = (window.height, window.width)
        corners = [here @ c for c in ((0, 0), (shape[1], 0), (shape[1], shape[0]), (0, shape[0]))]
        near = self._polygons[self._tree.query(shapely.Polygon(corners))]
        if not len(near):
            return np.zeros(shape, np.int64)
        burnt = rasterize(near, out_shape=shape, transform=here, default_value=1, dtype="uint8")
        return np.asarray(burnt, np.int64)


@lru_cache(maxsize=2)
def read_outlines(path: Path, crs: str) -> Outlines:
    """The polygons of a vector file in `crs` (well-known text).

    Raises:
        GlacierError: the file cannot be read, holds no polygon, or one of the two has no CRS.
    """
    try:
        meta, _, binary, _ = pyogrio.raw.read(path, columns=[], force_2d=True)
    except pyogrio.errors.DataSourceError as error:
        raise GlacierError(f"{path}: cannot be read as a vector file ({error})") from error
    polygons = shapely.from_wkb(binary)
    polygons = polygons[np.isin(shapely.get_type_id(polygons), (3, 6))]
    if not len(polygons):
        raise GlacierError(f"{path}: holds no polygon; expected glacier outlines")
    if not meta["crs"] or not crs:
        which = "the scene" if meta["crs"] else str(path)
        raise GlacierError(f"{which} names no CRS; expected one, to bring outlines and pixels together")

    def into_crs(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(reproject(meta["crs"], crs, points[:, 0], points[:, 1]))

    return Outlines(shapely.transform(polygons, into_crs))
