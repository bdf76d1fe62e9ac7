"""`glacier ingest`: which reader a source needs, and what is said about it."""

import re
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from glacier import console
from glacier.errors import GlacierError, UsageError
from glacier.ingest.append import append
from glacier.ingest.fit import selection_for
from glacier.ingest.gather import Release
from glacier.ingest.plan import Options
from glacier.ingest.release import HKH, ingest_release
from glacier.ingest.write import Report, ingest
from glacier.machine import cores
from glacier.scenes.archive import SUFFIXES, is_archive
from glacier.scenes.bands import parse_selection
from glacier.scenes.bucket import located
from glacier.scenes.hkh import has_patches, release_root, release_scenes
from glacier.scenes.layouts import find_scenes
from glacier.scenes.read import Nodata
from glacier.scenes.scene import Scene
from glacier.store.reader import Store

Part = Literal["patches", "scenes"]


def run_ingest(
    source: Path | str,
    out: Path | str | None,
    given: Set[str] = frozenset(),
    *,
    layout: str,
    labels: Path | str | None,
    attribute: str,
    glcm: str,
    hkh_source: Part | None,
    folds: str,
    nodata: Nodata | None,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    addition: Path | str | None = None,
    **options: Any,
) -> None:
    """Ingest `source` into `out`, by default a store of its name here; arguments as on the command line.

    `given` are the names of those that stand there; the others have their default.

    Raises:
        GlacierError: bad input, or something else stands at `out`.
        UsageError: arguments that do not fit together.
    """
    if addition and (out or overwrite):
        raise UsageError("--append adds to a store that stands; leave out --out and --overwrite")
    if scheduler and workers:
        raise UsageError("--scheduler has workers of its own; leave out --workers")
    hands = scheduler or workers or cores()
    part, root = _part_of_release(str(source), layout, hkh_source)
    if part and (labels or attribute or glcm):
        raise UsageError(
            "--labels, --attribute, --glcm: the HKH release has its own labels and bands; leave them out"
        )
    if folds == "published" and part != "patches":
        raise UsageError("--folds published: are those of the HKH release's patches; give a number")
    settings = Options(
        folds=5 if folds == "published" else _count(folds),
        published=folds == "published",
        nodata=nodata or (HKH.nodata if part else "all"),
        **options,
    )
    target = addition or out or Path(_name(str(source)))
    lacked = "enough valid pixels" if settings.min_valid else "data"
    if part == "patches":
        if addition:
            raise UsageError(
                "--append: not the HKH release's patches; make a store of them, and add to that"
            )
        report, found = ingest_release(
            str(source), target, settings, workers=hands, overwrite=overwrite,
            track=console.bar, say=console.note,
        )  # fmt: skip
        _tell_release(found)
        _tell(report, target, lacked, by_name=False, piped=str(source) == "-")
        return
    place, bands = located(source), parse_selection(settings.bands)
    if root:
        settings = replace(settings, classes=settings.classes or HKH.classes)
        scenes = release_scenes(root, bands, whole=settings.dtype == "float32")
    else:
        if addition and not bands:
            with Store(addition) as store:
                bands = selection_for(store)
        scenes = find_scenes(
            place, layout=layout, labels=located(labels).resolve() if labels else None,  # type: ignore[arg-type]
            attribute=attribute, glcm=glcm, bands=bands,
        )  # fmt: skip
    console.note(_found(scenes))
    if addition:
        asked = {name: getattr(settings, name) for name in given if hasattr(settings, name)}
        report = append(place, scenes, addition, asked, workers=hands, track=console.bar)
    else:
        report = ingest(
            place, scenes, target, settings, workers=hands, overwrite=overwrite, track=console.bar
        )
    _tell(report, target, lacked, by_name=True)


def _part_of_release(source: str, layout: str, asked: Part | None) -> tuple[Part | None, Path | None]:
    """Which part of the HKH release a source is to be read as, and the release's folder; None for others.

    Raises:
        GlacierError: there is no release.
        UsageError: a part is asked for that is not there.
    """
    if asked and layout not in ("auto", "hkh"):
        raise UsageError(f"--hkh-source: of the layout hkh, not of --layout {layout}; leave one out")
    if is_archive(source) and layout in ("auto", "hkh"):
        if asked == "scenes":
            raise UsageError(
                "--hkh-source scenes: not out of an archive; unpack raster_data and vector_data"
            )
        return "patches", None
    root = release_root(Path(source)) if layout in ("auto", "hkh") and "://" not in source else None
    if root:
        return asked or ("patches" if has_patches(root) else "scenes"), root
    if layout == "hkh" or asked:
        raise GlacierError(
            f"{source}: no HKH release in it; expected slices/ or splits/ with slice_S_img_NNN.npy, or "
            "raster_data/ and vector_data/, or its archive"
        )
    return None, None


def _count(folds: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", folds):
        raise UsageError(f"--folds: {folds!r}, expected a number of spatial folds, or published")
    return int(folds)


def _name(source: str) -> str:
    """The store's name for a source."""
    if source == "-":
        return "hkh.zarr"
    path = Path(source)
    name = path.name if "://" in source else path.resolve().name
    for suffix in (*SUFFIXES[::-1], ".tif", ".tiff", ".vrt"):
        name = name.removesuffix(suffix)
    return f"{name}.zarr"


def _found(scenes: list[Scene]) -> str:
    """What a source holds, in a line."""
    first = scenes[0]
    bands = ", ".join(
        band.name if band.name == band.code else f"{band.name} ({band.code})" for band in first.bands
    )
    label = type(first.label).__name__.removesuffix("Label").lower() if first.label else "no"
    many = f"{len(scenes)} scenes" if len(scenes) > 1 else f"one scene, {first.name}"
    masked = " under a mask or alpha band" if any(band.masked for band in first.bands) else ""
    return f"{many}; {len(first.bands)} bands{masked}: {bands}; {label} labels"


def _tell_release(release: Release | None) -> None:
    """What was found in the HKH release, and what packing it lost."""
    if release is None:
        return
    console.note(
        f"{len(release.scenes)} patches, {release.copies} copies of them left out; "
        f"{release.clipped} digital numbers outside 1 to 255 clipped, the others rounded; "
        f"{release.doubled} pixels with two labels became debris"
    )
    if release.differing:
        console.warn(f"{release.differing} copies have other labels than their originals, whose are taken")
    if release.unreadable:
        console.warn(release.unreadable)
    if missing := len(release.scenes) - release.placed:
        console.warn(
            f"{missing} patches have no place in slices.geojson: nobody knows where they lie, so folds "
            "cannot keep them apart from their neighbours"
        )


def _tell(report: Report, target: Path | str, what: str, by_name: bool, piped: bool = False) -> None:
    """What an ingest did; scenes left out are named where somebody gave them their names."""
    if not report.fresh:
        another = "; to read another archive give --overwrite" if piped else ""
        console.note(f"{target}: complete already, {report.tiles} tiles; nothing to do{another}")
        return
    for name in report.empty_scenes[:10] if by_name else ():
        console.warn(f"scene {name}: no tile of it holds {what}; skipped")
    if len(report.empty_scenes) > 1:
        console.warn(f"{len(report.empty_scenes)} scenes without {what} were skipped")
    left = f", {report.empty_tiles} without {what} left out" if report.empty_tiles else ""
    again = f"; {report.resumed} shards were written before" if report.resumed else ""
    console.note(f"{target}: {report.tiles} tiles of {report.tile_size} px{left}{again}")
