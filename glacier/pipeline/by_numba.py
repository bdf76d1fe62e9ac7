"""The back end on a CPU: each window is moved and standardised by the thread that decoded it."""

import threading
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.pipeline.augment import d4
from glacier.pipeline.batcher import Batcher, Drawn, Recipe
from glacier.pipeline.buffer import Buffer, Buffers
from glacier.pipeline.inputs import Constants
from glacier.pipeline.kernel import ROWS, Rows, kernel, rows
from glacier.pipeline.order import Samples


class NumbaBatcher(Batcher):
    """Batches by a compiled kernel; exact presets alone."""

    def __init__(self, recipe: Recipe) -> None:
        """Compile what the recipe asks for."""
        window, inputs = recipe.window, recipe.inputs
        made = replace(window, dtype="float32") if inputs else window
        super().__init__(recipe, Buffers(made, recipe.largest, pin=False))
        self._plain = recipe.augment.preset == "none" and not inputs
        if self._plain:
            return
        self._kernel = kernel(inputs is not None)
        nothing = np.zeros(window.bands, np.float32)
        self._constants = inputs.constants(window.dtype) if inputs else Constants(nothing, nothing, nothing)
        self._factors = self._row(self._constants)
        self._local = threading.local()

    def make(self, sample: Samples, drawn: Drawn, out: Buffer) -> None:
        """Read the window and put it into its place, moved and standardised."""
        if self._plain:
            self.recipe.source.read_into(sample, out)
            return
        read, block = self._own()
        self.recipe.source.read_into(sample, read)
        turn = 0 if drawn.matrix is None else symmetry(drawn.matrix[0], self.recipe.patch)
        factors = self._factors if drawn.light is None else self._lit(*drawn.light[0])
        flat = out.image[0].reshape(len(out.label[0]), -1)
        self._kernel(rows(read.image[0]), read.label[0], turn, *factors, block, flat, out.label[0])

    def deliver(self, buffer: Buffer, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The buffer itself: its tensors keep it in use."""
        image, label = torch.from_numpy(buffer.image), torch.from_numpy(buffer.label)
        return image.permute(0, 3, 1, 2).to(self.recipe.device), label.to(self.recipe.device)

    def _row(self, constants: Constants) -> Constants:
        """Constants of each band, for every pixel of a row (P·B,)."""
        return Constants(*(np.tile(value, self.recipe.patch) for value in constants))

    def _lit(self, gain: NDArray[np.float32], bias: NDArray[np.float32]) -> Constants:
        """The same with gain and bias (B,) upon them."""
        scale, shift, code = self._constants
        return self._row(Constants(scale * gain, shift * gain + bias, code))

    def _own(self) -> tuple[Buffer, Rows]:
        """Memory for one window, and for some rows of it while they are moved; each thread's own."""
        if not hasattr(self._local, "memory"):
            made = self.recipe.window
            block = np.empty((ROWS, made.patch, made.bands), made.dtype)
            self._local.memory = Buffer.empty(1, made.patch, made.bands, made.dtype), rows(block)
        memory: tuple[Buffer, Rows] = self._local.memory
        return memory


def symmetry(matrix: NDArray[np.float32], patch: int) -> int:
    """Which of the eight symmetries a matrix (2, 3) is, numbered as in `d4`.

    Raises:
        ValueError: it is none of them.
    """
    same = (d4(patch) == matrix).all(axis=(1, 2))
    if not same.any():
        raise ValueError("a matrix that is not a symmetry of the square cannot be done exactly")
    return int(same.argmax())
