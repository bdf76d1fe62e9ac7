"""ICIMOD's HKH glacier mapping release as LILA distributes it: its names, channels and masks.

What it holds, and where its own description is wrong, is told in docs/hkh.md.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError, UsageError
from glacier.scenes.bands import Selection
from glacier.scenes.files import Named, read_bands
from glacier.scenes.scene import Convert, Outline, Scene, VectorLabel

SIZE = 512
"""Side of a patch, px."""
OVERLAP = 6
"""px that neighbouring patches of a scene share."""
PIXEL = 30.0
"""Side of a pixel, m."""
GEOJSON = "slices.geojson"

CLEAN, DEBRIS = 85, 170
"""Values of glacier and debris, as the competition has them; background is 0."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a patch or scene of the release."""

    index: int
    code: str
    name: str
    convert: Convert


CHANNELS = (
    Channel(0, "B1", "blue", "digital"),
    Channel(1, "B2", "green", "digital"),
    Channel(2, "B3", "red", "digital"),
    Channel(3, "B4", "nir", "digital"),
    Channel(4, "B5", "swir1", "digital"),
    Channel(5, "B6_VCID_1", "thermal", "digital"),
    Channel(6, "B6_VCID_2", "thermal2", "digital"),
    Channel(7, "B7", "swir2", "digital"),
    Channel(8, "B8", "pan", "digital"),
    Channel(9, "BQA", "BQA", ""),
    Channel(10, "NDVI", "NDVI", ""),
    Channel(11, "NDSI", "NDSI", "negated"),
    Channel(12, "NDMI", "NDMI", ""),
    Channel(13, "elevation", "elevation", ""),
    Channel(14, "slope", "slope", ""),
)
DEFAULT = ("blue", "green", "red", "swir1", "thermal")
"""What Landsat 8's B2 B3 B4 B6 B10 measure too."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What a file's name says: which patch it belongs to, and whether it is its image or mask."""

    split: str
    """train, dev or test; empty in `slices`."""
    key: str
    """`slice_6_072`"""
    kind: Literal["img", "mask"]

    @property
    def name(self) -> str:
        """Of this copy of the patch."""
        return f"{self.split}_{self.key}".lstrip("_")


_PATCH = re.compile(r"slice_(\d{1,6})_(img|mask)_(\d{1,6})\.npy")


def read_patch_name(path: str) -> Patch | None:
    """What a path in the release says of a patch; None for all other files."""
    parts = PurePosixPath(path).parts
    match = _PATCH.fullmatch(parts[-1]) if parts else None
    if not match:
        return None
    folder = parts[-2] if len(parts) > 1 else ""
    split = folder if folder in ("train", "dev", "test") else ""
    return Patch(split, f"slice_{match[1]}_{match[3]}", "img" if match[2] == "img" else "mask")


def select_channels(selection: Selection) -> list[tuple[str, Channel]]:
    """Band names and channels of a selection; `all` is every channel but BQA.

    Raises:
        UsageError: a channel the release has not.
    """
    if not selection:
        return [(channel.name, channel) for channel in CHANNELS if channel.name in DEFAULT]
    if list(selection) == ["all"]:
        return [(channel.name, channel) for channel in CHANNELS if channel.code != "BQA"]
    known = {key.lower(): channel for channel in CHANNELS for key in (channel.code, channel.name)}
    chosen = []
    for name, keys in selection.items():
        found = [known[key.lower()] for key in keys if key.lower() in known]
        if not found:
            have = ", ".join(f"{c.code} ({c.name})" if c.code != c.name else c.code for c in CHANNELS)
            raise UsageError(f"--bands: no channel {keys[0]} in the HKH release; it has {have}, or all")
        chosen.append((found[0].name if name == keys[0] else name, found[0]))
    return chosen


def labels(planes: NDArray[np.generic], name: str) -> tuple[NDArray[np.uint8], int]:
    """Labels of a mask, told by its content which of two conventions it follows.

    One has the planes (all glacier, clean, debris), the first the union of the others; the other
    (clean, debris, background), of which each pixel has one. No pixel can follow both.

    Args:
        planes: (h, w, 3) of 0 and 1.
        name: of its file, for errors.

    Returns:
        0 background, 85 glacier (clean ice), 170 debris (h, w); and how many pixels are labelled as
        both, which count as debris.

    Raises:
        GlacierError: the mask follows neither.
    """
    if planes.ndim != 3 or planes.shape[2] != 3 or planes.dtype.kind not in "buif":
        raise GlacierError(f"{name}: {planes.shape} of {planes.dtype}, expected a mask of (h, w, 3)")
    first, second, third = (planes[..., i] == 1 for i in range(3))
    binary = np.isin(planes, (0, 1)).all()
    if binary and np.array_equal(first, second | third):
        clean, debris = second, third
    elif binary and (first.astype(np.uint8) + second + third == 1).all():
        clean, debris = first, second
    else:
        raise GlacierError(
            f"{name}: follows neither convention of the HKH masks; expected planes (all, clean, debris), "
            "the first the union of the others, or one of (clean, debris, background) per pixel"
        )
    out = np.where(debris, np.uint8(DEBRIS), np.where(clean, np.uint8(CLEAN), np.uint8(0)))
    return out, int(np.count_nonzero(clean & debris))


def _folders(root: Path) -> list[Path]:
    return [root / "slices", *(root / "splits" / split for split in ("train", "dev", "test"))]


def has_patches(root: Path) -> bool:
    """Whether there are patches below `root`."""
    return any(list(folder.glob("slice_*_img_*.npy")) for folder in _folders(root))


def release_root(source: Path) -> Path | None:
    """The folder that holds the release's own, if `source` is it, is above it or is one of them."""
    roots = [source, source / "glacier_data"]
    roots += [source.parent] if source.name in ("slices", "splits") else []
    roots += [source.parent.parent] if source.parent.name == "splits" else []
    for root in roots:
        if has_patches(root) or ((root / "raster_data").is_dir() and (root / "vector_data").is_dir()):
            return root
    return None


def patch_files(root: Path, source: Path) -> list[Path]:
    """Images and masks of the patches in those of the folders of `root` that `source` is or holds."""
    folders = [folder for folder in _folders(root) if folder.is_relative_to(source)]
    return sorted(file for folder in folders for file in folder.glob("slice_*_*_*.npy"))


def release_scenes(root: Path, selection: Selection, whole: bool) -> list[Scene]:
    """The release's scenes, labelled by its outlines: clean ice first, debris over it.

    Args:
        root: as `release_root` finds it.
        selection: of channels.
        whole: keep digital numbers as float32 instead of rounding them to 8 bits.

    Raises:
        GlacierError: no scenes, no outlines, or a scene of other channels.
        UsageError: a channel the release has not.
    """
    chosen = select_channels(selection)
    outlines = tuple(
        Outline(root / "vector_data" / f"{kind}.shp", value)
        for kind, value in (("clean", CLEAN), ("debris", DEBRIS))
    )
    files = sorted((root / "raster_data").glob("LE07_*.tif"))
    missing = [str(o.path) for o in outlines if not o.path.exists()]
    if not files or missing:
        what = missing[0] if files else f"{root / 'raster_data'}/LE07_*.tif"
        raise GlacierError(f"{what}: not there; expected the scenes and outlines of the HKH release")
    return [_scene(file, chosen, outlines, whole) for file in files]


def _scene(
    file: Path, chosen: list[tuple[str, Channel]], outlines: tuple[Outline, ...], whole: bool
) -> Scene:
    grid, inside = read_bands(Named(file, "band", "", ""))
    if len(inside) != len(CHANNELS):
        raise GlacierError(f"{file}: {len(inside)} bands, expected the HKH release's {len(CHANNELS)}")
    bands = []
    for name, channel in chosen:
        found = inside[channel.index]
        band = replace(found, name=name, code=channel.code, convert=channel.convert)
        if channel.convert == "digital":
            band = replace(band, convert="") if whole else replace(band, dtype="uint8", nodata=0.0)
        bands.append(band)
    return Scene(file.stem, grid, tuple(bands), VectorLabel(outlines))
