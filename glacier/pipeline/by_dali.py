"""The back end on a GPU and wherever pixels are interpolated: DALI's graph moves what threads have read."""

import threading

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from glacier.machine import cores
from glacier.pipeline.batcher import Batcher, Drawn, Recipe
from glacier.pipeline.buffer import Buffer, Buffers
from glacier.pipeline.graph import build, run
from glacier.pipeline.order import Samples

NO_DATA = np.finfo(np.float32).min
"""Stands for NaN in DALI, which cannot multiply it away."""


class DaliBatcher(Batcher):
    """Batches by DALI, on a CUDA device or the CPU."""

    def __init__(self, recipe: Recipe) -> None:
        """Build the pipeline, where there is anything for it to do."""
        cuda, moves = recipe.device.type == "cuda", recipe.augment.preset != "none"
        super().__init__(recipe, Buffers(recipe.window, recipe.largest, pin=cuda))
        self._inputs = recipe.inputs.to(recipe.device) if recipe.inputs else None
        self._standardises = recipe.augment.interpolates
        self._fills = self._standardises and recipe.window.dtype == "float32"
        self._pipeline = None
        if cuda or moves:
            constants = None
            if self._standardises and recipe.inputs:
                constants = recipe.inputs.constants(recipe.window.dtype)
                if self._fills:
                    constants = constants._replace(code=np.full_like(constants.code, NO_DATA))
            self._pipeline = build(
                recipe.largest,
                moves=moves,
                size=recipe.patch,
                threads=cores(),
                device=recipe.device.index if cuda else None,
                constants=constants,
            )
        self._one_at_a_time = threading.Lock()

    def make(self, sample: Samples, drawn: Drawn, out: Buffer) -> None:
        """Read the window as it is stored."""
        self.recipe.source.read_into(sample, out)
        if self._fills:
            np.copyto(out.image, NO_DATA, where=np.isnan(out.image))

    def deliver(self, buffer: Buffer, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Run the graph. It returns when its outputs are there, so `buffer` may be used again."""
        if not self._pipeline:  # its graph would hand out `buffer` itself, and not keep it
            image, label = torch.from_numpy(buffer.image), torch.from_numpy(buffer.label)
        else:
            light = drawn.light if self._standardises else None
            with self._one_at_a_time:  # two loops over one loader share the pipeline
                parts = run(self._pipeline, buffer, drawn.matrix, light)
                image, label = (from_dlpack(part) for part in parts)
            label = label[..., 0]
        image = image.permute(0, 3, 1, 2)
        if self._inputs and not self._standardises:
            lit = None if drawn.light is None else torch.from_numpy(drawn.light).to(image.device)
            image = self._inputs(image, lit)
        return image, label
