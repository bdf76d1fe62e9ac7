"""The moving average of a network's weights."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Average:
    """A network whose weights trail another's: a ← d a + (1 − d) w after each step.

    In step t the decay d is at most (1 + t) / (10 + t), so that the first, bad weights are soon forgotten.
    Batch norm's statistics are averaged likewise.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start at `network`; a decay of 0 is no average, but the network itself."""
        self.decay = decay
        self.network = deepcopy(network).eval().requires_grad_(False) if decay else network

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        if not self.decay:
            return
        keep = min(self.decay, (1 + step) / (10 + step))
        floats, counts = _kinds(self.network)
        new_floats, new_counts = _kinds(network)
        torch._foreach_lerp_(floats, new_floats, 1 - keep)
        if counts:
            torch._foreach_copy_(counts, new_counts)


def _kinds(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers that can be averaged, and those that count something."""
    every = [*network.parameters(), *network.buffers()]
    floats = [value for value in every if value.is_floating_point()]
    return floats, [value for value in every if not value.is_floating_point()]
