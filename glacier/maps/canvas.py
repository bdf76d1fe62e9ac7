"""The part of a map that is being predicted: as many rows as a window has, whatever the scene's height."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.classes import IGNORE
from glacier.errors import GlacierError
from glacier.maps.blend import corners, weights
from glacier.maps.rows import Piece
from glacier.scenes.scene import Grid


class Strip(NamedTuple):
    """Finished rows of pixels of a piece."""

    classes: NDArray[np.uint8]
    """Index of the class (H, W), 255 where there is no data."""
    confidence: NDArray[np.float32]
    """The share of that class (H, W), NaN where there is no data."""
    shares: NDArray[np.float32] | None
    """Of all classes (C, H, W), likewise, where they are wanted."""


class Canvas:
    """Adds up a piece's windows, which come row by row, and lets go of what no other will touch."""

    def __init__(
        self, piece: Piece, grid: Grid, size: int, classes: int, device: torch.device, *, shares: bool
    ) -> None:
        """Make an empty one for windows of `size` px; `shares`: whether those of all classes are wanted."""
        self._piece, self._grid, self._size, self._shares = piece, grid, size, shares
        self._down = dict(
            zip(corners(grid.height, size), weights(grid.height, size).to(device), strict=True)
        )
        self._along = dict(
            zip(corners(grid.width, size), weights(grid.width, size).to(device), strict=True)
        )
        width = max(grid.width, size)
        self._total = torch.zeros(classes, size, width, device=device)
        self._held = torch.zeros(size, width, dtype=torch.bool, device=device)
        self._top = 0

    def add(self, y: int, x: int, shares: Tensor, held: Tensor) -> Strip | None:
        """Add a window; the rows above it, which it finishes, are handed over.

        Args:
            y: of its corner in the scene, px, never less than before.
            x: likewise; any.
            shares: of the classes (C, S, S).
            held: where there is data (S, S).

        Raises:
            GlacierError: shares that are no numbers where there is data.
        """
        strip = self._advance(y) if y > self._top else None
        columns = slice(x, x + self._size)
        self._total[..., columns].addcmul_(shares, torch.outer(self._down[y], self._along[x]))
        self._held[:, columns] |= held
        return strip

    def rest(self) -> Strip | None:
        """The rows that are left once the last window has been added."""
        return self._advance(self._piece.bottom)

    def _advance(self, top: int) -> Strip | None:
        first, last = max(self._top, self._piece.top) - self._top, min(top, self._piece.bottom) - self._top
        strip = self._strip(first, last) if last > first else None
        moved = top - self._top
        kept = max(0, self._size - moved)
        for memory in (self._total, self._held):
            memory[..., :kept, :] = memory[..., self._size - kept :, :].clone()
            memory[..., kept:, :] = 0
        self._top = top
        return strip

    def _strip(self, first: int, last: int) -> Strip:
        part = (..., slice(first, last), slice(0, self._grid.width))
        held, total = self._held[part], self._total[part]
        confidence, classes = total.max(dim=0)  # NaN where any is
        if not (confidence.isfinite() | ~held).all():
            raise GlacierError(
                f"the network gives no numbers in rows {self._top + first} to {self._top + last}; are the "
                "values there like those it was trained on, and no-data values declared?"
            )
        return Strip(
            classes.to(torch.uint8).masked_fill_(~held, IGNORE).cpu().numpy(),
            confidence.masked_fill_(~held, torch.nan).cpu().numpy(),
            total.masked_fill(~held, torch.nan).cpu().numpy() if self._shares else None,
        )
