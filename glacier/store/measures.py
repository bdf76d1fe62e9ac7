"""What a store keeps of each tile beside its pixels: a histogram per block, and moments per band."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.store.bands import Band, Raw
from glacier.store.schema import BLOCK


def block_histogram(label: NDArray[np.uint8], classes: int) -> NDArray[np.uint16]:
    """Labelled pixels per block and class (by, bx, class) of one tile's label (S, S)."""
    size = label.shape[0]
    blocks = size // BLOCK
    counts = []
    for index in range(classes):
        columns = (label == index).reshape(blocks, BLOCK, size).sum(axis=1, dtype=np.uint8)
        counts.append(columns.reshape(blocks, blocks, BLOCK).sum(axis=2, dtype=np.uint16))
    return np.stack(counts, axis=-1)


def moments(image: Raw, bands: Sequence[Band]) -> NDArray[np.float64]:
    """Of one tile's raw pixels (S, S, B): count, mean, squared deviations, min, max per band (B, 5).

    Physical units; all zero where a band holds no data.
    """
    if image.dtype.kind != "f":
        return _integer_moments(image, bands)
    rows = np.zeros((len(bands), 5))
    for row, band, raw in zip(rows, bands, np.moveaxis(image, -1, 0), strict=True):
        values = raw[~band.missing(raw)].astype(np.float64) * band.scale + band.offset
        if values.size:
            mean = values.mean()
            spread = np.square(values - mean).sum()
            row[:] = values.size, mean, spread, values.min(), values.max()
    return rows


def _integer_moments(image: Raw, bands: Sequence[Band]) -> NDArray[np.float64]:
    """`moments` of integer codes, by sums of codes and of their squares, which float64 holds exactly."""
    flat = image.reshape(len(image), -1)
    sums = np.zeros((2, flat.shape[1]))
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK].astype(np.float64)
        sums[0] += part.sum(axis=0)
        sums[1] += np.einsum("ij,ij->j", part, part)
    totals = sums.astype(np.int64).reshape(2, -1, len(bands)).sum(axis=1)
    gaps, low, high = _held(flat, bands)
    rows = np.zeros((len(bands), 5))
    for i, band in enumerate(bands):
        code = int(band.nodata)
        count = flat.size // len(bands) - gaps[i]
        if not count:
            continue
        total = int(totals[0, i]) - gaps[i] * code
        squares = int(totals[1, i]) - gaps[i] * code * code
        rows[i] = (
            count,
            total / count * band.scale + band.offset,
            (count * squares - total * total) / count * band.scale**2,
            low[i] * band.scale + band.offset,
            high[i] * band.scale + band.offset,
        )
    return rows


def _held(flat: Raw, bands: Sequence[Band]) -> tuple[list[int], list[int], list[int]]:
    """Of each band, how many pixels are no data, and the lowest and highest code of the others.

    `flat` is (S, S * B). Where all pixels are no data, the last two mean nothing.
    """
    size = flat.shape[1] // len(bands)
    codes = np.tile(np.array([band.nodata for band in bands], flat.dtype), size)
    missing = flat == codes
    low, high = flat.min(axis=0), flat.max(axis=0)
    gaps = np.zeros(len(bands), np.int64)
    if missing.any():
        info, held = np.iinfo(flat.dtype.name), ~missing
        if (low == codes).any():
            low = flat.min(axis=0, where=held, initial=info.max)
        if (high == codes).any():
            high = flat.max(axis=0, where=held, initial=info.min)
        few = missing.reshape(-1, BLOCK, flat.shape[1]).sum(axis=1, dtype=np.uint8)
        gaps = few.sum(axis=0, dtype=np.int64).reshape(size, -1).sum(axis=0)
    lows, highs = low.reshape(size, -1).min(axis=0), high.reshape(size, -1).max(axis=0)
    return gaps.tolist(), lows.tolist(), highs.tolist()
