"""One tile as it is read: raw pixels, class indices, and a sample of its pixels."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.errors import GlacierError
from glacier.ingest.pack import LOWEST
from glacier.scenes.labels import class_indices
from glacier.scenes.read import Nodata, SceneReader, has_data, optical
from glacier.scenes.scene import SourceBand, Window
from glacier.store.bands import Band, Raw

STRANGE = IGNORE - 1
"""Stands for a label value without a class; class indices are lower."""
SAMPLE = 256
"""Pixels per tile from which percentiles are estimated."""


def read_tile(
    reader: SceneReader,
    window: Window,
    bands: Sequence[Band],
    index_of: Mapping[int, int],
    rule: Nodata,
    image: Raw,
    label: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Read a window of a scene into a tile, padded at the scene's edge with no data.

    Args:
        reader: the scene.
        window: at most S x S px.
        bands: the store's packing.
        index_of: source label value -> class index, or 255.
        rule: which lack of optical bands makes a pixel no data.
        image: raw pixels (S, S, B), written; contiguous.
        label: class indices (S, S), written.

    Returns:
        By band (B,), how many values were outside its packing and clipped, or took its no-data code.
    """
    height, width = window.height, window.width
    inside = image[:height, :width]
    sources = reader.scene.bands
    direct = [_is_direct(source, band) for source, band in zip(sources, bands, strict=True)]
    masks: dict[int, NDArray[np.bool_] | None] = {}
    clipped = np.zeros(len(bands), np.int64)
    for run in reader.runs():
        if all(direct[i] for i in run):
            out = inside[..., run.start : run.stop]
            unsigned = sources[run[0]].dtype == "uint16"
            reader.read_into(window, run, out.view(np.uint16) if unsigned else out)
        else:
            for i, values, masks[i] in reader.bands(window, run):
                clipped[i] = bands[i].pack(values, masks[i], inside[..., i])
    _shift(image, [i not in masks and sources[i].dtype == "uint16" for i in range(len(bands))])
    codes = np.array([band.nodata for band in bands], image.dtype)
    image[height:] = codes
    image[:, width:] = codes

    def mask(i: int) -> NDArray[np.bool_] | None:
        """Where band `i` is data."""
        if i not in masks:
            masks[i] = None if sources[i].nodata is None else inside[..., i] != codes[i]
        return masks[i]

    for i in range(len(bands)):
        if i not in masks and sources[i].nodata is None:
            clipped[i] = np.count_nonzero(inside[..., i] == codes[i])
    held = has_data(map(mask, optical(sources)), (height, width), rule)
    try:
        classes = _classes(*reader.label(window), index_of)
    except GlacierError as error:
        raise GlacierError(f"scene {reader.scene.name}: {error}") from error
    label[...] = IGNORE
    label[:height, :width] = np.where(held, classes, IGNORE)
    return clipped


def _is_direct(source: SourceBand, band: Band) -> bool:
    """Whether a band's values, its no-data value too, are its raw codes, but for uint16's offset."""
    if source.convert or source.masked or band.scale != 1.0:
        return False
    if source.nodata not in (None, band.nodata + band.offset):
        return False
    if source.dtype == "uint16":
        return band.dtype == "int16" and band.offset == -LOWEST
    fits = ("uint8",) if band.dtype == "uint8" else ("uint8", "int8", "int16")
    return band.dtype != "float32" and source.dtype in fits and band.offset == 0.0


def _shift(image: Raw, which: Sequence[bool]) -> None:
    """Turn the uint16 values in some bands of `image` (S, S, B) into int16 codes, 32768 less, in place."""
    if any(which):
        rows = image.view(np.uint16).reshape(len(image), -1)
        rows ^= np.tile(np.where(which, np.uint16(-LOWEST), np.uint16(0)), image.shape[1])


def _classes(
    values: NDArray[np.integer], valid: NDArray[np.bool_] | None, index_of: Mapping[int, int]
) -> NDArray[np.uint8]:
    """`class_indices`, by a table where all values are bytes that have a class."""
    if values.dtype == np.uint8:
        every = np.arange(256, dtype=np.uint8)
        known = np.isin(every, list(index_of))
        table = np.where(known, class_indices(every, known, index_of), np.uint8(STRANGE))
        classes = np.take(table, values)
        if not (classes == STRANGE).any():
            return classes
    return class_indices(values, valid, index_of)


def pixel_sample(image: Raw, bands: Sequence[Band]) -> NDArray[np.float32]:
    """Pixels from all over one tile (S, S, B) in physical units, NaN without data (B, 256)."""
    pixels = image.reshape(-1, image.shape[-1])
    chosen = pixels[np.random.default_rng(0).integers(0, len(pixels), SAMPLE)]
    return np.stack([b.unpack(chosen[:, i]) for i, b in enumerate(bands)]).astype(np.float32)
