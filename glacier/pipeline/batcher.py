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


class Batcher(ABC):
    """Makes batches of one kind, several at a time."""

    def __init__(
        self, source: Source, window: Window, preset: Preset, device: torch.device, buffers: Buffers
    ) -> None:
        """Say what all batches share.

        Args:
            source: where windows are read from.
            window: their shape.
            preset: augmentation.
            device: where batches go.
            buffers: what each sample is put into.
        """
        self.source, self.window, self.preset, self.device = source, window, preset, device
        self.buffers = buffers

    def begin(self, samples: Samples, workers: Executor) -> Begun:
        """Have each sample made by one of `workers`, in memory that no other batch uses."""
        matrix, buffer = matrices(samples, self.preset, self.window.patch), self.buffers.take(len(samples))
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
