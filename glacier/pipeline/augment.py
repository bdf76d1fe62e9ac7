"""Augmentation as one matrix per sample, drawn from the sample's key.

A matrix (2, 3) takes a point of the output window to a point of the input window, (x, y) in px with
pixel centres at halves: the convention of DALI's `warp_affine`.
"""

from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from glacier.errors import UsageError
from glacier.pipeline.order import Samples

Preset = Literal["none", "d4"]


def check_preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        UsageError: there is none.
    """
    for preset in get_args(Preset):
        if preset == name:
            return preset  # type: ignore[no-any-return]
    raise UsageError(f"data.augment: {name!r}, expected one of {', '.join(get_args(Preset))}")


def matrices(samples: Samples, preset: Preset, patch: int) -> NDArray[np.float32] | None:
    """A matrix per sample (n, 2, 3); None where windows are taken as they are."""
    if preset == "none":
        return None
    choice = [int(np.random.Philox(key=int(key)).random_raw()) % 8 for key in samples["key"]]
    return d4(patch)[choice]


@cache
def d4(patch: int) -> NDArray[np.float32]:
    """The eight symmetries of a square of `patch` px (8, 2, 3).

    Number g mirrors columns if g & 1, then rows if g & 2, then swaps the two if g & 4. Do not write to it.
    """
    mirror_x, mirror_y = np.diag([-1.0, 1.0]), np.diag([1.0, -1.0])
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    table = np.empty((8, 2, 3), np.float32)
    centre = np.full(2, patch / 2)
    for g in range(8):
        linear = np.eye(2)
        for bit, step in enumerate((mirror_x, mirror_y, swap)):
            linear = step @ linear if g >> bit & 1 else linear
        table[g] = np.column_stack((linear, centre - linear @ centre))
    return table
