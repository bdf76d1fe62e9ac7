"""The records of this folder: what a scene consists of and where its pixels lie."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from affine import Affine

from glacier.scenes.bands import Role, role


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixels of a scene on the ground."""

    height: int
    """px"""
    width: int
    """px"""
    transform: Affine
    """Pixel corner (column, row) -> (x, y) in the CRS's unit."""
    crs: str
    """Well-known text; empty where the file names no CRS."""

    def profile(self) -> dict[str, Any]:
        """What a raster on this grid is created with, in rasterio's words."""
        made: dict[str, Any] = {"height": self.height, "width": self.width}
        if self.crs:
            made["crs"] = self.crs
        if not self.transform.is_identity:
            made["transform"] = self.transform
        return made

    def differs_from(self, other: "Grid") -> str | None:
        """What sets this grid apart, as `found, expected`; None where they are one grid.

        Transforms count as one while no corner moves by more than a hundredth of a pixel: the
        same grid written by two programs differs in the last digits.
        """
        if (self.height, self.width) != (other.height, other.width):
            return f"{self.height} x {self.width} px, expected {other.height} x {other.width} px"
        if self.crs != other.crs:
            return f"CRS {_short(self.crs)}, expected {_short(other.crs)}"
        moved = ~other.transform @ self.transform
        corners = ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        if any(abs(a - b) > 0.01 for c in corners for a, b in zip(moved @ c, c, strict=True)):
            mine, theirs = (tuple(g.transform)[:6] for g in (self, other))
            return f"transform {mine}, expected {theirs}"
        return None


def _short(crs: str) -> str:
    """The name inside a well-known text."""
    return crs.split('"')[1] if '"' in crs else crs or "none"


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a scene, px."""

    row: int
    column: int
    height: int
    width: int


Convert = Literal["", "digital", "negated"]
"""How values are read: as they are; as 8-bit digital numbers; with the other sign."""


@dataclass(frozen=True, slots=True)
class SourceBand:
    """One band as it lies in a file."""

    name: str
    code: str
    """What the source calls it, e.g. `B4` or `Band1`."""
    path: Path
    index: int
    """Band number in the file, from 1."""
    dtype: str
    nodata: float | None
    """The file's no-data value; None where it declares none."""
    masked: bool = False
    """The file has a mask or an alpha band, which says as well where this one holds data."""
    convert: Convert = ""
    """`dtype` and `nodata` are those of what is read."""

    @property
    def role(self) -> Role:
        """What kind of thing it measures."""
        return role(self.name)

    def renamed(self, name: str) -> "SourceBand":
        """The same band under another name."""
        return replace(self, name=name)


@dataclass(frozen=True, slots=True)
class RasterLabel:
    """Labels as an integer raster on the scene's grid."""

    path: Path
    nodata: float | None
    masked: bool = False
    """As of a `SourceBand`."""


@dataclass(frozen=True, slots=True)
class Outline:
    """One file of outlines, and what lies inside them."""

    path: Path
    value: int | None
    """The source value all its polygons mean; None: `attribute` tells."""
    attribute: str = ""
    """Column that tells the class of each polygon."""
    meanings: tuple[tuple[str, int], ...] = ()
    """`attribute_key` -> source value, in the order of burning; unknown until `--classes` is read."""


@dataclass(frozen=True, slots=True)
class VectorLabel:
    """Labels as outlines; what lies outside them all has the source value 0."""

    layers: tuple[Outline, ...]
    """Burnt in this order: a later one wins where outlines overlap."""

    @property
    def path(self) -> Path:
        """The file of the first layer."""
        return self.layers[0].path


@dataclass(frozen=True, slots=True)
class Scene:
    """One georeferenced raster stack as it came."""

    name: str
    grid: Grid
    bands: tuple[SourceBand, ...]
    label: RasterLabel | VectorLabel | None
    mask: str = ""
    """What the file of its map is called; empty where none is made of it."""
