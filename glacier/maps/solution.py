"""Masks of a competition's tiles, by the weights in `model.pth`: `maskgeration(imagepath, model_path)`.

Or as a command: `python solution.py IMAGES MODEL --output MASKS`. It needs numpy, torch, tifffile, tqdm and
segmentation_models_pytorch, and opencv-python for files that tifffile cannot read.
"""

import argparse
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from glacier.errors import GlacierError
from glacier.maps.blend import corners, weights
from glacier.scenes.band_folders import band_files, by_tile, find_band_folders, pick
from glacier.scenes.bands import Selection, canonical
from glacier.scenes.files import Named, name_band, natural
from glacier.scenes.layouts import select
from glacier.scenes.read import optical, valid
from glacier.scenes.scene import SourceBand
from glacier.train.ensemble import Ensemble
from glacier.train.portable import unpacked
from glacier.train.precision import mixed

MODEL = "model.pth"
FOLDERS = (
    ("Band1", "B2", "blue"),
    ("Band2", "B3", "green"),
    ("Band3", "B4", "red"),
    ("Band4", "B6", "swir1"),
    ("Band5", "B10", "thermal"),
)
"""What the competition's folders hold: where file names do not say it, a folder's name does."""
DESCRIPTION = 42112
"""GDAL's TIFF tag of XML, of what bands are called among others."""
NODATA = 42113
"""GDAL's TIFF tag of the no-data value."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of the competition."""

    name: str
    file: str
    """Name of its file in the first folder of bands."""
    bands: list[SourceBand]
    """Those the model needs, in its order."""


@dataclass(frozen=True, slots=True)
class Model:
    """What `model.pth` holds, ready to be used."""

    ensemble: Ensemble
    sought: Selection
    size: int
    """Side of windows, px."""
    values: NDArray[np.uint8]
    """Of classes (C,)."""
    fill: int
    """Class of pixels without data."""
    device: torch.device
    batch: int
    """Windows that the network sees at a time."""


def maskgeration(
    imagepath: Mapping[str, str | Path] | str | Path,
    model_path: str | Path,
    output: str | Path | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Map every tile.

    Args:
        imagepath: `Band1` … `Band5` -> the folder of that band, or a folder that holds those.
        model_path: `model.pth`; or a folder to write masks to, with the model in it or beside this file.
        output: a folder to write masks to, each under the name of its tile's file in `Band1`.

    Returns:
        Tile id (`img001.tif` -> `001`, else the `02_07` of its name) -> values of classes (H, W) uint8.

    Raises:
        GlacierError: files that are missing, cannot be read or do not fit together.
    """
    place = Path(model_path)
    if place.is_dir():
        output = output or place
        inside = place / MODEL
        place = inside if inside.is_file() else Path(__file__).parent / MODEL
    model = load_model(place)
    masks = {}
    for tile in tqdm(find_tiles(imagepath, model.sought), unit="tile"):
        if tile.name in masks:
            raise GlacierError(f"{tile.file}: a second tile {tile.name}; expected each once")
        masks[tile.name] = mask_of(read_tile(tile), model)
        if output:
            Path(output).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(Path(output) / tile.file, masks[tile.name])
    return masks


def load_model(path: Path) -> Model:
    """Read `model.pth`; nothing in it is executed.

    Raises:
        GlacierError: no such file, or another one.
    """
    if not path.is_file():
        raise GlacierError(f"{path}: no such file; expected the {MODEL} that came with this solution")
    try:
        record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        sought = {name: _sought(name, keys) for name, keys in record["bands"].items()}
        members = [unpacked(member, list(sought)) for member in record["members"]]
    except Exception as error:  # what a damaged file makes the unpickler raise has no common base
        raise GlacierError(f"{path}: not the {MODEL} of this solution; copy it again") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Model(
        ensemble=Ensemble(members, tta=record["tta"]).to(device).eval(),
        sought=sought,
        size=record["size"],
        values=np.array(record["values"], np.uint8),
        fill=record["fill"],
        device=device,
        batch=8 if device.type == "cuda" else 1,
    )


def _sought(name: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """What files may call a band besides: as its folder is, or what that folder holds."""
    alike = [also for folder in FOLDERS if name in folder for also in folder]
    return tuple(dict.fromkeys((*keys, *alike)))


def find_tiles(images: Mapping[str, str | Path] | str | Path, sought: Selection) -> list[Tile]:
    """All tiles, in natural order.

    Raises:
        GlacierError: no tile, one that lacks a band, or a file that cannot be read.
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
        part = re.search(r"(?<!\d)\d\d_\d\d(?!\d)", tile)
        tiles.append(Tile(part[0] if part else tile, named[0].path.name, bands))
    if not tiles:
        raise GlacierError(f"{images}: no tile; expected folders Band1, Band2, … of GeoTIFFs")
    return tiles


def read_header(file: Named) -> SourceBand:
    """What a file says of its band.

    Raises:
        GlacierError: it cannot be read, or holds several bands.
    """
    try:
        with tifffile.TiffFile(file.path) as tif:
            page = tif.pages.first
            tags = {tag.code: str(tag.value) for tag in page.tags}
            dtype, shape = np.dtype(page.dtype).name, page.shape
        items = ElementTree.fromstring(tags[DESCRIPTION]) if DESCRIPTION in tags else ()
        nodata = float(tags[NODATA].strip(" \0")) if NODATA in tags else None
    except Exception as error:  # likewise of tifffile
        raise GlacierError(f"{file.path}: cannot be read as a TIFF ({error})") from error
    if len(shape) != 2:
        raise GlacierError(f"{file.path}: pixels of shape {shape}, expected one band")
    described = [item.text or "" for item in items if item.get("role") == "description"]
    name, code = name_band(file, canonical(file.code), "".join(described[:1]))
    return SourceBand(name, code, file.path, 1, dtype, nodata)


def read_pixels(path: Path) -> NDArray[np.generic]:
    """A file's values (H, W): by tifffile, or where it lacks the codec (LZW), by OpenCV.

    Raises:
        GlacierError: neither can.
    """
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        try:
            return np.asarray(page.asarray())
        except ValueError as error:
            os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it would warn of every tag of GDAL's
            import cv2

            values, dtype = cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.dtype(page.dtype)
            if values is None or values.shape != page.shape or values.itemsize != dtype.itemsize:
                raise GlacierError(f"{path}: cannot be read by tifffile ({error}) nor by OpenCV") from error
            return np.asarray(values).view(dtype)  # OpenCV may take signed integers for unsigned ones


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


def mask_of(tile: tuple[NDArray[np.float32], NDArray[np.bool_]], model: Model) -> NDArray[np.uint8]:
    """The classes' values of a tile (H, W): windows that overlap, the mean of what they say."""
    (values, held), size = tile, model.size
    height, width, bands = values.shape
    padded = np.full((max(height, size), max(width, size), bands), np.nan, np.float32)
    padded[:height, :width] = values
    down = zip(corners(height, size), weights(height, size), strict=True)
    along = list(zip(corners(width, size), weights(width, size), strict=True))
    places = [(y, x, v, w) for y, v in down for x, w in along]
    total = torch.zeros(len(model.values), *padded.shape[:2])
    for first in range(0, len(places), model.batch):
        some = places[first : first + model.batch]
        windows = np.stack([padded[y : y + size, x : x + size] for y, x, _, _ in some])
        for (y, x, v, w), shares in zip(some, _shares(windows, model), strict=True):
            total[:, y : y + size, x : x + size].addcmul_(shares, torch.outer(v, w))
    classes = total.argmax(dim=0)[:height, :width].numpy()
    return np.asarray(model.values[np.where(held, classes, model.fill)])


def _shares(windows: NDArray[np.float32], model: Model) -> Tensor:
    """Shares of classes (N, C, H, W) in windows (N, H, W, B)."""
    raw = torch.from_numpy(windows).to(model.device).permute(0, 3, 1, 2)
    with torch.inference_mode(), mixed(model.device):
        shares: Tensor = model.ensemble(raw)
    return shares.float().cpu()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Masks of a competition's tiles.")
    parser.add_argument("images", help="a folder that holds Band1, Band2, …")
    parser.add_argument("model", help=f"{MODEL}, or a folder for the masks")
    parser.add_argument("--output", help="a folder for the masks")
    given = parser.parse_args()
    try:
        print(f"{len(maskgeration(given.images, given.model, given.output))} masks")
    except GlacierError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
