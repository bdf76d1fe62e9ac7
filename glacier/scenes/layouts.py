"""From a source folder to its Scenes: recognise the layout, read headers, hold them against each other."""

import re
from collections import Counter
from pathlib import Path
from typing import Literal

from glacier.errors import GlacierError, UsageError
from glacier.scenes.band_folders import band_folders, find_band_folders
from glacier.scenes.bands import Selection, spectral_order
from glacier.scenes.files import RASTERS, Parts, read_bands, same_grid, textures
from glacier.scenes.scene import Grid, Outline, RasterLabel, Scene, SourceBand, VectorLabel
from glacier.scenes.scene_files import scene_files

_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]|^\.+$")
"""Control characters, bytes that are no text, and names that mean a folder."""

Layout = Literal["auto", "bands", "scenes"]


def find_scenes(
    source: Path,
    *,
    layout: Layout = "auto",
    labels: Path | None = None,
    attribute: str = "",
    labelled: bool = True,
    glcm: str = "",
    textured: bool = True,
    bands: Selection | None = None,
) -> list[Scene]:
    """Every scene of a source, its headers read and held against each other.

    Args:
        source: a folder, or one raster file.
        layout: `bands` (folders Band1 … BandN, a file per tile in each), `scenes` (files or folders
            per scene), or `auto`.
        labels: a folder of label rasters, a label raster, or a vector file; by default what lies
            beside the bands.
        attribute: the column of a vector file that tells the class of each polygon; all are glacier
            by default.
        labelled: False to take no notice of labels.
        glcm: a glob of texture rasters, absolute or relative to `source`, beside those found there.
        textured: False to take no notice of textures.
        bands: which bands to take and what to call them; all by default.

    Raises:
        GlacierError: nothing to read, or files that do not fit together.
        UsageError: `bands` or `attribute` names what is not there.
    """
    for path in (source, labels):
        if path and not path.exists():
            raise GlacierError(f"{path}: no such file or folder")
    source = source.resolve()
    folders = find_band_folders(source)
    if layout == "bands" and not folders:
        raise GlacierError(f"{source}: no folder Band1, Band2, … in it, as --layout bands expects")
    given = textures(glcm, source if source.is_dir() else source.parent) if glcm else []
    if folders and layout != "scenes":
        parts = band_folders(source, folders, labels, labelled, textured, given)
    else:
        parts = scene_files(source, labels, labelled, textured, given)
    scenes = [assemble(part, bands or {}, attribute) for part in parts]
    _hold_together(scenes)
    if attribute and not any(isinstance(scene.label, VectorLabel) for scene in scenes):
        raise UsageError(f"--attribute: {attribute} is a column of outlines, but no scene's labels are any")
    return scenes


def assemble(parts: Parts, selection: Selection, attribute: str = "") -> Scene:
    """Read the headers of one scene's files and hold them against each other."""
    headers = [(named.path, *read_bands(named)) for named in parts.bands]
    bands = select(parts.name, [b for _, _, inside in headers for b in inside], selection)
    grid_of = {path: grid for path, grid, _ in headers}
    used = list(dict.fromkeys(band.path for band in bands))
    grid = grid_of[used[0]]
    same_grid(used[0], grid, [(path, grid_of[path]) for path in used[1:]])
    label = _label(parts.label, attribute, used[0], grid) if parts.label else None
    return Scene(parts.name, grid, tuple(bands), label, parts.mask)


def _label(path: Path, attribute: str, first: Path, grid: Grid) -> RasterLabel | VectorLabel:
    if path.suffix.lower() not in RASTERS:
        return VectorLabel((Outline(path, None if attribute else 1, attribute),))
    found, bands = read_bands(path)
    if len(bands) != 1:
        raise GlacierError(f"{path}: holds {len(bands)} bands, expected one band of class values")
    same_grid(first, grid, [(path, found)])
    return RasterLabel(path, bands[0].nodata, bands[0].masked)


def select(scene: str, bands: list[SourceBand], selection: Selection) -> list[SourceBand]:
    """The bands a selection asks for, renamed, in its order; all by wavelength without one.

    Raises:
        UsageError: one is not there.
        GlacierError: two bear one name.
    """
    chosen = sorted(bands, key=lambda band: spectral_order(band.name))
    if selection:
        known = {key.lower(): b for b in reversed(bands) for key in (b.code, b.name)}
        chosen = []
        for name, keys in selection.items():
            found = [known[keys[0].lower()]] if keys[0].lower() in known else []
            found += [b for key in keys[1:] if (b := known.get(key.lower())) and b.role == "other"]
            if not found:
                have = ", ".join(b.name if b.name == b.code else f"{b.code} ({b.name})" for b in bands)
                raise UsageError(
                    f"scene {scene}: no band {keys[0]}; it has {have}; name files or band "
                    "descriptions accordingly, or to ingest them --bands CODE=NAME"
                )
            chosen.append(found[0].renamed(name))
    twice = [name for name, count in Counter(b.name for b in chosen).items() if count > 1]
    if twice:
        files = [band.path.name for band in chosen if band.name == twice[0]]
        raise GlacierError(
            f"scene {scene}: {len(files)} bands are called {twice[0]} ({', '.join(files)}); "
            "expected each once, choose with --bands"
        )
    return chosen


def _hold_together(scenes: list[Scene]) -> None:
    """Every scene of a store has the same bands, and its own name."""
    first = scenes[0]
    names = [band.name for band in first.bands]
    twice = [name for name, count in Counter(scene.name for scene in scenes).items() if count > 1]
    if twice:
        raise GlacierError(
            f"{len(scenes)} scenes, of which several are called {twice[0]}; rename their files"
        )
    if odd := [scene for scene in scenes if _ODD.search(scene.name)]:
        raise GlacierError(
            f"{odd[0].bands[0].path.parent}: a scene is called {odd[0].name!a}; expected letters, "
            "rename its files"
        )
    for scene in scenes[1:]:
        found = [band.name for band in scene.bands]
        if found != names:
            raise GlacierError(
                f"scene {scene.name}: bands {', '.join(found)}; expected {', '.join(names)} as in "
                f"scene {first.name}; choose common ones with --bands"
            )
