"""Parked patches of the HKH release -> scenes, each patch once, with its label, its place and its fold."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from affine import Affine

from glacier.errors import GlacierError
from glacier.ingest.parked import Parked, Row, groups
from glacier.scenes.hkh_places import Place, read_places
from glacier.scenes.scene import Grid, RasterLabel, Scene, SourceBand
from glacier.store.schema import TEST

_ORDER = ("", "train", "dev", "test")
"""Of copies of a patch, the first gives it its name and labels."""

Rows = Mapping[tuple[str, str], Row]
"""By split and key."""


@dataclass(frozen=True, slots=True)
class Release:
    """The scenes that the parked patches make, one each."""

    scenes: tuple[Scene, ...]
    fold: dict[str, int]
    """Scene name -> 0 for dev, 1 for all that is trained on, `TEST` for test."""
    copies: int
    """Images that were there already under another name."""
    placed: int
    """Patches whose place on the ground is known."""
    unreadable: str
    """What is wrong with the footprints, if they cannot be read."""
    clipped: int
    """Digital numbers outside 1 … 255."""
    doubled: int
    """Pixels labelled as clean ice and as debris."""
    differing: int
    """Copies whose labels are not those of the patch they are copied from; these were taken."""


def gather(parked: Parked) -> Release:
    """Make scenes of what is parked, in the order of their names.

    Raises:
        GlacierError: nothing, an image without a mask or a mask without an image, or patches that differ
            in size.
    """
    images = {(row.split, row.key): row for row in parked.rows.values() if row.kind == "img"}
    masks = {(row.split, row.key): row for row in parked.rows.values() if row.kind == "mask"}
    shape = _hold_together(images, masks)
    kept = _once(images)
    places, unreadable = _places(parked, shape[0])
    named = Counter(rows[0].key for rows in kept)
    splits: dict[str, set[str]] = defaultdict(set)
    for rows in kept:
        together = set().union(*(splits[row.key] for row in rows), (row.split for row in rows))
        for row in rows:
            splits[row.key] |= together
    scenes: dict[str, Scene] = {}
    fold = {}
    for rows in kept:
        first = rows[0]
        name = first.key if named[first.key] == 1 else first.patch.name
        label = parked.folder / f"{masks[first.split, first.key].stored}.label.tif"
        grid = places[first.key].grid if first.key in places else Grid(*shape, Affine.identity(), "")
        scenes[name] = Scene(name, grid, _bands(parked, first), RasterLabel(label, None))
        fold[name] = TEST if "test" in splits[first.key] else 0 if "dev" in splits[first.key] else 1
    return Release(
        scenes=tuple(scenes[name] for name in sorted(scenes, key=_natural)),
        fold=fold,
        copies=len(images) - len(kept),
        placed=sum(rows[0].key in places for rows in kept),
        unreadable=unreadable,
        clipped=sum(rows[0].odd for rows in kept),
        doubled=sum(masks[rows[0].split, rows[0].key].odd for rows in kept),
        differing=sum(
            masks[row.split, row.key].stored != masks[rows[0].split, rows[0].key].stored
            for rows in kept
            for row in rows[1:]
        ),
    )


def _hold_together(images: Rows, masks: Rows) -> tuple[int, int]:
    """Hold images and masks against each other; the size of all, px."""
    if not images and not masks:
        raise GlacierError("no patches (slice_S_img_NNN.npy and slice_S_mask_NNN.npy) in the HKH release")
    for what, other in (("mask", images.keys() - masks.keys()), ("image", masks.keys() - images.keys())):
        if other:
            split, key = min(other)
            raise GlacierError(
                f"{f'{split}/' if split else ''}{key}: no {what} in the release, as {len(other)} patches; "
                "expected images and masks in pairs; is the source complete?"
            )
    most = Counter(row.shape for row in images.values()).most_common(1)[0][0]
    for row in (*images.values(), *masks.values()):
        if row.shape != most:
            raise GlacierError(
                f"{row.patch.name}: its {row.kind} has {row.shape} px, expected {most} px as the others"
            )
    return most


def _once(images: Rows) -> list[list[Row]]:
    """Copies of each image together, the one that gives name and labels first."""
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in images.values():
        copies[row.stored].append(row)
    return [sorted(rows, key=lambda r: (_ORDER.index(r.split), r.key)) for rows in copies.values()]


def _places(parked: Parked, size: int) -> tuple[dict[str, Place], str]:
    """Where patches lie; and what is wrong with the footprints, if they cannot be read."""
    text = parked.footprints()
    try:
        return (read_places(text, size) if text else {}), ""
    except GlacierError as error:
        return {}, str(error)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split("_")]


def _bands(parked: Parked, row: Row) -> tuple[SourceBand, ...]:
    """The bands of a parked image, in the order chosen."""
    files = parked.files(row.stored)
    made = {}
    for kind, group in groups(parked.chosen, parked.whole).items():
        dtype, nodata = ("uint8", 0.0) if kind == "digital" else ("float32", None)
        for number, (name, channel) in enumerate(group, start=1):
            made[name] = SourceBand(name, channel.code, files[kind], number, dtype, nodata)
    return tuple(made[name] for name, _ in parked.chosen)
