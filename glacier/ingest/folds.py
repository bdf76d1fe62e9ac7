"""Cross-validation folds as spatial blocks of tiles."""

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from glacier.ground import degrees
from glacier.scenes.scene import Scene, Window


def assign_folds(tiles: Sequence[tuple[Scene, Window]], folds: int) -> NDArray[np.int8]:
    """A fold per tile (tile,): compact blocks of equal size, by recursive bisection of the ground.

    Tiles of scenes without a CRS count as lying in a row, in their order.
    """
    fold = np.zeros(len(tiles), np.int8)
    _bisect(_centres(tiles), np.arange(len(tiles)), range(folds), fold)
    return fold


def extend_folds(
    old: NDArray[np.object_],
    fold: NDArray[np.int8],
    new: NDArray[np.object_],
    tiles: Sequence[tuple[Scene, Window]],
    folds: int,
) -> NDArray[np.int8]:
    """A fold per new tile (new,): that of the nearest old tile it touches or overlaps, -1 too.

    Those that touch none are shared out among themselves, the largest block to the fold with the
    fewest tiles.

    Args:
        old: the ground of the tiles that have a fold, as `squares` makes it.
        fold: theirs (old,).
        new: the ground of the tiles that have none.
        tiles: the same tiles (new,).
        folds: how many folds there are.
    """
    mine, theirs = shapely.STRtree(old).query(new, predicate="intersects")
    away = shapely.distance(shapely.centroid(new[mine]), shapely.centroid(old[theirs]))
    order = np.lexsort((theirs, away, mine))
    touching, first = np.unique(mine[order], return_index=True)
    result = np.zeros(len(new), np.int8)
    result[touching] = fold[theirs[order][first]]
    alone = np.setdiff1d(np.arange(len(new)), touching)
    block = assign_folds([tiles[i] for i in alone], folds)
    known = np.concatenate((fold, result[touching]))
    held = np.bincount(known[known >= 0], minlength=folds)
    taken_by = np.empty(folds, np.int8)
    taken_by[np.argsort(-np.bincount(block, minlength=folds), kind="stable")] = np.argsort(
        held, kind="stable"
    )
    result[alone] = taken_by[block]
    return result


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
    places = np.array([_centre(scene, window) for scene, window in tiles], np.float64).reshape(-1, 2)
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
