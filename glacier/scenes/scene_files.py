"""The `scenes` layout: a folder or a stack per scene, bands, GLCM and labels told by file name."""

from collections import Counter, defaultdict
from pathlib import Path

from glacier.errors import GlacierError
from glacier.scenes.files import Named, Parts, is_label_word, rasters, read_name, vectors

_ASIDE = frozenset({"images", "image", "bands", "img"})


def scene_files(source: Path, labels: Path | None, labelled: bool) -> list[Parts]:
    """Each scene below `source`, or the one in the file `source`; with labels if `labelled`.

    Raises:
        GlacierError: no raster, or a label or texture that belongs to no scene or to several.
    """
    named = [read_name(file) for file in _all_rasters(source)]
    scenes: dict[tuple[Path, str], list[Named]] = defaultdict(list)
    for file in named:
        if file.kind == "band":
            scenes[_home(file.path), file.stem].append(file)
    if not scenes:
        raise GlacierError(
            f"{source}: no raster of bands in it; expected GeoTIFFs, in folders per scene or per band"
        )
    for file in named:
        if file.kind == "glcm":
            scenes[_owner(file, list(scenes))].append(file)
    label = _labels(source, labels, named, list(scenes)) if labelled else {}
    names = _names(list(scenes))
    return [Parts(names[key], tuple(files), label.get(key)) for key, files in scenes.items()]


def _all_rasters(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    folders = [source, *(f for f in sorted(source.rglob("*")) if f.is_dir())]
    return [file for folder in folders for file in rasters(folder)]


def _home(path: Path) -> Path:
    """The folder a file's scene lies in: above folders such as `labels` or `glcm`."""
    folder = path.parent
    name = folder.name.lower()
    return folder.parent if is_label_word(name) or name.startswith("glcm") or name in _ASIDE else folder


def _owner(file: Named, scenes: list[tuple[Path, str]]) -> tuple[Path, str]:
    """The scene a label or texture belongs to: the same stem, else one that begins alike."""
    near = [key for key in scenes if key[0] == _home(file.path)] or scenes
    fits = [key for key in near if key[1] == file.stem] or [
        key for key in near if _begins(key[1], file.stem) or _begins(file.stem, key[1])
    ]
    if len(fits) != 1:
        found = ", ".join(sorted(stem or home.name for home, stem in fits or near)[:5])
        raise GlacierError(
            f"{file.path}: belongs to {len(fits) or 'none'} of the scenes {found}; expected one whose "
            "name it shares"
        )
    return fits[0]


def _begins(longer: str, shorter: str) -> bool:
    return not shorter or longer.startswith(f"{shorter}_")


def _labels(
    source: Path, labels: Path | None, named: list[Named], scenes: list[tuple[Path, str]]
) -> dict[tuple[Path, str], Path]:
    """Scene -> its label raster or outlines. A raster beside the bands goes before outlines."""
    if labels and labels.is_file() and labels.suffix.lower() not in {".tif", ".tiff"}:
        return dict.fromkeys(scenes, labels)
    if labels:
        files = [labels] if labels.is_file() else rasters(labels)
        stem = {file: read_name(file).stem for file in files}
        rows = [Named(file, "label", "" if labels.is_file() else stem[file], "") for file in files]
        return {_owner(row, scenes): row.path for row in rows}
    found: dict[tuple[Path, str], Path] = {}
    for key in scenes:
        outlines = vectors(key[0]) or (vectors(source) if source.is_dir() else [])
        if len(outlines) > 1:
            raise GlacierError(
                f"{outlines[0].parent}: {len(outlines)} vector files "
                f"({', '.join(f.name for f in outlines[:4])}); name the outlines with --labels"
            )
        if outlines:
            found[key] = outlines[0]
    return found | {_owner(f, scenes): f.path for f in named if f.kind == "label"}


def _names(scenes: list[tuple[Path, str]]) -> dict[tuple[Path, str], str]:
    """Scene names: the stem, or the folder's name, or both where one alone stands twice."""
    short = {(home, stem): stem or home.name for home, stem in scenes}
    count = Counter(short.values())
    return {
        key: name if count[name] == 1 else "_".join(filter(None, (key[0].name, key[1])))
        for key, name in short.items()
    }
