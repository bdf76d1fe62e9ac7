"""How overlapping windows cover a scene, and how much each counts where: functions of sizes alone."""

import math

import torch
from torch import Tensor

OVERLAP = 4
"""Windows share a quarter of their side with the next, or more."""


def corners(length: int, size: int) -> list[int]:
    """First pixels of the windows of `size` px along an axis of `length` px, evenly apart.

    One window at 0 where it covers the axis, or reaches beyond it; else the last ends where the axis does.
    """
    if length <= size:
        return [0]
    count = math.ceil((length - size) / (size - size // OVERLAP)) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def weights(length: int, size: int) -> Tensor:
    """What each window of an axis counts at each of its pixels (window, size) float32.

    A quarter from its edges a window begins to fall towards 0 as a squared sine does, so that nowhere in a
    map does one suddenly begin; at each pixel the windows that hold it add up to 1.
    """
    places = torch.arange(size, dtype=torch.float64) + 0.5
    near = torch.minimum(places, size - places) / (size // OVERLAP)
    ramp = torch.sin(near.clamp(max=1) * (math.pi / 2)) ** 2
    starts = corners(length, size)
    total = torch.zeros(starts[-1] + size, dtype=torch.float64)
    for start in starts:
        total[start : start + size] += ramp
    return torch.stack([ramp / total[start : start + size] for start in starts]).float()


def at_a_time(device: torch.device) -> int:
    """Windows that a network sees at a time: on a CPU one, so that none depends on its company."""
    return 8 if device.type == "cuda" else 1
