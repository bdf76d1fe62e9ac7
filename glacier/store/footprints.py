"""Where tiles lie on the ground, and which of them touch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from glacier.errors import GlacierError
from glacier.ground import applied, degrees
from glacier.store.reader import Store


def touching(store: Store, tiles: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tiles of a store touch or overlap one of `tiles`, themselves included (tile,).

    Squares count half a pixel larger than they are, so that neighbours touch whatever the rounding.
    """
    ground = footprints(store)
    found = np.zeros(len(store), bool)
    tree = shapely.STRtree(ground)
    found[tree.query(ground[tiles], predicate="intersects")[1]] = True
    return found


def centres(store: Store) -> NDArray[np.float64]:
    """Longitude and latitude of each tile's centre (tile, 2), degrees.

    Raises:
        GlacierError: a scene without a CRS, or with one that has no place on the earth.
    """
    half = store.meta.tile_size / 2
    points = applied(store.array("transform"), half, half)
    scene = store.array("scene")
    crs = store.array("scene_crs")[scene]
    if (crs < 0).any():
        name = store.scene_names[int(scene[crs < 0][0])]
        raise GlacierError(
            f"{store.path}: scene {name} has no CRS, expected one for model.location; train without it"
        )
    for index, name in enumerate(store.meta.crs):
        points[crs == index] = degrees(name, points[crs == index])
    return points


def footprints(store: Store) -> NDArray[np.object_]:
    """The ground of each tile of a store as a polygon (tile,), as `squares` makes them."""
    arrays = {name: store.array(name) for name in ("transform", "scene", "scene_crs")}
    return squares(store.meta.tile_size, store.meta.crs, arrays)


def squares(size: int, crs_names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.object_]:
    """The ground of each tile as a polygon (tile,), grown by half a pixel.

    In the CRS if there is one, in degrees if there are several. Scenes without a CRS lie apart from
    each other and from everything else.

    Args:
        size: side of a tile, px.
        crs_names: well-known texts.
        arrays: a store's `transform`, `scene` and `scene_crs`.
    """
    low, high = -0.5, size + 0.5
    corners = np.array([(low, low), (high, low), (high, high), (low, high)])
    points = applied(arrays["transform"][:, None], *corners.T)
    scene = arrays["scene"]
    crs = arrays["scene_crs"][scene]
    for index, name in enumerate(crs_names if len(crs_names) > 1 else ()):
        here = crs == index
        points[here] = degrees(name, points[here].reshape(-1, 2)).reshape(-1, 4, 2)
    points[crs < 0, :, 0] += 1e9 * (1 + scene[crs < 0, None])
    return np.asarray(shapely.polygons(points))
