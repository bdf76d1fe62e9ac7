"""Patches of the HKH release, packed and parked in the unfinished store until all are there.

Masks may come long after their images and footprints last, so nothing is decided before the end: images
and labels wait as small GeoTIFFs under a digest of what they were made from, and become scenes then.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from glacier.errors import GlacierError
from glacier.scenes.archive import parse_npy
from glacier.scenes.convert import converted
from glacier.scenes.hkh import CHANNELS, Channel, Patch, labels
from glacier.scenes.hkh_places import Place, read_places
from glacier.scenes.scene import Convert, Grid, RasterLabel, Scene, SourceBand
from glacier.store.schema import TEST

INDEX = "index.jsonl"
ALL = "all.json"
"""Says that the source was read to its end; holds the footprints, if it had any."""
NOWHERE = Affine(1, 0, 1, 0, -1, 0)
"""Of what is parked; where it belongs is not known yet, and rasterio warns of files without a place."""
Chosen = Sequence[tuple[str, Channel]]
"""Band names, and the channels they are."""


@dataclass(frozen=True, slots=True)
class Row:
    """A file of the release that is parked."""

    split: str
    key: str
    kind: str
    read: str
    """Digest of the file."""
    stored: str
    """Name of what is parked of it: for an image that digest, for a mask one of its labels."""
    shape: tuple[int, int]
    """px"""
    odd: int
    """Of an image: digital numbers clipped. Of a mask: pixels labelled as clean ice and as debris."""

    @property
    def patch(self) -> Patch:
        """Whose it is."""
        return Patch(self.split, self.key, "img" if self.kind == "img" else "mask")


def park(folder: Path, name: str, patch: Patch, data: bytes, chosen: Chosen, whole: bool) -> Row:
    """Pack an image or mask into `folder`, unless the same is there.

    Args:
        folder: where patches are parked.
        name: of the file, for errors.
        patch: what that says.
        data: the .npy file.
        chosen: bands of the store.
        whole: keep digital numbers as float32 instead of rounding them to 8 bits.

    Raises:
        GlacierError: not an array of the release's shape, or a mask that follows no convention.
    """
    read = hashlib.blake2b(data, digest_size=16).hexdigest()
    array = parse_npy(data, name)
    if patch.kind == "mask":
        label, doubled = labels(array, name)
        stored = hashlib.blake2b(label.tobytes(), digest_size=16).hexdigest()
        _write(folder / f"{stored}.label.tif", label[..., None])
        return Row(patch.split, patch.key, "mask", read, stored, label.shape, doubled)
    if array.ndim != 3 or array.shape[2] != len(CHANNELS) or array.dtype.kind != "f":
        raise GlacierError(
            f"{name}: {array.shape} of {array.dtype}, expected an image of (h, w, {len(CHANNELS)}) floats"
        )
    clipped = 0
    for kind, group in groups(chosen, whole).items():
        pixels = np.stack([array[..., c.index] for _, c in group], axis=-1)
        if kind == "digital":
            clipped = int(np.count_nonzero((pixels < 0.5) | (pixels >= 255.5)))
            pixels = converted(pixels, "digital")
        else:
            for i, (_, channel) in enumerate(group):
                pixels[..., i] = converted(pixels[..., i], _convert(channel, whole))
            pixels = pixels.astype(np.float32)
        _write(folder / f"{read}.{kind}.tif", pixels)
    return Row(patch.split, patch.key, "img", read, read, array.shape[:2], clipped)


def groups(chosen: Chosen, whole: bool) -> dict[str, Chosen]:
    """The channels that share a file: those stored as 8-bit digital numbers, and the others."""
    digital = [(n, c) for n, c in chosen if _convert(c, whole) == "digital"]
    plain = [(n, c) for n, c in chosen if _convert(c, whole) != "digital"]
    return {kind: group for kind, group in (("digital", digital), ("plain", plain)) if group}


def _convert(channel: Channel, whole: bool) -> Convert:
    return "" if whole and channel.convert == "digital" else channel.convert


def _write(path: Path, pixels: NDArray[np.generic]) -> None:
    """A compressed GeoTIFF of (h, w, band), put in place when whole. Its place is kept elsewhere."""
    if path.exists():
        return
    partial = path.with_name(f"{uuid4().hex}.partial")
    height, width, count = pixels.shape
    with rasterio.open(
        partial, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype,
        compress="zstd", zstd_level=1, interleave="pixel", blockysize=height, transform=NOWHERE,
    ) as file:  # fmt: skip
        file.write(np.moveaxis(pixels, -1, 0))
    partial.replace(path)


@dataclass(slots=True)
class Parked:
    """What is parked so far: rows of an index that outlives the process."""

    folder: Path
    chosen: Chosen
    whole: bool
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    """By split, key and kind."""

    def open(self) -> None:
        """Make the folder, and take up what an unfinished ingest left in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        index = self.folder / INDEX
        for line in index.read_text().splitlines() if index.exists() else ():
            try:
                row = Row(**json.loads(line))
                self._take(replace(row, shape=(row.shape[0], row.shape[1])))
            except (ValueError, TypeError, IndexError):
                continue  # cut short when the process was killed

    def has(self, patch: Patch) -> bool:
        """Whether a file of the release is parked."""
        return (patch.split, patch.key, patch.kind) in self.rows

    def all_read(self, footprints: bytes | None) -> None:
        """Note that the source was read to its end."""
        partial = self.folder / f"{ALL}.partial"
        partial.write_text(json.dumps({"footprints": footprints.decode() if footprints else None}))
        partial.replace(self.folder / ALL)

    def footprints(self) -> str | None:
        """What the source had of them, once it is read; else FileNotFoundError."""
        found: str | None = json.loads((self.folder / ALL).read_text())["footprints"]
        return found

    def is_all_read(self) -> bool:
        """Whether the source was read to its end."""
        return (self.folder / ALL).exists()

    def add(self, row: Row) -> None:
        """Keep a row.

        Raises:
            GlacierError: the source holds another file of that name.
        """
        found = self.rows.get((row.split, row.key, row.kind))
        if found and found.read != row.read:
            raise GlacierError(
                f"{row.patch.name}: two {row.kind} files of that name with different contents; expected "
                "one; if the source is another than before, give --overwrite"
            )
        if found is None:
            with (self.folder / INDEX).open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            self._take(row)

    def _take(self, row: Row) -> None:
        self.rows[row.split, row.key, row.kind] = row

    def files(self, digest: str) -> Mapping[str, Path]:
        """The files of an image, by kind."""
        return {kind: self.folder / f"{digest}.{kind}.tif" for kind in groups(self.chosen, self.whole)}


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
    clipped: int
    """Digital numbers outside 1 … 255."""
    doubled: int
    """Pixels labelled as clean ice and as debris."""
    differing: int
    """Copies whose labels are not those of the patch they are copied from; these were taken."""


_ORDER = ("", "train", "dev", "test")
"""Of copies of a patch, the first gives it its name and labels."""


def gather(parked: Parked) -> Release:
    """Make scenes of what is parked, in the order of their names.

    Raises:
        GlacierError: none, or an image without a mask or a mask without an image.
    """
    images = {(r.split, r.key): r for r in parked.rows.values() if r.kind == "img"}
    masks = {(r.split, r.key): r for r in parked.rows.values() if r.kind == "mask"}
    if not images and not masks:
        raise GlacierError("no patches (slice_S_img_NNN.npy and slice_S_mask_NNN.npy) in the HKH release")
    for what, other in (("mask", images.keys() - masks.keys()), ("image", masks.keys() - images.keys())):
        if other:
            split, key = min(other)
            raise GlacierError(
                f"{f'{split}/' if split else ''}{key}: no {what} in the release, as {len(other)} patches; "
                "expected images and masks in pairs; is the source complete?"
            )
    _same_shapes(images, masks)
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in images.values():
        copies[row.stored].append(row)
    kept = {d: sorted(rows, key=lambda r: (_ORDER.index(r.split), r.key)) for d, rows in copies.items()}
    size = max(row.shape[0] for row in images.values())
    footprints = parked.footprints()
    places = read_places(footprints, size) if footprints else {}
    named = Counter(rows[0].key for rows in kept.values())
    scenes: dict[str, Scene] = {}
    fold = {}
    for rows in kept.values():
        first = rows[0]
        name = first.key if named[first.key] == 1 else first.patch.name
        label = parked.folder / f"{masks[first.split, first.key].stored}.label.tif"
        scenes[name] = Scene(name, _grid(first, places), _bands(parked, first), RasterLabel(label, None))
        splits = {row.split for row in rows}
        fold[name] = TEST if "test" in splits else 0 if "dev" in splits else 1
    firsts = [rows[0] for rows in kept.values()]
    return Release(
        scenes=tuple(scenes[name] for name in sorted(scenes, key=_natural)),
        fold=fold,
        copies=len(images) - len(kept),
        placed=sum(row.key in places for row in firsts),
        clipped=sum(row.odd for row in firsts),
        doubled=sum(masks[row.split, row.key].odd for row in firsts),
        differing=sum(
            masks[row.split, row.key].stored != masks[rows[0].split, rows[0].key].stored
            for rows in kept.values()
            for row in rows[1:]
        ),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split("_")]


def _same_shapes(images: Mapping[tuple[str, str], Row], masks: Mapping[tuple[str, str], Row]) -> None:
    for at, image in images.items():
        if masks[at].shape != image.shape:
            raise GlacierError(
                f"{image.patch.name}: a mask of {masks[at].shape} px, expected {image.shape} px"
            )


def _grid(row: Row, places: Mapping[str, Place]) -> Grid:
    if row.key in places:
        return places[row.key].grid
    return Grid(*row.shape, Affine.identity(), "")


def _bands(parked: Parked, row: Row) -> tuple[SourceBand, ...]:
    """The bands of a parked image, in the order chosen."""
    files = parked.files(row.stored)
    made = {}
    for kind, group in groups(parked.chosen, parked.whole).items():
        dtype, nodata = ("uint8", 0.0) if kind == "digital" else ("float32", None)
        for number, (name, channel) in enumerate(group, start=1):
            made[name] = SourceBand(name, channel.code, files[kind], number, dtype, nodata)
    return tuple(made[name] for name, _ in parked.chosen)
