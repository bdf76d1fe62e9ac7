"""One tile: raw pixels, class indices, and the small numbers kept beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.errors import GlacierError
from glacier.scenes.labels import class_indices
from glacier.scenes.read import Nodata, SceneReader, has_data, optical
from glacier.scenes.scene import Window
from glacier.store.bands import Band, Raw
from glacier.store.schema import BLOCK

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
) -> int:
    """Read a window of a scene into a tile, padded at the scene's edge with no data.

    Args:
        reader: the scene.
        window: at most S x S px.
        bands: the store's packing.
        index_of: source label value -> class index, or 255.
        rule: which lack of optical bands makes a pixel no data.
        image: raw pixels (S, S, B), written.
        label: class indices (S, S), written.

    Returns:
        How many values were outside a band's packing and clipped.
    """
    height, width = window.height, window.width
    image[...] = np.array([band.nodata for band in bands], image.dtype)
    label[...] = IGNORE
    which, masks, clipped = set(optical(reader.scene.bands)), [], 0
    for index, values, valid in reader.bands(window):
        clipped += bands[index].pack(values, valid, image[:height, :width, index])
        if index in which:
            masks.append(valid)
    try:
        classes = class_indices(*reader.label(window), index_of)
    except GlacierError as error:
        raise GlacierError(f"scene {reader.scene.name}: {error}") from error
    held = has_data(masks, (height, width), rule)
    label[:height, :width] = np.where(held, classes, IGNORE)
    return clipped


def block_histogram(label: NDArray[np.uint8], classes: int) -> NDArray[np.uint16]:
    """Labelled pixels per block and class (by, bx, class) of one tile's label (S, S)."""
    blocks = label.shape[0] // BLOCK
    split = label.reshape(blocks, BLOCK, blocks, BLOCK)
    counts = [np.count_nonzero(split == index, axis=(1, 3)) for index in range(classes)]
    return np.stack(counts, axis=-1).astype(np.uint16)


def moments(image: Raw, bands: Sequence[Band]) -> NDArray[np.float64]:
    """Of one tile's raw pixels (S, S, B): count, mean, squared deviations, min, max per band (B, 5).

    Physical units; all zero where a band holds no data.
    """
    rows = np.zeros((len(bands), 5))
    for row, band, raw in zip(rows, bands, np.moveaxis(image, -1, 0), strict=True):
        values = raw[~band.missing(raw)].astype(np.float64) * band.scale + band.offset
        if values.size:
            mean = values.mean()
            spread = np.square(values - mean).sum()
            row[:] = values.size, mean, spread, values.min(), values.max()
    return rows


def pixel_sample(image: Raw, bands: Sequence[Band]) -> NDArray[np.float32]:
    """Pixels from all over one tile (S, S, B) in physical units, NaN without data (B, 256)."""
    pixels = image.reshape(-1, image.shape[-1])
    chosen = pixels[np.random.default_rng(0).integers(0, len(pixels), SAMPLE)]
    return np.stack([b.unpack(chosen[:, i]) for i, b in enumerate(bands)]).astype(np.float32)
