"""The back end on a GPU: windows are read into page-locked memory, DALI's graph moves them there."""

import threading

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from glacier.machine import cores
from glacier.pipeline.batcher import Batcher, Matrix, Recipe
from glacier.pipeline.buffer import Buffer, Buffers
from glacier.pipeline.graph import build, run
from glacier.pipeline.order import Samples


class DaliBatcher(Batcher):
    """Batches by DALI, on a CUDA device or the CPU."""

    def __init__(self, recipe: Recipe) -> None:
        """Build the pipeline, where there is anything for it to do."""
        cuda, moves = recipe.device.type == "cuda", recipe.preset != "none"
        super().__init__(recipe, Buffers(recipe.window, recipe.largest, pin=cuda))
        self._pipeline = None
        if cuda or moves:
            index = recipe.device.index if cuda else None
            self._pipeline = build(recipe.largest, moves=moves, threads=cores(), device=index)
        self._inputs = recipe.inputs.to(recipe.device) if recipe.inputs else None
        self._one_at_a_time = threading.Lock()

    def make(self, sample: Samples, matrix: Matrix | None, out: Buffer) -> None:
        """Read the window as it is stored."""
        self.recipe.source.read_into(sample, out)

    def deliver(self, buffer: Buffer, matrix: Matrix | None) -> tuple[Tensor, Tensor]:
        """Run the graph. It returns when its outputs are there, so `buffer` may be used again."""
        if not self._pipeline:  # its graph would hand out `buffer` itself, and not keep it
            image, label = torch.from_numpy(buffer.image), torch.from_numpy(buffer.label)
        else:
            with self._one_at_a_time:  # two loops over one loader share the pipeline
                image, label = (from_dlpack(part) for part in run(self._pipeline, buffer, matrix))
            label = label[..., 0]
        image = image.permute(0, 3, 1, 2)
        if self._inputs:
            image = self._inputs(image)
        return image, label
