"""The `bands` layout: folders Band1 … BandN with one file per tile in each, matched by tile id."""

import re
from pathlib import Path

from glacier.errors import GlacierError
from glacier.scenes.files import Named, Parts, is_label_word, natural, outlines, rasters

_BAND_FOLDER = re.compile(r"band[_-]?\d+", re.I)


def find_band_folders(source: Path) -> list[Path]:
    """Folders Band1, Band2, … in `source`, in their order."""
    return [f for f in _folders(source) if _BAND_FOLDER.fullmatch(f.name)]


def band_folders(source: Path, folders: list[Path], labels: Path | None, labelled: bool) -> list[Parts]:
    """Each tile of a set of band folders, its GLCM folders and, if `labelled`, its labels.

    Raises:
        GlacierError: no raster at all, or a folder without a file for a tile that others hold.
    """
    files = {folder: _by_tile(folder) for folder in (*folders, *_glcm_folders(source))}
    tiles = sorted({tile for of in files.values() for tile in of}, key=lambda t: natural(Path(t)))
    if not tiles:
        raise GlacierError(
            f"{source}: no GeoTIFF in {', '.join(f.name for f in folders)}; expected one per tile"
        )
    label = _labels(source, labels, tiles) if labelled else dict.fromkeys(tiles)
    return [
        Parts(tile, tuple(_name(_pick(f, of, tile), f) for f, of in files.items()), label[tile])
        for tile in tiles
    ]


def _labels(source: Path, labels: Path | None, tiles: list[str]) -> dict[str, Path | None]:
    """Tile -> its label: a file of the label folder, else outlines that lie in `source`."""
    labels = labels or next((f for f in _folders(source) if is_label_word(f.name)), None)
    if labels and labels.is_dir() and rasters(labels):
        files = _by_tile(labels)
        return {tile: _pick(labels, files, tile) for tile in tiles}
    beside = labels if labels and labels.is_dir() else source
    return dict.fromkeys(tiles, labels if labels and labels.is_file() else outlines(beside))


def _folders(source: Path) -> list[Path]:
    return sorted((f for f in source.iterdir() if f.is_dir()), key=natural) if source.is_dir() else []


def _glcm_folders(source: Path) -> list[Path]:
    """`GLCM_contrast/`, and `glcm/contrast/`."""
    beside = [f for f in _folders(source) if f.name.lower().startswith("glcm")]
    return [inner for folder in beside for inner in _folders(folder) or [folder]]


def _by_tile(folder: Path) -> dict[str, Path]:
    """Tile id -> file. The id is the numbers a name ends in (`02_07`), where they tell files apart."""
    files = rasters(folder)
    ids = [_tile_id(file.stem) for file in files]
    if len(set(ids)) < len(ids):
        ids = [file.stem for file in files]
    return dict(zip(ids, files, strict=True))


def _tile_id(stem: str) -> str:
    stem = re.sub(r"^B\d{1,2}A?_", "", stem, flags=re.I)
    numbers = re.search(r"\d+(_\d+)*$", stem) or re.search(r"\d+(_\d+)+", stem)
    return numbers[0] if numbers else stem


def _pick(folder: Path, files: dict[str, Path], tile: str) -> Path:
    if tile not in files:
        raise GlacierError(
            f"{folder}: no file for tile {tile}, which other folders hold; add it, or remove that "
            "tile from all"
        )
    return files[tile]


def _name(path: Path, folder: Path) -> Named:
    """A band is called by the code its file begins with (`B2_…_02_07`), else by its folder."""
    if not _BAND_FOLDER.fullmatch(folder.name):
        return Named(path, "glcm", "", folder.name.lower().removeprefix("glcm").strip("_-"))
    code = re.match(r"(B\d{1,2}A?)_", path.name, re.I)
    return Named(path, "band", "", code[1] if code else folder.name)
