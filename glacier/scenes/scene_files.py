"""The `scenes` layout: a folder or a stack per scene, bands, GLCM and labels told by file name."""

from collections import Counter, defaultdict
from pathlib import Path

from glacier.errors import GlacierError
from glacier.scenes.files import Named, Parts, is_label_word, outlines, rasters, read_name

_ASIDE = frozenset({"images", "image", "bands", "img"})

Key = tuple[Path, str]
"""A scene before it has a name: the folder it lies in, and the part its files' names share."""


def scene_files(
    source: Path, labels: Path | None, labelled: bool, textured: bool, given: list[Named]
) -> list[Parts]:
    """Each scene below `source`, or the one in the file `source`.

    Args:
        source: a folder, or one raster file.
        labels: where labels lie, if not beside the bands.
        labelled: whether to look for them.
        textured: whether to take textures.
        given: textures, wherever they lie, beside those below `source`.

    Raises:
        GlacierError: no raster, or a label or texture that belongs to no scene or to several.
    """
    top = source if source.is_dir() else source.parent
    elsewhere = {file.path for file in given}
    named = [read_name(file, top) for file in all_rasters(source) if file not in elsewhere]
    scenes: dict[Key, list[Named]] = defaultdict(list)
    for file in named:
        if file.kind == "band":
            scenes[_home(file.path, top), file.stem].append(file)
    if not scenes:
        raise GlacierError(
            f"{source}: no raster of bands in it; expected GeoTIFFs, in folders per scene or per band"
        )
    names = _names(list(scenes), top)
    for file in (*named, *given) if textured else ():
        if file.kind == "glcm":
            scenes[_owner(file, names, top)].append(file)
    label = _labels(top, labels, named, names) if labelled else {}
    return [
        Parts(names[key], tuple(files), label.get(key), f"{names[key]}.tif")
        for key, files in scenes.items()
    ]


def all_rasters(source: Path) -> list[Path]:
    """Raster files in `source` and below, or that one."""
    if source.is_file():
        return [source]
    return [file for folder in _folders(source) for file in rasters(folder)]


def _folders(source: Path) -> list[Path]:
    """`source` and the folders below it, linked ones too, each once wherever links lead."""
    found: dict[Path, Path] = {}
    waiting = [source]
    while waiting:
        folder = waiting.pop()
        if folder.resolve() not in found:
            found[folder.resolve()] = folder
            waiting += sorted((f for f in folder.iterdir() if f.is_dir()), reverse=True)
    return list(found.values())


def _home(path: Path, top: Path) -> Path:
    """The folder a file's scene lies in: above folders such as `labels` or `glcm`, not above `top`."""
    folder, name = path.parent, path.parent.name.lower()
    aside = is_label_word(name) or name.startswith("glcm") or name in _ASIDE
    return folder.parent if aside and folder != top else folder


def _owner(file: Named, scenes: dict[Key, str], top: Path) -> Key:
    """The scene (by its key, with its name) that a label or texture belongs to.

    It shares its name: one in its folder, else that of a scene, else any; else one begins alike.
    """
    near = [key for key in scenes if key[0] == _home(file.path, top)]
    known = near or list(scenes)
    fits = _called(near, file.stem) or [key for key, name in scenes.items() if name == file.stem]
    fits = fits or _called(known, file.stem)
    fits = fits or [k for k in known if _begins(k[1], file.stem) or _begins(file.stem, k[1])]
    if len(fits) != 1:
        found = ", ".join(sorted(stem or home.name for home, stem in fits or known)[:5])
        raise GlacierError(
            f"{file.path}: belongs to {len(fits) or 'none'} of the scenes {found}; expected one whose "
            "name it shares"
        )
    return fits[0]


def _called(scenes: list[Key], stem: str) -> list[Key]:
    return [key for key in scenes if key[1] == stem] or [key for key in scenes if key[0].name == stem]


def _begins(longer: str, shorter: str) -> bool:
    return not shorter or longer.startswith(f"{shorter}_")


def _labels(top: Path, labels: Path | None, named: list[Named], scenes: dict[Key, str]) -> dict[Key, Path]:
    """Scene -> its label raster, else the outlines that lie beside it or in `top`."""
    if labels and labels.is_file() and labels.suffix.lower() not in {".tif", ".tiff"}:
        return dict.fromkeys(scenes, labels)
    files = [file for file in named if file.kind == "label"]
    if labels:
        given = [labels] if labels.is_file() else rasters(labels)
        files = [Named(f, "label", read_name(f, labels.parent).stem, "") for f in given]
    found: dict[Key, Path] = {}
    for file in files:
        only = labels is not None and labels.is_file() and len(scenes) == 1
        key = next(iter(scenes)) if only else _owner(file, scenes, top)
        if key in found:
            raise GlacierError(
                f"{file.path}: a second label for the scene of {found[key].name}; name the one to use "
                "with --labels"
            )
        found[key] = file.path
    for key in scenes:
        if key not in found:
            beside = outlines(labels) if labels and labels.is_dir() else outlines(key[0]) or outlines(top)
            if beside:
                found[key] = beside
    return found


def _names(scenes: list[Key], top: Path) -> dict[Key, str]:
    """Scene names: what the files share, else their folder; with the folders above if that is twice."""
    short = {(home, stem): stem or home.name for home, stem in scenes}
    count = Counter(short.values())
    return {
        key: name if count[name] == 1 else "_".join((*key[0].relative_to(top).parts, key[1])).strip("_")
        for key, name in short.items()
    }
