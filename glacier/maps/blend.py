"""How overlapping windows cover a scene, and how much each counts where: functions of sizes alone."""

import math

import torch
from torch import Tensor

OVERLAP = 4
"""Windows share a quarter of their side with the next, or more."""


def corners(length: int, size: int) -> list[int]:
    """First pixels of the windows of `size` px along an axis of `length` px, evenly apart.

    One window at 0 where it covers the axis, then reaching beyond it; else the last ends where the axis
    does.
    """
    if length <= size:
        return [0]
    count = math.ceil((length - size) / (size - size // OVERLAP)) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def weight(size: int) -> Tensor:
    """What each pixel of a window counts (size, size) float32, more than 0: 1 but near its edges.

    A quarter from each edge the squared sine begins to fall towards 0, so that no pixel of a map is where a
    window suddenly begins. Weights are relative: the sum over windows is divided by that of their weights.
    """
    places = torch.arange(size, dtype=torch.float64) + 0.5
    near = torch.minimum(places, size - places) / (size // OVERLAP)
    ramp = torch.sin(near.clamp(max=1) * (math.pi / 2)) ** 2
    return torch.outer(ramp, ramp).float()
