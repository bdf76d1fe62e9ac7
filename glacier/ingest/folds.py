"""Cross-validation folds as spatial blocks of tiles."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.scenes.scene import Scene, Window
from glacier.store.ground import degrees


def assign_folds(tiles: Sequence[tuple[Scene, Window]], folds: int) -> NDArray[np.int8]:
    """A fold per tile (tile,): compact blocks of equal size, by recursive bisection of the ground.

    Tiles of scenes without a CRS count as lying in a row, in their order.
    """
    fold = np.zeros(len(tiles), np.int8)
    _bisect(_centres(tiles), np.arange(len(tiles)), range(folds), fold)
    return fold


def _bisect(
    places: NDArray[np.float64], tiles: NDArray[np.int64], folds: range, out: NDArray[np.int8]
) -> None:
    """Cut `tiles` across their longer extent, in proportion to the folds on either side."""
    if len(folds) == 1 or not tiles.size:
        out[tiles] = folds.start
        return
    here = places[tiles]
    axis = int(np.argmax(np.ptp(here, axis=0)))
    order = tiles[np.lexsort((here[:, 1 - axis], here[:, axis]))]
    left = folds[: len(folds) // 2]
    cut = round(len(tiles) * len(left) / len(folds))
    _bisect(places, order[:cut], left, out)
    _bisect(places, order[cut:], folds[len(left) :], out)


def _centres(tiles: Sequence[tuple[Scene, Window]]) -> NDArray[np.float64]:
    """Centre of each tile (tile, 2): in the one CRS, else in degrees, eastings shrunk to scale."""
    places = np.array([_centre(scene, window) for scene, window in tiles], np.float64)
    crs = np.array([scene.grid.crs for scene, _ in tiles], object)
    named = sorted({c for c in crs if c})
    for name in named if len(named) > 1 else []:
        here = crs == name
        places[here] = degrees(name, places[here])
    geographic = len(named) > 1 or any("GEOGCRS" in n[:8] or n.startswith("GEOGCS") for n in named)
    if geographic:
        there = crs != ""
        places[there, 0] *= np.cos(np.radians(places[there, 1].mean()))
    adrift = crs == ""
    places[adrift] = np.column_stack((np.flatnonzero(adrift), np.zeros(adrift.sum())))
    return places


def _centre(scene: Scene, window: Window) -> tuple[float, float]:
    x, y = scene.grid.transform @ (
        window.column + window.width / 2,
        window.row + window.height / 2,
    )
    return float(x), float(y)
