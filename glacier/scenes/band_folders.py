"""The `bands` layout: folders Band1 … BandN with one file per tile in each, matched by tile id."""

import re
from collections import defaultdict
from pathlib import Path

from glacier.errors import GlacierError
from glacier.scenes.files import Named, Parts, is_label_word, natural, outlines, rasters

_BAND_FOLDER = re.compile(r"band[_-]?\d+", re.I)


def find_band_folders(source: Path) -> list[Path]:
    """Folders Band1, Band2, … in `source`, in their order."""
    return [f for f in _folders(source) if _BAND_FOLDER.fullmatch(f.name)]


def band_folders(
    source: Path,
    folders: list[Path],
    labels: Path | None,
    labelled: bool,
    textured: bool,
    given: list[Named],
) -> list[Parts]:
    """Each tile of a set of band folders.

    Args:
        source: the folder they lie in.
        folders: as `find_band_folders` yields them.
        labels: where labels lie, if not in `source`.
        labelled: whether to look for them.
        textured: whether to take textures.
        given: textures, wherever they lie, beside those in GLCM folders of `source`.

    Raises:
        GlacierError: no raster at all, or a folder without a file for a tile that others hold.
    """
    elsewhere = {file.path for file in given}
    found = {folder: _named(folder) for folder in folders}
    for folder in _glcm_folders(source) if textured else ():
        files = _named(folder)
        left = [file for file in files if file.path not in elsewhere]
        if left or not files:
            found[folder] = left
    columns = [(folder, by_tile(files)) for folder, files in found.items()]
    tiles = sorted({tile for _, of in columns for tile in of}, key=lambda t: natural(Path(t)))
    if not tiles:
        raise GlacierError(
            f"{source}: no GeoTIFF in {', '.join(f.name for f in folders)}; expected one per tile"
        )
    columns += _columns(given, tiles) if textured else []
    label = _labels(source, labels, tiles) if labelled else dict.fromkeys(tiles)
    return [
        Parts(tile, files, label[tile], _mask(files[0].path))
        for tile in tiles
        for files in [tuple(pick(folder, of, tile) for folder, of in columns)]
    ]


def _mask(first: Path) -> str:
    """A tile's map is called as its file in the first folder of bands: competitions match them by name."""
    return first.name if first.suffix.lower() in (".tif", ".tiff") else f"{first.stem}.tif"


def _columns(given: list[Named], tiles: list[str]) -> list[tuple[Path, dict[str, Named]]]:
    """Textures by feature: a folder of theirs, to name it, and tile -> file.

    Raises:
        GlacierError: one that belongs to no tile.
    """
    features: dict[str, list[Named]] = defaultdict(list)
    for file in given:
        features[file.code].append(file)
    known = set(tiles)
    columns = [(files[0].path.parent, by_tile(files)) for files in features.values()]
    for _, of in columns:
        for tile, file in of.items():
            if tile not in known:
                raise GlacierError(
                    f"{file.path}: belongs to none of the tiles {', '.join(tiles[:5])}; expected one "
                    "whose id it shares"
                )
    return columns


def _labels(source: Path, labels: Path | None, tiles: list[str]) -> dict[str, Path | None]:
    """Tile -> its label: a file of the label folder, else outlines that lie in `source`."""
    labels = labels or next((f for f in _folders(source) if is_label_word(f.name)), None)
    if labels and labels.is_dir() and rasters(labels):
        files = by_tile([Named(file, "label", file.stem, "") for file in rasters(labels)])
        return {tile: pick(labels, files, tile).path for tile in tiles}
    beside = labels if labels and labels.is_dir() else source
    return dict.fromkeys(tiles, labels if labels and labels.is_file() else outlines(beside))


def _folders(source: Path) -> list[Path]:
    return sorted((f for f in source.iterdir() if f.is_dir()), key=natural) if source.is_dir() else []


def _glcm_folders(source: Path) -> list[Path]:
    """`GLCM_contrast/`, and `glcm/contrast/`."""
    beside = [f for f in _folders(source) if f.name.lower().startswith("glcm")]
    return [inner for folder in beside for inner in _folders(folder) or [folder]]


def by_tile(files: list[Named]) -> dict[str, Named]:
    """Tile id -> file. The id is the numbers a name ends in (`02_07`), where they tell files apart."""
    ids = [_tile_id(file.stem) for file in files]
    if len(set(ids)) < len(ids):
        ids = [file.stem for file in files]
    return dict(zip(ids, files, strict=True))


def _tile_id(stem: str) -> str:
    stem = re.sub(r"^B\d{1,2}A?_", "", stem, flags=re.I)
    numbers = re.search(r"\d+(_\d+)*$", stem) or re.search(r"\d+(_\d+)+", stem)
    return numbers[0] if numbers else stem


def pick(folder: Path, files: dict[str, Named], tile: str) -> Named:
    """The file of a tile in a folder.

    Raises:
        GlacierError: it holds none.
    """
    if tile not in files:
        raise GlacierError(
            f"{folder}: no file for tile {tile}, which other folders hold; add it, or remove that "
            "tile from all"
        )
    return files[tile]


def _named(folder: Path) -> list[Named]:
    """The files of a folder of a band, or of a texture."""
    if _BAND_FOLDER.fullmatch(folder.name):
        return band_files(folder, folder.name)
    code = folder.name.lower().removeprefix("glcm").strip("_-")
    return [Named(path, "glcm", path.stem, code) for path in rasters(folder)]


def band_files(folder: Path, name: str) -> list[Named]:
    """A folder's files, called by the code that a file's name begins with (`B2_…_02_07`), else `name`."""
    codes = [re.match(r"(B\d{1,2}A?)_", path.name, re.I) for path in rasters(folder)]
    return [
        Named(path, "band", path.stem, code[1] if code else name)
        for path, code in zip(rasters(folder), codes, strict=True)
    ]
