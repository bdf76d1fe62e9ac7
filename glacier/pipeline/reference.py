"""The graph and the inputs in NumPy: the oracle of the tests."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glacier.pipeline.buffer import Buffer
from glacier.store.bands import Band, Raw


def reference_graph(batch: Buffer, matrix: NDArray[np.float32] | None) -> Buffer:
    """What `graph` does, for matrices that take pixel centres to pixel centres."""
    if matrix is None:
        return batch
    image, label = np.empty_like(batch.image), np.empty_like(batch.label)
    patch = batch.label.shape[1]
    y, x = np.mgrid[:patch, :patch] + 0.5
    for i, m in enumerate(matrix.astype(np.float64)):
        column = np.floor(m[0, 0] * x + m[0, 1] * y + m[0, 2]).astype(np.int64)
        row = np.floor(m[1, 0] * x + m[1, 1] * y + m[1, 2]).astype(np.int64)
        image[i], label[i] = batch.image[i][row, column], batch.label[i][row, column]
    return Buffer(image, label)


def reference_inputs(
    raw: Raw, bands: Sequence[Band], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float64]:
    """What `Inputs` does: raw (N, H, W, B) -> standardised (N, H, W, B), 0 where there is no data."""
    columns = [(band.unpack(raw[..., i]) - mean[i]) / (std[i] or 1.0) for i, band in enumerate(bands)]
    return np.nan_to_num(np.stack(columns, axis=-1), nan=0.0, posinf=math.inf, neginf=-math.inf)
