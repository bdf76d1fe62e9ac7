"""Samples -> one batch on a device. What reads is common; what moves and standardises is a back end."""

from abc import ABC, abstractmethod
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.pipeline.augment import Augment, lights, matrices
from glacier.pipeline.buffer import Buffer, Buffers, Window
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import Samples, tiles_in_order


class Drawn(NamedTuple):
    """The augmentation of some samples."""

    matrix: NDArray[np.float32] | None
    """(N, 2, 3); None to move nothing."""
    light: NDArray[np.float32] | None
    """(N, 2, B); None to leave values as they are."""

    def part(self, i: int) -> "Drawn":
        """That of the i-th sample alone."""
        return Drawn(*(None if value is None else value[i : i + 1] for value in self))


class Source(Protocol):
    """Anything that windows can be read from."""

    def read_into(self, samples: Samples, out: Buffer) -> None:
        """Read one window per sample into `out`."""


class Batch(NamedTuple):
    """What one step works on: `image, label, samples`."""

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
    drawn: Drawn
    buffer: Buffer
    jobs: list[Future[None]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all batches of a batcher share."""

    source: Source
    """Where windows are read from."""
    window: Window
    """The shape of what is read: the whole tile for an augmentation that interpolates."""
    patch: int
    """Side of what is made of it, px."""
    largest: int
    """Most samples in a batch."""
    augment: Augment
    device: torch.device
    """Where batches go; a CUDA device has its index."""
    inputs: Inputs | None
    """What standardises all bands of the source; None to leave raw codes."""

    def draw(self, samples: Samples) -> Drawn:
        """What is to be done to samples."""
        light = None
        if self.inputs and (self.augment.lights or self.augment.interpolates):  # its graph takes one always
            light = lights(samples, self.augment, self.inputs.optical)
        return Drawn(matrices(samples, self.augment, self.patch), light)


class Batcher(ABC):
    """Makes batches of one kind, several at a time."""

    def __init__(self, recipe: Recipe, buffers: Buffers) -> None:
        """Say what all batches share, and what their samples are put into."""
        self.recipe, self.buffers = recipe, buffers

    def begin(self, samples: Samples, workers: Executor) -> Begun:
        """Have each sample made by one of `workers`, in memory that no other batch uses."""
        drawn = self.recipe.draw(samples)
        buffer = self.buffers.take(len(samples))
        read = tiles_in_order(samples["tile"]) if self.recipe.augment.interpolates else samples
        jobs = [
            workers.submit(self.make, read[i : i + 1], drawn.part(i), buffer.part(i))
            for i in range(len(samples))
        ]
        return Begun(samples, drawn, buffer, jobs)

    def finish(self, begun: Begun) -> Batch:
        """Wait for the samples and hand the batch over; what befell one of them is raised."""
        for job in begun.jobs:
            job.result()
        image, label = self.deliver(begun.buffer, begun.drawn)
        return Batch(image, label, begun.samples)

    @abstractmethod
    def make(self, sample: Samples, drawn: Drawn, out: Buffer) -> None:
        """Put one sample into its place in the batch; runs in several threads at a time."""

    @abstractmethod
    def deliver(self, buffer: Buffer, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """What `make` left, as image (N, C, H, W) channels_last and label (N, H, W) on the device."""
