"""What is to be predicted in which order, and each rank's part of it: windows of scenes, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from glacier.ground import applied, degrees
from glacier.maps.blend import corners
from glacier.pipeline.order import SAMPLE, Samples
from glacier.scenes.scene import Grid, Scene


@dataclass(frozen=True, slots=True)
class Row:
    """Windows of one scene side by side."""

    scene: int
    top: int
    """px"""
    first: int
    """Of all windows."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of pixels of one scene that one rank maps, and the windows it needs for that."""

    scene: int
    top: int
    """px"""
    bottom: int
    """px, not included"""
    windows: range
    """Of all windows; those that reach into the piece from above are needed by two ranks."""

    def whole(self, grid: Grid) -> bool:
        """Whether it is all of its scene."""
        return self.top == 0 and self.bottom == grid.height


def order_of(grids: Sequence[Grid], size: int) -> tuple[Samples, list[Row]]:
    """All windows of `size` px, scene (their `tile`) by scene and row by row, and the rows."""
    windows: list[tuple[int, int, int, int]] = []
    rows: list[Row] = []
    for scene, grid in enumerate(grids):
        for top in corners(grid.height, size):
            rows.append(Row(scene, top, len(windows)))
            windows += [(scene, top, left, 0) for left in corners(grid.width, size)]
    return np.array(windows, SAMPLE), rows


def places_of(scenes: Sequence[Scene], order: Samples, size: int) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2), degrees, of the centres of windows of `size` px.

    Raises:
        GlacierError: a scene whose CRS has no place on the earth.
    """
    found = np.empty((len(order), 2))
    for i, scene in enumerate(scenes):
        here = order["tile"] == i
        columns, rows = order["x"][here] + size / 2, order["y"][here] + size / 2
        points = applied(np.array(scene.grid.transform[:6]), columns, rows)
        found[here] = degrees(scene.grid.crs, points)
    return found


def pieces_of(
    grids: Sequence[Grid], size: int, rows: Sequence[Row], windows: int, rank: int, world: int
) -> list[Piece]:
    """What one rank does: the rows that begin in its equal share of all windows."""
    ends = [*(row.first for row in rows[1:]), windows]
    own = [i for i, row in enumerate(rows) if row.first * world // windows == rank]
    made = []
    for scene, group in groupby(own, key=lambda i: rows[i].scene):
        numbers = list(group)
        first, last = numbers[0], numbers[-1]
        top, reaching = rows[first].top, first
        while reaching and rows[reaching - 1].scene == scene and rows[reaching - 1].top + size > top:
            reaching -= 1
        after = last + 1
        inside = after < len(rows) and rows[after].scene == scene
        bottom = rows[after].top if inside else grids[scene].height
        made.append(Piece(scene, top, bottom, range(rows[reaching].first, ends[last])))
    return made
