"""The graph and the inputs in NumPy: the oracle of the tests."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.pipeline.buffer import Buffer
from glacier.store.bands import Band, Raw


def reference_graph(batch: Buffer, matrix: NDArray[np.float32] | None) -> Buffer:
    """What `graph` does for exact presets, whose matrices take pixel centres to pixel centres."""
    if matrix is None:
        return batch
    image, label = np.empty_like(batch.image), np.empty_like(batch.label)
    for i, (column, row) in enumerate(_places(matrix, batch.label.shape[1])):
        near = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
        image[i], label[i] = batch.image[i][near], batch.label[i][near]
    return Buffer(image, label)


def reference_warp(
    image: NDArray[np.float64], label: NDArray[np.uint8], matrix: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """What `graph` does when it interpolates: standardised images bilinear, labels nearest.

    Args:
        image: (N, S, S, B); beyond its edges there are zeros.
        label: (N, S, S); beyond its edges nothing is labelled.
        matrix: (N, 2, 3), output px -> input px.
        size: side of the output, px.

    Returns:
        Images (N, P, P, B) and labels (N, P, P).
    """
    moved = np.zeros((len(image), size, size, image.shape[-1]))
    found = np.full((len(image), size, size), IGNORE, np.uint8)
    side = image.shape[1]
    for i, (x, y) in enumerate(_places(matrix, size)):
        row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        found[i][inside] = label[i][row[inside], column[inside]]
        top, left = np.floor(y - 0.5).astype(np.int64), np.floor(x - 0.5).astype(np.int64)
        padded = np.pad(image[i], ((1, 1), (1, 1), (0, 0)))
        for down in (0, 1):
            for right in (0, 1):
                weight = (1 - abs(y - 0.5 - top - down)) * (1 - abs(x - 0.5 - left - right))
                at = (top + down + 1).clip(0, side + 1), (left + right + 1).clip(0, side + 1)
                moved[i] += weight[..., None] * padded[at]
    return moved, found


def _places(matrix: NDArray[np.float32], size: int) -> list[NDArray[np.float64]]:
    """Where each matrix takes the centres of the output's pixels: (x, y) of each (2, size, size), px."""
    y, x = np.mgrid[:size, :size] + 0.5
    centres = np.stack((x, y, np.ones_like(x)))
    return [np.tensordot(m.astype(np.float64), centres, axes=1) for m in matrix]


def reference_inputs(
    raw: Raw, bands: Sequence[Band], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float64]:
    """What `Inputs` does: raw (N, H, W, B) -> standardised (N, H, W, B), 0 where there is no data."""
    columns = [(band.unpack(raw[..., i]) - mean[i]) / (std[i] or 1.0) for i, band in enumerate(bands)]
    return np.nan_to_num(np.stack(columns, axis=-1), nan=0.0, posinf=math.inf, neginf=-math.inf)


def reference_light(
    image: NDArray[np.float64], missing: NDArray[np.bool_], light: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Standardised images (N, H, W, B) under gain and bias (N, 2, B), but where data is `missing`."""
    gain, bias = light.astype(np.float64)[:, :, None, None].swapaxes(0, 1)
    return np.where(missing, 0.0, image * gain + bias)
