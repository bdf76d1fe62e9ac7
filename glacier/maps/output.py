"""The folder of maps: what is to stand in it, what stands there, and how a scene's rows become it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from glacier.classes import IGNORE, Class
from glacier.errors import GlacierError
from glacier.maps.canvas import Strip
from glacier.maps.parts import Part
from glacier.maps.rasters import Kind, Shares, class_kind, shares_kind, stored, write_raster
from glacier.maps.rows import Piece
from glacier.scenes.files import open_raster
from glacier.scenes.scene import Scene

MADE = "GLACIER_MADE_FROM"
"""A tag of all that is written: the runs, the settings and the scene's files that it was made from."""


@dataclass(frozen=True, slots=True)
class Output:
    """What is made of each scene."""

    folder: Path
    classes: tuple[Class, ...]
    made_by: str
    """Tells the runs and settings from others."""
    shares: Shares | None
    """How probabilities are stored; None for none."""
    confidence: bool
    polygons: bool
    fill: Class | None
    """What pixels without data are given; None: no data."""

    @property
    def aside(self) -> Path:
        """The folder of what is not finished."""
        return self.folder / ".unfinished"

    def map(self, scene: Scene) -> Path:
        """Where the map of a scene is to stand."""
        return self.folder / scene.mask

    def probabilities(self, scene: Scene) -> Path:
        """Where its probabilities are to stand."""
        return self.folder / "probabilities" / scene.mask

    def confidence_of(self, scene: Scene) -> Path:
        """Where its confidence is to stand."""
        return self.folder / "confidence" / scene.mask

    def outlines(self, scene: Scene) -> Path:
        """Where its outlines are to stand."""
        return (self.folder / "polygons" / scene.mask).with_suffix(".gpkg")

    def missing(self, scenes: Sequence[Scene]) -> list[int]:
        """Which scenes lack something of theirs.

        Raises:
            GlacierError: what stands in the place of one of theirs was made from something else.
        """
        lacking = []
        for i, scene in enumerate(scenes):
            for file, asked, kinds in self._files(scene):
                if not file.exists():
                    lacking += [i] if asked else []
                elif _tag(file) not in [self._made_from(scene, k) for k in ([asked] if asked else kinds)]:
                    raise GlacierError(
                        f"{file}: stands there and was not made by these runs from this source; give a new "
                        "folder for the maps"
                    )
        return sorted(set(lacking))

    def _files(self, scene: Scene) -> list[tuple[Path, str | None, Sequence[str]]]:
        """All that may stand of a scene: where, as what it is asked for if it is, and what it may be."""
        return [
            (self.map(scene), "map", ["map"]),
            (self.probabilities(scene), self.shares, get_args(Shares)),
            (self.confidence_of(scene), "confidence" if self.confidence else None, ["confidence"]),
            (self.outlines(scene), "outlines" if self.polygons else None, ["outlines"]),
        ]

    def _made_from(self, scene: Scene, kind: str) -> str:
        """Sums up the runs and a scene's files, these by size and time."""
        states = [(str(band.path), band.path.stat()) for band in scene.bands]
        files = [(path, state.st_size, state.st_mtime_ns) for path, state in states]
        return sha256(repr((self.made_by, kind, files)).encode()).hexdigest()[:16]

    def parts(self, scene: Scene, piece: Piece) -> "Parts":
        """Files for the rows of a piece of a scene."""
        name, width = str(self.aside / f"{piece.scene}-{piece.top}"), scene.grid.width
        classes = Part(Path(f"{name}.classes"), 1, width, "uint8")
        confidence = Part(Path(f"{name}.confidence"), 1, width, "uint8") if self.confidence else None
        dtype = "uint8" if self.shares == "uint8" else "float16"
        shares = Part(Path(f"{name}.shares"), len(self.classes), width, dtype) if self.shares else None
        return Parts(classes, confidence, shares, self.shares)

    def finish(self, scene: Scene, parts: Sequence["Parts"]) -> None:
        """Put a scene's map together from all its parts, from top to bottom, and all that goes with it.

        Raises:
            GlacierError: something could not be written.
        """
        kind, table = class_kind(scene, self.classes, (MADE, self._made_from(scene, "map")))
        if self.fill:
            table[IGNORE] = self.fill.value
        if self.shares:
            made = (MADE, self._made_from(scene, self.shares))
            how = shares_kind(self.shares, tuple(c.name for c in self.classes), made)
            self._write(self.probabilities(scene), _rows(part.shares for part in parts), scene, how)
        if self.confidence:
            how = shares_kind("uint8", ("confidence",), (MADE, self._made_from(scene, "confidence")))
            self._write(self.confidence_of(scene), _rows(part.confidence for part in parts), scene, how)
        values = (table[rows] for rows in _rows(part.classes for part in parts))
        self._write(self.map(scene), values, scene, kind)
        if self.polygons:
            from glacier.maps.polygons import write_polygons

            made = (MADE, self._made_from(scene, "outlines"))
            write_polygons(self.map(scene), self.classes, self.outlines(scene), self.aside, made)
        for part in parts:
            part.remove()

    def _write(self, path: Path, strips: Iterator[NDArray[np.generic]], scene: Scene, kind: Kind) -> None:
        write_raster(path, strips, scene.grid, kind, self.aside)


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows of one scene that one rank has mapped."""

    classes: Part
    confidence: Part | None
    shares: Part | None
    how: Shares | None

    def append(self, strip: Strip) -> None:
        """Add finished rows."""
        self.classes.append(strip.classes[None])
        if self.confidence:
            self.confidence.append(stored(strip.confidence[None], "uint8"))
        if self.shares and self.how and strip.shares is not None:
            self.shares.append(stored(strip.shares, self.how))

    def remove(self) -> None:
        """Delete the files."""
        for part in (self.classes, self.confidence, self.shares):
            if part:
                part.path.unlink()


def _rows(parts: Iterable[Part | None]) -> Iterator[NDArray[np.generic]]:
    """All rows of parts, one after another."""
    return (rows for part in parts if part for rows in part.strips())


def _tag(file: Path) -> str | None:
    """What a file says it was made from; None for one that is none of ours."""
    from pyogrio import read_info
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        if file.suffix == ".gpkg":
            tags = read_info(file)["layer_metadata"] or {}
        else:
            with open_raster(file) as opened:
                tags = opened.tags()
    except (RasterioError, DataLayerError, DataSourceError):
        return None
    made: str | None = tags.get(MADE)
    return made
