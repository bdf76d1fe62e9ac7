"""What a store keeps of each tile beside its pixels: a histogram per block, and moments per band."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.store.bands import Band, Raw
from glacier.store.schema import BLOCK

Count = Callable[[Raw, Raw], NDArray[np.int64]]
"""(integer codes (S, n), each column's code for no data (n,)) -> of each column's other codes how many,
their sum, the sum of their squares, the lowest, the highest (5, n)."""


def block_histogram(label: NDArray[np.uint8], classes: int) -> NDArray[np.uint16]:
    """Labelled pixels per block and class (by, bx, class) of one tile's label (S, S)."""
    size = label.shape[0]
    blocks = size // BLOCK
    counts = []
    for index in range(classes):
        columns = (label == index).reshape(blocks, BLOCK, size).sum(axis=1, dtype=np.uint8)
        counts.append(columns.reshape(blocks, blocks, BLOCK).sum(axis=2, dtype=np.uint16))
    return np.stack(counts, axis=-1)


def count(codes: Raw, missing: Raw) -> NDArray[np.int64]:
    """A `Count`, by float64, which holds all these sums exactly."""
    sums = np.zeros((2, codes.shape[1]))
    for start in range(0, len(codes), BLOCK):
        part = codes[start : start + BLOCK].astype(np.float64)
        sums[0] += part.sum(axis=0)
        sums[1] += np.einsum("ij,ij->j", part, part)
    total, squares = sums.astype(np.int64)
    low, high = codes.min(axis=0), codes.max(axis=0)
    gaps, code = np.zeros_like(total), missing.astype(np.int64)
    gap = codes == missing
    if gap.any():
        info = np.iinfo(codes.dtype.name)
        if (low == missing).any():
            low = codes.min(axis=0, where=~gap, initial=info.max)
        if (high == missing).any():
            high = codes.max(axis=0, where=~gap, initial=info.min)
        few = gap.reshape(-1, BLOCK, codes.shape[1]).sum(axis=1, dtype=np.uint8)
        gaps = few.sum(axis=0, dtype=np.int64)
    return np.stack((len(codes) - gaps, total - gaps * code, squares - gaps * code * code, low, high))


def moments(image: Raw, bands: Sequence[Band], count: Count = count) -> NDArray[np.float64]:
    """Of one tile's raw pixels (S, S, B): count, mean, squared deviations, min, max per band (B, 5).

    Physical units; all zero where a band holds no data. `count` is how integer codes are summed.
    """
    if image.dtype.kind != "f":
        return _integer_moments(image, bands, count)
    rows = np.zeros((len(bands), 5))
    for row, band, raw in zip(rows, bands, np.moveaxis(image, -1, 0), strict=True):
        values = raw[~band.missing(raw)].astype(np.float64) * band.scale + band.offset
        if values.size:
            mean = values.mean()
            spread = np.square(values - mean).sum()
            row[:] = values.size, mean, spread, values.min(), values.max()
    return rows


def _integer_moments(image: Raw, bands: Sequence[Band], count: Count) -> NDArray[np.float64]:
    """`moments` of integer codes, from whole numbers; Python's where they may pass 64 bits."""
    codes = np.tile(np.array([band.nodata for band in bands], image.dtype), image.shape[1])
    columns = count(image.reshape(len(image), -1), codes).reshape(5, -1, len(bands))
    rows = np.zeros((len(bands), 5))
    for i, band in enumerate(bands):
        held, total, squares = (int(part[:, i].sum()) for part in columns[:3])
        if held:
            rows[i] = (
                held,
                total / held * band.scale + band.offset,
                (held * squares - total * total) / held * band.scale**2,
                int(columns[3, :, i].min()) * band.scale + band.offset,
                int(columns[4, :, i].max()) * band.scale + band.offset,
            )
    return rows
