"""Batches from a source, read and moved in a thread of their own, ahead of their consumer."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from glacier.pipeline.buffer import Buffer
from glacier.pipeline.order import Samples
from glacier.pipeline.reference import reference_graph

DEPTH = 2
"""Batches that wait, ready, for the consumer."""


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
class Window:
    """What a feed reads: the shape and dtype of its windows."""

    patch: int
    """px"""
    bands: int
    dtype: str


class Feed:
    """Iterate it once, for one batch per item of `steps`: a thread reads ahead until the end or `close`."""

    def __init__(
        self,
        source: Source,
        window: Window,
        steps: Iterable[Samples],
        matrices: Callable[[Samples], NDArray[np.float32] | None],
        *,
        largest: int,
        moves: bool,
        device: torch.device,
        threads: int = 2,
    ) -> None:
        """Say what to read.

        Args:
            source: where windows are read from.
            window: their shape.
            steps: the samples of each batch.
            matrices: augmentation of a batch's samples (n, 2, 3), or None.
            largest: most samples in a batch.
            moves: whether `matrices` returns any.
            device: where batches go.
            threads: CPU threads of the graph.
        """
        self.waited = 0.0
        """Seconds the consumer has waited for batches."""
        self._ready: queue.Queue[Batch | Exception | None] = queue.Queue(DEPTH)
        self._stop = threading.Event()
        device = _indexed(device)
        mover = _mover(largest, moves, threads, device)

        def work() -> None:
            last: Exception | None = None
            try:
                if device.type == "cuda":
                    torch.cuda.set_device(device)
                for samples in steps:
                    raw = Buffer.empty(len(samples), window.patch, window.bands, window.dtype)
                    source.read_into(samples, raw)
                    image, label = mover(raw, matrices(samples))
                    if not self._put(Batch(image, label, samples)):
                        return
            except Exception as error:  # raised again where the consumer waits
                last = error
            self._put(last)

        self._thread = threading.Thread(target=work, name="glacier-feed", daemon=True)

    def _put(self, item: Batch | Exception | None) -> bool:
        """Hand over an item; False once the consumer has gone."""
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return True
        return False

    def __iter__(self) -> Iterator[Batch]:
        """Start reading and yield the batches; an error in the thread is raised here. Once only."""
        self._thread.start()
        try:
            while True:
                start = time.perf_counter()
                item = self._ready.get()
                self.waited += time.perf_counter() - start
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()


Mover = Callable[[Buffer, NDArray[np.float32] | None], tuple[Tensor, Tensor]]


def _indexed(device: torch.device) -> torch.device:
    """`cuda` alone means the current device, which differs by thread: settle it."""
    if device == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _mover(largest: int, moves: bool, threads: int, device: torch.device) -> Mover:
    """The graph by DALI; in NumPy where DALI is not installed."""
    try:
        from glacier.pipeline.graph import build, run
    except ImportError:
        return lambda raw, matrix: _by_numpy(raw, matrix, device)
    index = device.index if device.type == "cuda" else None
    pipeline = build(largest, moves=moves, threads=threads, device=index)

    def by_dali(raw: Buffer, matrix: NDArray[np.float32] | None) -> tuple[Tensor, Tensor]:
        image, label = run(pipeline, raw, matrix)
        return from_dlpack(image).permute(0, 3, 1, 2), from_dlpack(label)[..., 0]

    return by_dali


def _by_numpy(
    raw: Buffer, matrix: NDArray[np.float32] | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    moved = reference_graph(raw, matrix)
    image = torch.from_numpy(moved.image).to(device).permute(0, 3, 1, 2)
    return image, torch.from_numpy(moved.label).to(device)
