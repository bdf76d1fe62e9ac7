"""The back end on a CPU: each window is moved and standardised by the thread that decoded it.

An image is a grid of pixels that each hold all bands. Mirroring and swapping axes moves pixels, so it is
one copy of a view, and what a block of rows needs besides is done while it is in cache.
"""

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.pipeline.augment import Preset, d4
from glacier.pipeline.batcher import Batcher, Matrix, Source
from glacier.pipeline.buffer import Buffer, Buffers, Window
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import Samples
from glacier.store.bands import Raw

BLOCK_BYTES = 2**18
"""Raw bytes of a block of rows: it and what is made of it stay in a core's cache."""


class RowsBatcher(Batcher):
    """Batches by copies of rows; exact presets alone."""

    def __init__(
        self,
        source: Source,
        window: Window,
        largest: int,
        preset: Preset,
        device: torch.device,
        inputs: Inputs | None,
    ) -> None:
        """Make ready what all batches share.

        Args:
            source: where windows are read from.
            window: their shape.
            largest: most samples in a batch.
            preset: augmentation.
            device: where batches go.
            inputs: what standardises all bands of the source; None to leave raw codes.
        """
        made = Window(window.patch, window.bands, "float32") if inputs else window
        super().__init__(source, window, preset, device, Buffers(made, largest, pin=False))
        self._standard = Standard(inputs, window) if inputs else None
        self._local = threading.local()

    def make(self, sample: Samples, matrix: Matrix | None, out: Buffer) -> None:
        """Read the window and put it into its place, moved and standardised."""
        if matrix is None and not self._standard:
            self.source.read_into(sample, out)
            return
        read = self._own()
        self.source.read_into(sample, read)
        image, label, turn = read.image[0], read.label[0], symmetry(matrix, self.window.patch)
        out.label[0] = moved(label, turn)
        if self._standard:
            self._standard.into(moved(pixels(image), turn), out.image[0])
        else:
            pixels(out.image[0])[...] = moved(pixels(image), turn)

    def deliver(self, buffer: Buffer, matrix: Matrix | None) -> tuple[Tensor, Tensor]:
        """The buffer itself: its tensors keep it in use."""
        image, label = torch.from_numpy(buffer.image), torch.from_numpy(buffer.label)
        return image.permute(0, 3, 1, 2).to(self.device), label.to(self.device)

    def _own(self) -> Buffer:
        """Memory for one window, each thread's own."""
        if not hasattr(self._local, "window"):
            self._local.window = Buffer.empty(1, self.window.patch, self.window.bands, self.window.dtype)
        window: Buffer = self._local.window
        return window


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


def moved(window: NDArray[Any], turn: int) -> NDArray[Any]:
    """A view of a window (P, P, …) under a symmetry."""
    if turn & 4:
        window = window.swapaxes(0, 1)
    if turn & 2:
        window = window[::-1]
    return window[:, ::-1] if turn & 1 else window


def pixels(image: Raw) -> NDArray[np.void]:
    """An image (H, W, B) as pixels (H, W) of all bands: one copy of 14 bytes, not seven of two."""
    whole: NDArray[np.void] = image.view(np.dtype((np.void, image.shape[-1] * image.itemsize)))[..., 0]
    return whole


class Standard:
    """`Inputs` in NumPy, for rows of pixels."""

    def __init__(self, inputs: Inputs, window: Window) -> None:
        """Lay out factors, summands and codes as a row of the window lies in memory: (P·B,)."""
        self._bands, self._dtype = window.bands, np.dtype(window.dtype)
        self._scale, self._shift, self._code = (
            np.tile(value.float().cpu().numpy(), window.patch)
            for value in (inputs.scale, inputs.shift, inputs.code)
        )
        self._code = self._code.astype(self._dtype)
        self._rows = max(1, BLOCK_BYTES // self._code.nbytes)

    def into(self, window: NDArray[np.void], out: NDArray[np.float32]) -> None:
        """Standardise a window's pixels (P, P) into (P, P, B); no data becomes 0."""
        patch, rows = len(window), min(self._rows, len(window))
        block = np.empty((rows, patch, self._bands), self._dtype)
        missing = np.empty((rows, self._code.size), bool)
        for top in range(0, patch, rows):
            count = min(rows, patch - top)
            pixels(block[:count])[...] = window[top : top + count]
            raw, values = block[:count].reshape(count, -1), out[top : top + count].reshape(count, -1)
            np.multiply(raw, self._scale, out=values)
            np.add(values, self._shift, out=values)
            gaps = missing[:count]
            np.isnan(raw, out=gaps) if self._dtype.kind == "f" else np.equal(raw, self._code, out=gaps)
            if gaps.any():
                np.copyto(values, 0, where=gaps)
