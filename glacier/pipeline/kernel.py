"""One window moved and standardised in one pass, compiled by Numba; no other thread has to wait for it.

NumPy needs four passes and takes the interpreter's lock between them: measured in docs/LOG.md.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

ROWS = 16
"""Rows that are moved, then standardised, while they are in a core's cache."""


@cache
def kernel(bands: int, standardise: bool) -> Callable[..., None]:
    """A function of (image, label, turn, scale, shift, code, out, out_label), compiled for `bands` bands.

    image (P, P, B) raw and label (P, P) are moved by symmetry `turn` (numbered as in `d4`) into out
    (P, P, B) and out_label. With `standardise`, out is raw * scale + shift in float32, and 0 where
    raw is code or NaN; these three hold a value per column and band of a row (P·B,).
    """

    def move(
        image: Any, label: Any, turn: int, scale: Any, shift: Any, code: Any, out: Any, out_label: Any
    ) -> None:
        patch = image.shape[0]
        block = np.empty((ROWS, patch, bands), image.dtype)
        for top in range(0, patch, ROWS):
            count = min(ROWS, patch - top)
            if turn & 4:  # columns of the source, one after the other: they are read in order
                for x in range(patch):
                    row = patch - 1 - x if turn & 1 else x
                    for r in range(count):
                        column = patch - 1 - top - r if turn & 2 else top + r
                        for band in range(bands):
                            block[r, x, band] = image[row, column, band]
                        out_label[top + r, x] = label[row, column]
            for r in range(count):
                row = patch - 1 - top - r if turn & 2 else top + r
                source = image[row]
                if turn & 4:
                    source = block[r]
                elif turn & 1:
                    for x in range(patch):
                        for band in range(bands):
                            block[r, x, band] = image[row, patch - 1 - x, band]
                        out_label[top + r, x] = label[row, patch - 1 - x]
                    source = block[r]
                else:
                    for x in range(patch):
                        out_label[top + r, x] = label[row, x]
                raw, values = source.reshape(patch * bands), out[top + r].reshape(patch * bands)
                for i in range(patch * bands):
                    if standardise:
                        value = np.float32(raw[i]) * scale[i] + shift[i]
                        missing = raw[i] == code[i] or raw[i] != raw[i]
                        values[i] = np.float32(0) if missing else value
                    else:
                        values[i] = raw[i]

    options = {"nogil": True, "error_model": "numpy"}
    compiled: Callable[..., None]
    try:
        compiled = numba.njit(cache=True, **options)(move)
    except RuntimeError:  # nowhere to keep it: a read-only installation and no home
        compiled = numba.njit(**options)(move)
    return compiled
