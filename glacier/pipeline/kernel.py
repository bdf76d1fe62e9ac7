"""One window moved and standardised in one pass, compiled by Numba; no other thread has to wait for it.

NumPy needs four passes and takes the interpreter's lock between them: measured in docs/LOG.md.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from glacier.store.bands import Raw

ROWS = 16
"""Rows that are moved, then standardised, while they are in a core's cache."""


class Rows(NamedTuple):
    """Two views of the same raw pixels (R, P, B)."""

    values: Raw
    """(R, P·B), to be computed with"""
    pixels: NDArray[np.void]
    """(R, P), to be moved whole: all bands of a pixel at once"""


def rows(raw: Raw) -> Rows:
    """Views of raw (R, P, B), C-contiguous."""
    pixel = np.dtype([("bytes", np.uint8, (raw.shape[-1] * raw.itemsize,))])
    return Rows(raw.reshape(len(raw), -1), raw.view(pixel)[..., 0])


@cache
def kernel(standardise: bool) -> Callable[..., None]:
    """A function of (image, label, turn, scale, shift, code, block, out, out_label).

    image (P, P, B) raw, as `rows`, and label (P, P) are moved by symmetry `turn` (numbered as in `d4`)
    into out (P, P·B) and out_label (P, P). With `standardise`, out is raw * scale + shift in float32, and 0
    where raw is code or NaN; these three hold a value per column and band (P·B,). block (`ROWS`, P, B), as
    `rows`, is memory to work in.
    """

    def move(
        image: Rows,
        label: Any,
        turn: int,
        scale: Any,
        shift: Any,
        code: Any,
        block: Rows,
        out: Any,
        out_label: Any,
    ) -> None:
        patch = label.shape[0]
        for top in range(0, patch, ROWS):
            count = min(ROWS, patch - top)
            if turn & 4:  # columns of the source, one after the other: they are read in order
                for x in range(patch):
                    row = patch - 1 - x if turn & 1 else x
                    for r in range(count):
                        column = patch - 1 - top - r if turn & 2 else top + r
                        block.pixels[r, x] = image.pixels[row, column]
                        out_label[top + r, x] = label[row, column]
            for r in range(count):
                row = patch - 1 - top - r if turn & 2 else top + r
                raw = image.values[row]
                if turn & 4:
                    raw = block.values[r]
                elif turn & 1:  # two loops, or the second is not vectorised
                    for x in range(patch):
                        block.pixels[r, x] = image.pixels[row, patch - 1 - x]
                    for x in range(patch):
                        out_label[top + r, x] = label[row, patch - 1 - x]
                    raw = block.values[r]
                else:
                    for x in range(patch):
                        out_label[top + r, x] = label[row, x]
                values = out[top + r]
                for i in range(values.size):
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
