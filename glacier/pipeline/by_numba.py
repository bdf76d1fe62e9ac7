"""The back end on a CPU: each window is moved and standardised by the thread that decoded it."""

import threading
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from glacier.pipeline.augment import d4
from glacier.pipeline.batcher import Batcher, Matrix, Recipe
from glacier.pipeline.buffer import Buffer, Buffers
from glacier.pipeline.kernel import ROWS, Rows, kernel, rows
from glacier.pipeline.order import Samples


class NumbaBatcher(Batcher):
    """Batches by a compiled kernel; exact presets alone."""

    def __init__(self, recipe: Recipe) -> None:
        """Compile what the recipe asks for."""
        window, inputs = recipe.window, recipe.inputs
        made = replace(window, dtype="float32") if inputs else window
        super().__init__(recipe, Buffers(made, recipe.largest, pin=False))
        self._plain = recipe.preset == "none" and not inputs
        if self._plain:
            return
        self._kernel = kernel(inputs is not None)
        scale, shift, code = (
            (value.float().cpu().numpy() for value in (inputs.scale, inputs.shift, inputs.code))
            if inputs
            else [np.zeros(window.bands, np.float32)] * 3
        )
        self._factors = tuple(
            np.tile(value, window.patch) for value in (scale, shift, code.astype(window.dtype))
        )
        self._local = threading.local()

    def make(self, sample: Samples, matrix: Matrix | None, out: Buffer) -> None:
        """Read the window and put it into its place, moved and standardised."""
        if self._plain:
            self.recipe.source.read_into(sample, out)
            return
        read, block = self._own()
        self.recipe.source.read_into(sample, read)
        turn = symmetry(matrix, self.recipe.window.patch)
        flat = out.image[0].reshape(len(out.label[0]), -1)
        self._kernel(rows(read.image[0]), read.label[0], turn, *self._factors, block, flat, out.label[0])

    def deliver(self, buffer: Buffer, matrix: Matrix | None) -> tuple[Tensor, Tensor]:
        """The buffer itself: its tensors keep it in use."""
        image, label = torch.from_numpy(buffer.image), torch.from_numpy(buffer.label)
        return image.permute(0, 3, 1, 2).to(self.recipe.device), label.to(self.recipe.device)

    def _own(self) -> tuple[Buffer, Rows]:
        """Memory for one window, and for some rows of it while they are moved; each thread's own."""
        if not hasattr(self._local, "memory"):
            made = self.recipe.window
            block = np.empty((ROWS, made.patch, made.bands), made.dtype)
            self._local.memory = Buffer.empty(1, made.patch, made.bands, made.dtype), rows(block)
        memory: tuple[Buffer, Rows] = self._local.memory
        return memory


def symmetry(matrix: Matrix | None, patch: int) -> int:
    """Which of the eight symmetries a matrix (2, 3) is, numbered as in `d4`.

    Raises:
        ValueError: it is none of them.
    """
    if matrix is None:
        return 0
    same = (d4(patch) == matrix).all(axis=(1, 2))
    if not same.any():
        raise ValueError("a matrix that is not a symmetry of the square cannot be done exactly")
    return int(same.argmax())
