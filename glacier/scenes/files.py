"""What a file's name and header say: is it a band, a texture or a label, and of which scene."""

import os
import re
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.windows
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from glacier.errors import GlacierError
from glacier.scenes.bands import CODE, OPTICAL, TERRAIN, THERMAL, canonical, measured, role
from glacier.scenes.bucket import BucketPath
from glacier.scenes.glcm import FEATURES
from glacier.scenes.scene import Grid, SourceBand

RASTERS = frozenset({".tif", ".tiff", ".vrt", ".jp2"})
VECTORS = frozenset({".gpkg", ".shp", ".geojson", ".fgb"})
"""What is taken for outlines where it lies beside bands; `--labels` takes whatever OGR reads."""
LABEL_WORDS = frozenset({"mask", "masks", "gt", "groundtruth", "annotation", "annotations"})
QUALITY_WORDS = frozenset(
    {
        "qa",
        "bqa",
        "fmask",
        "radsat",
        "mtl",
        "ang",
        "saa",
        "sza",
        "vaa",
        "vza",
        "cdist",
        "drad",
        "emis",
        "emsd",
    }
    | {"trad", "urad", "atran", "scl", "aot", "wvp", "tci"}
)
"""Words of rasters that come with a scene and are no bands of it: quality, angles, previews."""

_NAMES = "|".join(sorted((*OPTICAL, *THERMAL, *TERRAIN), key=len, reverse=True))
_BAND_ENDING = re.compile(rf"(?:^|_)(?:S[RT]_)?({CODE.pattern}|RGB|{_NAMES})(?:_\d0m)?$", re.I)
"""`_B4`, `_SR_B4` and `_B04_10m` alike."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a raster's name says of it."""

    path: Path
    kind: Literal["band", "glcm", "label", "quality"]
    stem: str
    """The part that names the scene; empty in a folder that holds one scene."""
    code: str
    """The part that names the band or texture; empty where a file holds a whole stack."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of one scene, before any is opened."""

    name: str
    bands: tuple[Named, ...]
    label: Path | None
    """A label raster or a vector file."""
    mask: str
    """What the file of its map is called."""


def rasters(folder: Path) -> list[Path]:
    """Raster files directly in `folder`, in natural order (2 before 10); but for `._x.tif`, macOS's own."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in RASTERS and not f.is_dir())
    files = (f for f in files if not f.name.startswith("._"))
    return sorted(files, key=natural)


def outlines(folder: Path) -> Path | None:
    """The vector file directly in `folder`, if there is one.

    Raises:
        GlacierError: there are several.
    """
    found = sorted(f for f in folder.iterdir() if f.suffix.lower() in VECTORS)
    if len(found) > 1:
        raise GlacierError(
            f"{folder}: {len(found)} vector files ({', '.join(f.name for f in found[:4])}); name the "
            "outlines with --labels"
        )
    return found[0] if found else None


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key under which `B2` comes before `B10`."""
    parts = re.split(r"(\d+)", path.name)
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts if p]


def is_label_word(word: str) -> bool:
    """Whether a part of a name says that the file holds labels (`LabelHand` does)."""
    return word.lower() in LABEL_WORDS or word.lower().startswith("label")


def read_name(path: Path, source: Path) -> Named:
    """Take a raster's name apart; folders count from `source` down."""
    words = path.stem.split("_")
    folder = path.parent.name.lower() if path.parent != source else ""
    lower = [word.lower() for word in words]
    texture = _read_texture(path, folder)
    if texture and folder.startswith("glcm"):  # whatever else its name says
        return texture
    if QUALITY_WORDS & set(lower):
        return Named(path, "quality", path.stem, "")
    if is_label_word(folder) or any(map(is_label_word, words)):
        return Named(path, "label", "_".join(w for w in words if not is_label_word(w)), "")
    if texture:
        return texture
    if match := _BAND_ENDING.search(path.stem):
        return Named(path, "band", path.stem[: match.start()], match[1])
    return Named(path, "band", path.stem, "")


def _read_texture(path: Path, folder: str) -> Named | None:
    """Take a texture's name apart; None if neither its name nor its folder's says that it is one."""
    feature = folder.removeprefix("glcm").strip("_-") if folder.startswith("glcm") else ""
    if feature:
        stem = re.sub(rf"(^|_)glcm_{re.escape(feature)}(?=_|$)", "", path.stem, flags=re.I)
        return Named(path, "glcm", stem.strip("_"), feature)
    words = path.stem.split("_")
    lower = [word.lower() for word in words]
    if lower[0] == "glcm" and lower[1:2] and lower[1] in FEATURES:
        return Named(path, "glcm", "_".join(words[2:]), lower[1])
    if "glcm" in lower:
        at = lower.index("glcm")
        return Named(path, "glcm", "_".join(words[:at]), "_".join(lower[at + 1 :]))
    return Named(path, "glcm", "_".join(words[:-1]), lower[-1]) if folder == "glcm" else None


def textures(pattern: str, source: Path) -> list[Named]:
    """The rasters that a glob names, relative to the folder `source` or absolute, as textures.

    Each is told by its name or its folder's, as `read_name` does it, or by a feature's name in either.

    Raises:
        GlacierError: no raster, or one whose name says no feature.
    """
    paths = sorted(
        Path(os.path.normpath(source / p)) for p in glob(pattern, root_dir=source, recursive=True)
    )
    found = [_texture(path) for path in paths if path.suffix.lower() in RASTERS]
    if not found:
        raise GlacierError(
            f"--glcm {pattern}: no raster in {source}; expected a pattern such as 'textures/**/*.tif'"
        )
    return found


def _texture(path: Path) -> Named:
    folder, words = path.parent.name.lower(), path.stem.split("_")
    named = _read_texture(path, folder)
    said = [word for word in words if word.lower() in FEATURES]
    if named and named.code:
        return named
    if len(said) == 1:
        return Named(path, "glcm", "_".join(w for w in words if w not in said), said[0].lower())
    if folder in FEATURES:
        return Named(path, "glcm", path.stem, folder)
    raise GlacierError(
        f"{path}: its name says no texture; expected SCENE_glcm_contrast.tif, or a folder GLCM_contrast"
    )


def open_raster(path: Path) -> rasterio.DatasetReader:
    """Open a raster; one that lacks georeferencing is as good as any.

    Of one in a bucket GDAL is not to list the folder, thousands of objects, for files that belong to it.
    """
    far = isinstance(path, BucketPath)
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR") if far else nullcontext(),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def alpha_bands(raster: rasterio.DatasetReader) -> list[int]:
    """Numbers of the bands that say where the others hold data.

    The fourth of four bytes is taken for alpha by whatever writes a TIFF; one that is described as
    something else is none.
    """
    tints = zip(raster.colorinterp, raster.descriptions, strict=True)
    return [
        i
        for i, (tint, name) in enumerate(tints, 1)
        if tint is ColorInterp.alpha and (name or "alpha").lower() == "alpha"
    ]


def _is_doubtful(raster: rasterio.DatasetReader, number: int) -> bool:
    """Whether a fourth band of bytes is alpha only by default, with more than 0 and 255 in its middle."""
    if raster.dtypes[number - 1] != "uint8" or raster.descriptions[number - 1]:
        return False
    row, column = max(0, raster.height // 2 - 128), max(0, raster.width // 2 - 128)
    middle = rasterio.windows.Window(column, row, min(256, raster.width), min(256, raster.height))
    return bool(np.isin(raster.read(number, window=middle), (0, 255), invert=True).any())


def read_bands(file: Named | Path) -> tuple[Grid, list[SourceBand]]:
    """The grid and bands of one file, named by its band descriptions, else by its name.

    Raises:
        GlacierError: the file cannot be opened, its pixels are complex numbers, or what it calls alpha
            looks like a band.
    """
    named = Named(file, "label", "", "") if isinstance(file, Path) else file
    try:
        with open_raster(named.path) as raster:
            crs = raster.crs.to_wkt() if raster.crs else ""
            grid = Grid(raster.height, raster.width, raster.transform, crs)
            described, dtypes, nodata = raster.descriptions, raster.dtypes, raster.nodatavals
            alpha, flags = alpha_bands(raster), raster.mask_flag_enums
            doubtful = [number for number in alpha if len(dtypes) == 4 and _is_doubtful(raster, number)]
    except (RasterioError, UnicodeError) as error:
        raise GlacierError(f"{named.path}: cannot be read as a raster ({error})") from error
    if doubtful:
        raise GlacierError(
            f"{named.path}: calls band {doubtful[0]} alpha, but its values look like a band's; expected 0 "
            f"and 255; if it is one, say so with `gdal_edit.py -colorinterp_{doubtful[0]} undefined`, else "
            "describe it as alpha"
        )
    if len(alpha) == len(dtypes):
        raise GlacierError(f"{named.path}: holds an alpha band and nothing else, expected bands beside it")
    told = {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}
    bands = []
    numbers = [i for i in range(len(dtypes)) if i + 1 not in alpha]
    for i, fallback in zip(numbers, _codes(named, len(numbers)), strict=True):
        if dtypes[i].startswith("complex"):
            raise GlacierError(f"{named.path}: pixels are {dtypes[i]}, expected integers or floats")
        name, code = name_band(named, fallback, described[i] or "")
        masked = bool(alpha) or not told & set(flags[i])
        bands.append(SourceBand(name, code, named.path, i + 1, dtypes[i], nodata[i], masked))
    return grid, bands


def name_band(file: Named, fallback: str, description: str) -> tuple[str, str]:
    """Name and code of a band: by its description, by its file's name, or `fallback`, its code by that."""
    code = fallback if file.code else description or fallback
    name = description if role(description.lower()) != "other" else code
    if file.code or description:
        name = measured(name, file.path.stem)
    return name if role(name.lower()) == "other" else name.lower(), code


def _codes(named: Named, count: int) -> list[str]:
    """Band codes by a file's name, for files that describe none."""
    code = canonical(named.code)
    if named.kind == "glcm":
        code = f"glcm_{named.code}".rstrip("_")
    if code.upper() == "RGB" and count == 3:
        return ["red", "green", "blue"]
    if count == 1:
        return [code or "band"]
    return [f"{code or 'band'}_{i}" for i in range(1, count + 1)]


def same_grid(first: Path, grid: Grid, others: Iterable[tuple[Path, Grid]]) -> None:
    """Hold the rasters of a scene against its first.

    Raises:
        GlacierError: one that differs, with what was found and expected.
    """
    for path, other in others:
        if difference := other.differs_from(grid):
            raise GlacierError(
                f"{path}: {difference} as in {first.name}; resample it onto that grid, or leave it "
                "out with --bands"
            )
