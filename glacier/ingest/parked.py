"""Patches of the HKH release, packed and parked in the unfinished store until all are there.

Masks may come long after their images and footprints last, so nothing is decided before the end: images
and labels wait as small GeoTIFFs under a digest of what they were made from, and become scenes then.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from glacier.errors import GlacierError
from glacier.scenes.archive import parse_npy
from glacier.scenes.convert import converted
from glacier.scenes.hkh import CHANNELS, Channel, Patch, labels
from glacier.scenes.scene import Convert
from glacier.store.folder import Folder

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
    array = parse_npy(data, name)
    read = _digest(array)
    if patch.kind == "mask":
        label, doubled = labels(array, name)
        stored = _digest(label)
        _write(folder / f"{stored}.label.tif", label[..., None])
        return Row(patch.split, patch.key, "mask", read, stored, label.shape, doubled)
    if array.ndim != 3 or array.shape[2] != len(CHANNELS) or array.dtype.kind != "f" or not array.size:
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


def _digest(array: NDArray[np.generic]) -> str:
    """Of an array's values, dtype and shape."""
    said = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    said.update(np.ascontiguousarray(array).data)
    return said.hexdigest()


def groups(chosen: Chosen, whole: bool) -> dict[str, Chosen]:
    """The channels that share a file: those stored as 8-bit digital numbers, and the others."""
    digital = [(n, c) for n, c in chosen if _convert(c, whole) == "digital"]
    plain = [(n, c) for n, c in chosen if _convert(c, whole) != "digital"]
    return {kind: group for kind, group in (("digital", digital), ("plain", plain)) if group}


def _convert(channel: Channel, whole: bool) -> Convert:
    return "" if whole and channel.convert == "digital" else channel.convert


def _write(path: Path, pixels: NDArray[np.generic]) -> None:
    """A compressed GeoTIFF of (h, w, band), put in place when whole. Its place is kept elsewhere.

    It is made in memory: a full disk is no error to what closes a GeoTIFF.
    """
    if path.exists():
        return
    height, width, count = pixels.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype, compress="zstd",
            zstd_level=1, interleave="pixel", blockysize=height, transform=NOWHERE,
        ) as file:  # fmt: skip
            file.write(np.moveaxis(pixels, -1, 0))
        Folder(path.parent).put(path.name, memory.read())


@dataclass(slots=True)
class Parked:
    """What is parked so far: rows of an index that outlives the process."""

    folder: Path
    chosen: Chosen
    whole: bool
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    """By split, key and kind."""

    def open(self, anew: bool) -> None:
        """Make the folder, and take up what an unfinished ingest left in it.

        Where the source may be another than before, `anew`, that is only what need not be packed again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        index = self.folder / INDEX
        for line in index.read_text().splitlines() if index.exists() and not anew else ():
            try:
                row = Row(**json.loads(line))
                self._take(replace(row, shape=(row.shape[0], row.shape[1])))
            except (ValueError, TypeError, IndexError):
                continue  # cut short when the disk was full
        if anew:
            (self.folder / ALL).unlink(missing_ok=True)
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in self.rows.values())
        Folder(self.folder).put(INDEX, lines.encode())

    def has(self, patch: Patch) -> bool:
        """Whether a file of the release is parked."""
        return (patch.split, patch.key, patch.kind) in self.rows

    def all_read(self, footprints: bytes | None) -> None:
        """Note that the source was read to its end."""
        text = footprints.decode(errors="replace") if footprints else None
        Folder(self.folder).put(ALL, json.dumps({"footprints": text}).encode())

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
