"""Whether scenes fit a store that stands: options, bands, names, classes, values; or a named refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from glacier.classes import IGNORE, ClassMap
from glacier.errors import GlacierError, UsageError
from glacier.ingest.pack import needs, pack_bands
from glacier.ingest.plan import Options, columns, map_classes, merged_ranges
from glacier.ingest.survey import Need, Range, Survey
from glacier.scenes.bands import Selection
from glacier.scenes.scene import RasterLabel, Scene
from glacier.store.bands import Band
from glacier.store.reader import Store

FREE = frozenset({"classes", "bands"})
"""Options that say how to read a source; the others are the store's."""


def selection_for(store: Store) -> Selection:
    """The store's bands, by the name they have there, else by the code they had where they came from."""
    return {band.name: (band.name, band.code) for band in store.meta.bands}


def settle(store: Store, given: Mapping[str, Any]) -> Options:
    """The options that a store was made with, and how to read the new source.

    Raises:
        GlacierError: the store does not say how it was made.
        UsageError: one that is the store's is given otherwise.
    """
    try:
        made = store.meta.source["options"]
        theirs = {f.name: made[f.name] for f in fields(Options) if f.name in made}
        options = replace(Options(**theirs), bands="")
    except (KeyError, TypeError) as error:
        raise GlacierError(
            f"{store.path}: does not say with which options it was made; only stores that `glacier ingest` "
            "made can be added to"
        ) from error
    for name, value in given.items():
        if name not in FREE and value != getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')}: {value}, but {store.path} was made with "
                f"{getattr(options, name)}; leave it out, or make another store"
            )
    return replace(options, **given)


def with_bands_of(store: Store, scene: Scene) -> Scene:
    """The scene with the store's bands, in their order.

    Raises:
        GlacierError: it lacks one.
    """
    known = {band.name: band for band in scene.bands}
    if missing := [name for name in store.meta.band_names if name not in known]:
        raise GlacierError(
            f"scene {scene.name}: no band {', '.join(missing)}; it has {', '.join(known)}, expected "
            f"{', '.join(store.meta.band_names)} as in {store.path}; choose and name them with --bands"
        )
    return replace(scene, bands=tuple(known[name] for name in store.meta.band_names))


def new_names(store: Store, scenes: Sequence[Scene]) -> None:
    """See to it that no scene is in the store.

    Raises:
        GlacierError: some names are there already.
    """
    there = set(store.scene_names)
    if twice := [scene.name for scene in scenes if scene.name in there]:
        raise GlacierError(
            f"{store.path}: holds {len(twice)} of these scenes already, {', '.join(twice[:5])}"
            f"{', …' if len(twice) > 5 else ''}; rename their files, or leave them out"
        )


def classes_of(store: Store, held: Sequence[tuple[Scene, Survey]], text: str) -> ClassMap:
    """What the scenes' label values mean in the store.

    Args:
        store: whose classes these are to be.
        held: the scenes with data.
        text: `VALUE=NAME,…`; empty for the values that the store's own labels had.

    Raises:
        GlacierError: a value without a class, or a class that the store has not.
    """
    theirs = store.meta.class_names
    if not text and any(isinstance(scene.label, RasterLabel) for scene, _ in held):
        text = ",".join(f"{cls.value}={cls.name}" for cls in store.meta.classes)
    found = map_classes(held, text)
    if strange := [cls.name for cls in found.classes if cls.name not in theirs]:
        raise GlacierError(
            f"class {', '.join(strange)}: {store.path} has {', '.join(theirs)}; say which of them each "
            "label value is with --classes"
        )
    names = [theirs.index(cls.name) for cls in found.classes]
    index = {v: IGNORE if i == IGNORE else names[i] for v, i in found.index_of.items()}
    return ClassMap(store.meta.classes, index)


def needs_of(store: Store, scenes: Sequence[Scene]) -> list[Need]:
    """By band: what the survey must read to tell whether the store's packing holds its values."""
    if store.meta.dtype == "float32":
        return needs(columns(scenes), "float32")
    return [
        Need(range=not all(_surely_held(source.dtype, band) for source in column), taken=False)
        for band, column in zip(store.meta.bands, columns(scenes), strict=True)
    ]


def _surely_held(dtype: str, band: Band) -> bool:
    """Whether a band's packing holds every value of an integer dtype, but for its no-data code."""
    if not _whole(band) or dtype not in ("uint8", "int8", "uint16", "int16"):
        return False
    here, there = np.iinfo(band.dtype), np.iinfo(dtype)
    return here.min + band.offset <= there.min and there.max <= here.max + band.offset


def _whole(band: Band) -> bool:
    """Whether a band holds whole numbers, exactly."""
    return band.scale == 1.0 and band.bound == 0.0 and float(band.offset).is_integer()


def bands_of(store: Store, held: Sequence[tuple[Scene, Survey]]) -> list[Band]:
    """The store's bands; in a float32 store the bound on errors may have grown.

    Raises:
        GlacierError: a band holds values that the store's packing does not.
    """
    ranges = merged_ranges(held)
    if store.meta.dtype == "float32":
        new = pack_bands(columns([scene for scene, _ in held]), ranges, "float32")
        pairs = zip(store.meta.bands, new, strict=True)
        return [replace(band, bound=max(band.bound, n.bound)) for band, n in pairs]
    for band, found in zip(store.meta.bands, ranges, strict=True):
        _held(band, found)
    return list(store.meta.bands)


def _held(band: Band, found: Range) -> None:
    """See to it that a band's packing holds the values found, where any were looked for."""
    if found.low > found.high:
        return
    low, high = (limit * band.scale + band.offset for limit in band.limits())
    near = band.scale / 2 if band.bound else 0.0
    fits = low - near <= found.low and found.high <= high + near
    exact = band.bound > 0 or (_whole(band) and found.integral) or found.low == found.high == band.offset
    if not (fits and exact):
        kind = f"{'' if band.bound else 'whole numbers from '}{low:g} to {high:g}"
        what = "" if found.integral else " with fractions"
        raise GlacierError(
            f"band {band.name}: values {found.low:g} to {found.high:g}{what}, expected {kind} as the store "
            "packs them; nothing was added, ingest both sources into a new store"
        )
