"""Tiles of a competition's folders, read without GDAL, as far as it and the package read them alike."""

import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from glacier.errors import GlacierError
from glacier.scenes.band_folders import band_files, by_tile, find_band_folders, pick
from glacier.scenes.bands import Selection, canonical
from glacier.scenes.files import Named, name_band, natural
from glacier.scenes.layouts import select
from glacier.scenes.read import optical, valid
from glacier.scenes.scene import SourceBand

DESCRIPTION = 42112
"""GDAL's TIFF tag of XML, of what bands are called among others."""
NODATA = 42113
"""GDAL's TIFF tag of the no-data value."""
MASK = 4
"""The bit of a page's kind that says it is a mask of another."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of the competition."""

    name: str
    file: str
    """Name of its file in the first folder of bands."""
    folders: list[Path]
    """Of all bands."""
    bands: list[SourceBand]
    """Those the model needs, in its order."""


def find_tiles(images: Mapping[str, str | Path] | str | Path, sought: Selection) -> list[Tile]:
    """All tiles, in natural order.

    Raises:
        GlacierError: no tile, one that lacks a band, two of one id, or a file that cannot be read.
    """
    if isinstance(images, Mapping):
        folders = {name: Path(folder) for name, folder in images.items()}
    else:
        folders = {folder.name: folder for folder in find_band_folders(Path(images))}
    for folder in folders.values():
        if not folder.is_dir():
            raise GlacierError(f"{folder}: no such folder; expected one of a band's files")
    files = {
        folders[name]: by_tile(band_files(folders[name], name))
        for name in sorted(folders, key=lambda name: natural(Path(name)))
    }
    tiles = []
    for tile in sorted({tile for of in files.values() for tile in of}, key=lambda t: natural(Path(t))):
        named = [pick(folder, of, tile) for folder, of in files.items()]
        bands = select(tile, [read_header(file) for file in named], sought)
        first = named[0].path
        tiles.append(Tile(tile_id(first.stem) or tile, first.name, list(files), bands))
    if not tiles:
        raise GlacierError(f"{images}: no tile; expected folders Band1, Band2, … of GeoTIFFs")
    for name, count in Counter(tile.name for tile in tiles).items():
        if count > 1:
            of = ", ".join(tile.file for tile in tiles if tile.name == name)
            raise GlacierError(f"{count} tiles of the id {name} ({of}); expected each once, rename files")
    return tiles


def tile_id(stem: str) -> str:
    """`img001` -> `001`, else the `02_07` of a name that begins with a band's code or not, else nothing."""
    number = re.search(r"img(\d+)", stem, re.I)
    place = re.search(r"(?<!\d)\d\d_\d\d(?!\d)", re.sub(r"^B\d{1,2}A?_", "", stem, flags=re.I))
    return number[1] if number else place[0] if place else ""


def read_header(file: Named) -> SourceBand:
    """What a file says of its band.

    Raises:
        GlacierError: it cannot be read, holds several bands, or GDAL would read it otherwise.
    """
    try:
        with tifffile.TiffFile(file.path) as tif:
            page = tif.pages.first
            tags = {tag.code: str(tag.value) for tag in page.tags}
            dtype, shape = np.dtype(page.dtype), page.shape
            unlike = {
                "an internal mask": any(getattr(part, "subfiletype", 0) & MASK for part in tif.pages),
                f"{page.bitspersample} bits per value": page.bitspersample != 8 * dtype.itemsize,
                "white as 0": page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
            }
        items = ElementTree.fromstring(tags[DESCRIPTION]) if DESCRIPTION in tags else ()
        nodata = float(tags[NODATA].strip(" \0")) if NODATA in tags else None
    except Exception as error:  # likewise of tifffile
        raise GlacierError(f"{file.path}: cannot be read as a TIFF ({error})") from error
    if len(shape) != 2:
        raise GlacierError(f"{file.path}: pixels of shape {shape}, expected one band")
    if found := [what for what, so in unlike.items() if so]:
        raise GlacierError(f"{file.path}: holds {found[0]}, expected a plain GeoTIFF; write it as one")
    described = [item.text or "" for item in items if item.get("role") == "description"]
    name, code = name_band(file, canonical(file.code), "".join(described[:1]))
    return SourceBand(name, code, file.path, 1, dtype.name, nodata)


def read_pixels(path: Path) -> NDArray[np.generic]:
    """A file's values (H, W): by tifffile, or where it lacks the codec (LZW), by OpenCV.

    Raises:
        GlacierError: neither can.
    """
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        try:
            return np.asarray(page.asarray())
        except Exception as error:  # each codec has its own for what is damaged
            values, dtype = _by_opencv(path), np.dtype(page.dtype)
            if values is None or values.shape != page.shape or values.itemsize != dtype.itemsize:
                raise GlacierError(f"{path}: cannot be read by tifffile ({error}) nor by OpenCV") from error
            return values.view(dtype)  # OpenCV may take signed integers for unsigned ones


def _by_opencv(path: Path) -> NDArray[np.generic] | None:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it would warn of every tag of GDAL's
    try:
        import cv2
    except ImportError:
        return None
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return None if values is None else np.asarray(values)


def read_tile(tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Physical values (H, W, B), NaN without data; and where light gave any (H, W).

    Raises:
        GlacierError: a file that cannot be read, or of another size than the first.
    """
    planes: list[NDArray[np.float32]] = []
    light, held = set(optical(tile.bands)), []
    for index, band in enumerate(tile.bands):
        values = read_pixels(band.path)
        if planes and values.shape != planes[0].shape:
            raise GlacierError(
                f"{band.path}: {values.shape} px, expected {planes[0].shape} as in {tile.file}"
            )
        mask = valid(values, band)
        there = np.ones(values.shape, bool) if mask is None else mask
        planes.append(np.where(there, values.astype(np.float32), np.float32(np.nan)))
        held += [there] if index in light else []
    return np.stack(planes, axis=-1), np.any(held, axis=0)
