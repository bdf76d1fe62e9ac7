"""A first look at each scene: which tiles hold data, which label values occur, what bands range over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError
from glacier.scenes.labels import distinct, has_class
from glacier.scenes.read import Nodata, SceneReader, has_data, optical
from glacier.scenes.scene import Grid, RasterLabel, Scene, SourceBand, VectorLabel, Window

CODES = 65536
MOST_TILES = 2**24
"""Of a scene; 2 million km² at 0.5 m and 512 px."""


@dataclass(slots=True)
class Range:
    """What the valid values of one band are like."""

    low: float = np.inf
    high: float = -np.inf
    inner_low: float = np.inf
    """The lowest value but one."""
    inner_high: float = -np.inf
    """The highest value but one."""
    integral: bool = True
    """Every value is a whole number."""
    taken: NDArray[np.bool_] | None = None
    """Which 16-bit values occur (65536,), from the dtype's lowest; None where not asked for."""

    def add(self, values: NDArray[np.generic]) -> None:
        """Take in valid values (n,); where `taken` is asked for, no more than that."""
        if self.taken is not None:
            self.taken[values.astype(np.int64) - int(np.iinfo(values.dtype.name).min)] = True
            return
        if not values.size:
            return
        low, high = values.min(), values.max()
        if float(low) < self.inner_low or float(high) > self.inner_high:
            inner = values[(values != low) & (values != high)]
            near = (float(inner.min()), float(inner.max())) if inner.size else ()
            self._spread((float(low), float(high), *near))
        if values.dtype.kind == "f":
            self.integral = self.integral and bool(np.array_equal(values, np.rint(values)))

    def _spread(self, values: tuple[float, ...]) -> None:
        """Keep the two lowest and the two highest of all values seen."""
        seen = {self.low, self.high, self.inner_low, self.inner_high, *values}
        ordered = sorted(value for value in seen if np.isfinite(value))
        if ordered:
            self.low, self.high = ordered[0], ordered[-1]
            self.inner_low, self.inner_high = ordered[min(1, len(ordered) - 1)], ordered[-2:][0]

    def merge(self, other: Self) -> None:
        """Take in what another scene holds."""
        self._spread((other.low, other.high, other.inner_low, other.inner_high))
        self.integral = self.integral and other.integral
        if self.taken is not None and other.taken is not None:
            self.taken |= other.taken


@dataclass(frozen=True, slots=True)
class Need:
    """What a survey must find out about one band."""

    range: bool
    """Lowest and highest value, and whether all are whole."""
    taken: bool
    """Which 16-bit values occur."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in one scene."""

    tiles: list[Window]
    """Tiles with data."""
    empty: int
    """Tiles without."""
    label_values: set[int]
    """Source label values; of outlines, those they are burnt with."""
    ranges: list[Range] = field(default_factory=list)
    """By band."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a scene is cut into tiles, and which of them count."""

    size: int
    """px"""
    stride: int
    """px between the corners of neighbours"""
    rule: Nodata
    min_valid: float
    """Share of a tile's pixels that must hold data and a label; 0: any data will do."""
    index_of: Mapping[int, int]
    """Source label value -> class index, where the user gave it; else empty."""


def grid_tiles(grid: Grid, size: int, stride: int) -> list[Window]:
    """A scene cut into tiles from its upper left corner; those at its edges may be smaller.

    Raises:
        GlacierError: so many that a list of them would not fit into memory.
    """
    rows, columns = (range(0, max(1, n - size + stride), stride) for n in (grid.height, grid.width))
    if len(rows) * len(columns) > MOST_TILES:
        raise GlacierError(
            f"{grid.height} x {grid.width} px are {len(rows) * len(columns)} tiles, expected at most "
            f"{MOST_TILES}; is its header damaged?"
        )
    return [
        Window(row, column, min(size, grid.height - row), min(size, grid.width - column))
        for row in rows
        for column in columns
    ]


def survey(scene: Scene, cut: Cut, wanted: Sequence[Need]) -> Survey:
    """Look through one scene, tile by tile, reading no more than is needed.

    Raises:
        GlacierError: a file that cannot be read, or more tiles than can be.
    """
    ranges = [Range(taken=np.zeros(CODES, bool) if need.taken else None) for need in wanted]
    labels = outline_values(scene.label) if isinstance(scene.label, VectorLabel) else set()
    tiles = []
    try:
        windows = grid_tiles(scene.grid, cut.size, cut.stride)
    except GlacierError as error:
        raise GlacierError(f"scene {scene.name}: {error}") from error
    read_all = cut.min_valid > 0 or any(need.range or need.taken for need in wanted)
    always = all(_always_valid(scene.bands[i]) for i in optical(scene.bands))
    with SceneReader(scene) as reader:
        for window in windows:
            label = None
            if isinstance(scene.label, RasterLabel) or cut.min_valid:
                label = reader.label(window)
            if label and isinstance(scene.label, RasterLabel):
                labels |= distinct(label[0] if label[1] is None else label[0][label[1]])
            if read_all:
                held = _measure(reader, window, cut.rule, wanted, ranges)
                if label and cut.min_valid:
                    held &= has_class(*label, cut.index_of)
                data = int(np.count_nonzero(held)) >= max(1, cut.min_valid * cut.size**2)
            else:
                data = always or _holds_data(reader, window, cut.rule)
            if data:
                tiles.append(window)
    return Survey(tiles, len(windows) - len(tiles), labels, ranges)


def outline_values(label: VectorLabel) -> set[int]:
    """Source values that outlines are burnt with; 0 lies outside them."""
    given = {layer.value for layer in label.layers if layer.value is not None}
    return {0} | given | {value for layer in label.layers for _, value in layer.meanings}


def _always_valid(band: SourceBand) -> bool:
    return band.nodata is None and not band.masked and not band.dtype.startswith("float")


def _holds_data(reader: SceneReader, window: Window, rule: Nodata) -> bool:
    """Whether some pixel of a window holds data: the middle one, in most; else all are looked at."""
    middle = Window(window.row + window.height // 2, window.column + window.width // 2, 1, 1)
    return _some_data(reader, middle, rule) or _some_data(reader, window, rule)


def _some_data(reader: SceneReader, window: Window, rule: Nodata) -> bool:
    """Whether some pixel of a window holds data; under the rule `all` one band may tell."""
    which = set(optical(reader.scene.bands))
    masks = (valid for index, _, valid in reader.bands(window) if index in which)
    if rule == "all":
        return any(valid is None or valid.any() for valid in masks)
    return bool(has_data(masks, (window.height, window.width), rule).any())


def _measure(
    reader: SceneReader, window: Window, rule: Nodata, wanted: Sequence[Need], ranges: list[Range]
) -> NDArray[np.bool_]:
    """Add a window to the ranges; where it holds data (h, w)."""
    which = set(optical(reader.scene.bands))
    masks = []
    for index, values, valid in reader.bands(window):
        if wanted[index].range or wanted[index].taken:
            ranges[index].add(values.ravel() if valid is None or valid.all() else values[valid])
        if index in which:
            masks.append(valid)
    return has_data(masks, (window.height, window.width), rule)
