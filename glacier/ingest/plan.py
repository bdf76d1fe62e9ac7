"""What an ingest will write, decided before its first byte: tiles, packing, classes, folds."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from glacier.classes import IGNORE, OUTLINES, ClassMap, recognise
from glacier.errors import GlacierError, UsageError
from glacier.ingest.folds import assign_folds
from glacier.ingest.pack import Dtype, pack_bands
from glacier.ingest.survey import Cut, Range, Survey
from glacier.scenes.read import Nodata
from glacier.scenes.scene import RasterLabel, Scene, VectorLabel, Window
from glacier.store.bands import Band
from glacier.store.schema import BLOCK, NAME_BYTES, Codec

LARGEST = 8192
"""px; a worker holds whole tiles in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to ingest; every field changes what is written."""

    tile_size: int = 512
    """px, a multiple of 32"""
    stride: int | None = None
    """px between the corners of neighbouring tiles; None: the tile size, so that none overlap"""
    min_valid: float = 0.0
    """Share of a tile's pixels, those beyond the scene's edge too, that must have data and a class."""
    classes: str = ""
    """`VALUE=NAME,…`; empty: recognised from the labels."""
    bands: str = ""
    """`CODE=NAME,…`; empty: all."""
    dtype: Dtype = "auto"
    codec: Codec = "lz4"
    folds: int = 5
    published: bool = False
    """The source's own folds instead of `folds` spatial ones."""
    nodata: Nodata = "all"

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range."""
        if self.tile_size < BLOCK or self.tile_size % BLOCK:
            raise UsageError(
                f"--tile-size: {self.tile_size}, expected a multiple of {BLOCK} px such as 256 or 512"
            )
        if self.tile_size > LARGEST:
            raise UsageError(f"--tile-size: {self.tile_size}, expected at most {LARGEST} px")
        if not 0 < self.cut_every <= self.tile_size:
            raise UsageError(f"--stride: {self.stride}, expected 1 to the tile size, {self.tile_size} px")
        if not 0 <= self.min_valid <= 1:
            raise UsageError(f"--min-valid: {self.min_valid}, expected a share, 0 to 1")
        if not 2 <= self.folds <= 100:
            raise UsageError(f"--folds: {self.folds}, expected 2 to 100")

    @property
    def cut_every(self) -> int:
        """`stride` in px, whatever it was given as."""
        return self.tile_size if self.stride is None else self.stride

    def cut(self) -> Cut:
        """How the survey is to cut scenes."""
        index_of = ClassMap.parse(self.classes).index_of if self.classes else {}
        return Cut(self.tile_size, self.cut_every, self.nodata, self.min_valid, index_of)


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of a store and how they are packed."""

    scenes: tuple[Scene, ...]
    """Those with data."""
    tiles: tuple[tuple[int, Window], ...]
    """Index into `scenes`, and the window of it."""
    fold: NDArray[np.int8]
    """(tile,)"""
    bands: tuple[Band, ...]
    class_map: ClassMap

    @property
    def crs(self) -> tuple[str, ...]:
        """The scenes' CRSs, each once."""
        return tuple(dict.fromkeys(s.grid.crs for s in self.scenes if s.grid.crs))

    @property
    def placed(self) -> list[tuple[Scene, Window]]:
        """Each tile's scene and window."""
        return [(self.scenes[scene], window) for scene, window in self.tiles]

    def small_arrays(self, crs_names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The store's arrays that are known before any pixel is packed, CRSs as indexes into these."""
        corners = [
            self.scenes[scene].grid.transform @ Affine.translation(window.column, window.row)
            for scene, window in self.tiles
        ]
        crs = [scene.grid.crs for scene in self.scenes]
        return {
            "scene": np.array([scene for scene, _ in self.tiles], np.int32),
            "origin": np.array([(w.row, w.column) for _, w in self.tiles], np.int32),
            "transform": np.array([tuple(corner)[:6] for corner in corners], np.float64),
            "fold": self.fold,
            "scene_name": _fixed_width([scene.name for scene in self.scenes]),
            "scene_crs": np.array([crs_names.index(c) if c else -1 for c in crs], np.int32),
        }


def _fixed_width(names: Sequence[str]) -> NDArray[np.uint8]:
    """Names as rows of UTF-8 bytes, padded with zeros (name, byte)."""
    rows = np.array([name.encode() for name in names], f"S{NAME_BYTES + 1}")
    return rows.view(np.uint8).reshape(len(names), -1)


def make_plan(
    scenes: Sequence[Scene],
    surveys: Sequence[Survey],
    options: Options,
    folds: Mapping[str, int] | None = None,
) -> Plan:
    """Decide what to write; `folds` is the fold of each scene by name, None to make spatial ones.

    Raises:
        GlacierError: no scene holds data, a name is too long, or a label value has no class.
        UsageError: nothing says what the label values mean.
    """
    held = with_data(scenes, surveys, options.min_valid)
    class_map = map_classes(held, options.classes)
    plan = cut(held, pack_bands(columns(scenes), merged_ranges(held), options.dtype), class_map)
    if folds is None:
        return replace(plan, fold=assign_folds(plan.placed, options.folds))
    return replace(plan, fold=np.array([folds[scene.name] for scene, _ in plan.placed], np.int8))


def with_data(
    scenes: Sequence[Scene], surveys: Sequence[Survey], min_valid: float
) -> list[tuple[Scene, Survey]]:
    """The scenes that hold enough data, and what was found in them.

    Raises:
        GlacierError: there is none, or the name of one is too long.
    """
    held = [(scene, found) for scene, found in zip(scenes, surveys, strict=True) if found.tiles]
    if not held and min_valid:
        raise GlacierError(
            f"no tile of {len(scenes)} scenes has data and a class in {min_valid:g} of its pixels; give a "
            "lower --min-valid"
        )
    if not held:
        raise GlacierError(f"no data: all pixels of all {len(scenes)} scenes are no data")
    if long := [scene.name for scene, _ in held if len(scene.name.encode()) > NAME_BYTES]:
        raise GlacierError(
            f"scene {long[0]}: its name has {len(long[0].encode())} bytes as UTF-8, expected at most "
            f"{NAME_BYTES}; rename its files"
        )
    return held


def cut(held: Sequence[tuple[Scene, Survey]], bands: Sequence[Band], class_map: ClassMap) -> Plan:
    """The plan for scenes with data; every tile in fold 0 as yet."""
    scenes = tuple(scene for scene, _ in held)
    tiles = tuple((i, window) for i, (_, found) in enumerate(held) for window in found.tiles)
    return Plan(scenes, tiles, np.zeros(len(tiles), np.int8), tuple(bands), class_map)


def columns(scenes: Sequence[Scene]) -> list[list[Any]]:
    """Per band, that band in every scene."""
    return [list(column) for column in zip(*(scene.bands for scene in scenes), strict=True)]


def merged_ranges(held: Sequence[tuple[Scene, Survey]]) -> list[Range]:
    """Per band, what was found in all scenes."""
    return [_merged(column) for column in zip(*(found.ranges for _, found in held), strict=True)]


def _merged(ranges: Sequence[Range]) -> Range:
    total = Range(taken=None if ranges[0].taken is None else np.zeros_like(ranges[0].taken))
    for found in ranges:
        total.merge(found)
    return total


def map_classes(held: Sequence[tuple[Scene, Survey]], text: str) -> ClassMap:
    """The classes asked for, or recognised; every value that occurs must have one."""
    rasters = [found for scene, found in held if isinstance(scene.label, RasterLabel)]
    values = {value for found in rasters for value in found.label_values}
    class_map = ClassMap.parse(text) if text else recognise(values) if rasters else OUTLINES
    for scene, found in held:
        if strange := found.label_values - set(class_map.index_of):
            known = ", ".join(
                f"{value}={class_map.classes[index].name if index != IGNORE else 'ignore'}"
                for value, index in class_map.index_of.items()
            )
            outside = isinstance(scene.label, VectorLabel) and 0 in strange
            raise GlacierError(
                f"scene {scene.name}, {scene.label.path if scene.label else ''}: label value "
                f"{', '.join(map(str, sorted(strange)[:8]))} "
                f"{'(0 lies outside all outlines) ' if outside else ''}has no class; expected {known}; "
                "give every value one with --classes (VALUE=ignore drops it)"
            )
    return class_map


def label_files(scene: Scene) -> list[Path]:
    """The files a scene's labels lie in; what lies beside a shapefile belongs to it."""
    if isinstance(scene.label, VectorLabel):
        layers = [layer.path for layer in scene.label.layers]
        beside = [p.with_suffix(end) for p in layers for end in (".dbf", ".prj", ".shx")]
        return [*layers, *(path for path in beside if path.exists())]
    return [scene.label.path] if scene.label else []


def _beside(raster: Path) -> list[Path]:
    """Files that say more of a raster: its mask, its place, its no-data values."""
    named = [raster.with_name(raster.name + end) for end in (".msk", ".aux.xml")]
    named += [raster.with_suffix(end) for end in (".tfw", ".wld", ".aux.xml")]
    return [path for path in named if path.is_file()]


def source_record(source: Path, scenes: Sequence[Scene], options: Options) -> dict[str, Any]:
    """What tells one ingest from another: a digest of the source's files, and the options.

    Files count by their path below `source`, size and time of change, so that a store and its
    source may be moved together.
    """
    rasters = {band.path for scene in scenes for band in scene.bands}
    rasters |= {scene.label.path for scene in scenes if isinstance(scene.label, RasterLabel)}
    files = rasters | {path for raster in rasters for path in _beside(raster)}
    files |= {path for scene in scenes for path in label_files(scene)}
    listing: list[tuple[Any, ...]] = []
    for file in sorted(files):
        status = file.stat()
        listing.append((os.path.relpath(file, source), status.st_size, status.st_mtime_ns))
    for scene in scenes:
        label = [os.path.relpath(path, source) for path in label_files(scene)]
        layers = scene.label.layers if isinstance(scene.label, VectorLabel) else ()
        grid = scene.grid
        listing.append((scene.name, grid.height, grid.width, tuple(grid.transform)[:6], grid.crs))
        listing.append((label, [(layer.value, layer.attribute) for layer in layers]))
        listing += [(b.name, b.code, os.path.relpath(b.path, source), b.index) for b in scene.bands]
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return {"files": len(files), "digest": digest, "options": asdict(options)}
