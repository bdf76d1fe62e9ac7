"""Samples -> one batch on a device. What reads is common; what moves and standardises is a back end."""

from abc import ABC, abstractmethod
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.pipeline.augment import Preset, matrices
from glacier.pipeline.buffer import Buffer, Buffers, Window
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import Samples

Matrix = NDArray[np.float32]
"""Augmentation: (2, 3) of a sample, (N, 2, 3) of a batch."""


class Source(Protocol):
    """Anything that windows can be read from."""

    def read_into(self, samples: Samples, out: Buffer) -> None:
        """Read one window per sample into `out`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step works on."""

    image: Tensor
    """(N, C, H, W), channels_last"""
    label: Tensor
    """(N, H, W) uint8 class indices, 255 to be ignored"""
    samples: Samples
    """(N,) where each came from"""


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch whose samples are being worked on."""

    samples: Samples
    matrix: Matrix | None
    buffer: Buffer
    jobs: list[Future[None]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all batches of a batcher share."""

    source: Source
    """Where windows are read from."""
    window: Window
    """Their shape."""
    largest: int
    """Most samples in a batch."""
    preset: Preset
    """Augmentation."""
    device: torch.device
    """Where batches go; a CUDA device has its index."""
    inputs: Inputs | None
    """What standardises all bands of the source; None to leave raw codes."""


class Batcher(ABC):
    """Makes batches of one kind, several at a time."""

    def __init__(self, recipe: Recipe, buffers: Buffers) -> None:
        """Say what all batches share, and what their samples are put into."""
        self.recipe, self.buffers = recipe, buffers

    def begin(self, samples: Samples, workers: Executor) -> Begun:
        """Have each sample made by one of `workers`, in memory that no other batch uses."""
        matrix = matrices(samples, self.recipe.preset, self.recipe.window.patch)
        buffer = self.buffers.take(len(samples))
        jobs = [
            workers.submit(
                self.make, samples[i : i + 1], None if matrix is None else matrix[i], buffer.part(i)
            )
            for i in range(len(samples))
        ]
        return Begun(samples, matrix, buffer, jobs)

    def finish(self, begun: Begun) -> Batch:
        """Wait for the samples and hand the batch over; what befell one of them is raised."""
        for job in begun.jobs:
            job.result()
        image, label = self.deliver(begun.buffer, begun.matrix)
        return Batch(image, label, begun.samples)

    @abstractmethod
    def make(self, sample: Samples, matrix: Matrix | None, out: Buffer) -> None:
        """Put one sample into its place in the batch; runs in several threads at a time."""

    @abstractmethod
    def deliver(self, buffer: Buffer, matrix: Matrix | None) -> tuple[Tensor, Tensor]:
        """What `make` left, as image (N, C, H, W) channels_last and label (N, H, W) on the device."""
