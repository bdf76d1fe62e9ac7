"""The back end on a GPU: windows are read into page-locked memory, DALI's graph moves them there."""

import threading

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from glacier.machine import cores
from glacier.pipeline.augment import Preset
from glacier.pipeline.batcher import Batcher, Matrix, Source
from glacier.pipeline.buffer import Buffer, Buffers, Window
from glacier.pipeline.graph import build, run
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import Samples


class DaliBatcher(Batcher):
    """Batches by DALI, on a CUDA device or the CPU."""

    def __init__(
        self,
        source: Source,
        window: Window,
        largest: int,
        preset: Preset,
        device: torch.device,
        inputs: Inputs | None,
    ) -> None:
        """Build the pipeline.

        Args:
            source: where windows are read from.
            window: their shape.
            largest: most samples in a batch.
            preset: augmentation.
            device: where batches go.
            inputs: what standardises what was moved; None to leave raw codes.
        """
        self._cuda = device.type == "cuda"
        super().__init__(source, window, preset, device, Buffers(window, largest, pin=self._cuda))
        index = device.index if self._cuda else None
        self._pipeline = build(largest, moves=preset != "none", threads=cores(), device=index)
        self._inputs = inputs.to(device) if inputs else None
        self._one_at_a_time = threading.Lock()

    def make(self, sample: Samples, matrix: Matrix | None, out: Buffer) -> None:
        """Read the window as it is stored."""
        self.source.read_into(sample, out)

    def deliver(self, buffer: Buffer, matrix: Matrix | None) -> tuple[Tensor, Tensor]:
        """Run the graph. It returns when its outputs are there, so `buffer` may be used again."""
        if matrix is None and not self._cuda:  # the graph would hand out `buffer` itself, and not keep it
            image, label = torch.from_numpy(buffer.image), torch.from_numpy(buffer.label)
        else:
            with self._one_at_a_time:  # two loops over one loader share the pipeline
                image, label = (from_dlpack(part) for part in run(self._pipeline, buffer, matrix))
            label = label[..., 0]
        image = image.permute(0, 3, 1, 2)
        if self._inputs:
            image = self._inputs(image)
        return image, label
