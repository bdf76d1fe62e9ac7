"""Rows of pixels on their way into a map: what ranks leave for the one that puts a scene together."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError

ROWS = 256
"""Read at a time, at most."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of (band, W) pixels in one file without a header."""

    path: Path
    bands: int
    width: int
    dtype: str

    def append(self, rows: NDArray[np.generic]) -> None:
        """Add rows (band, h, W).

        Raises:
            GlacierError: they cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write(np.ascontiguousarray(np.moveaxis(rows, 0, 1), self.dtype).tobytes())
        except OSError as error:
            raise GlacierError(
                f"{self.path.parent}: rows of pixels cannot be written ({error.strerror}); make room, or "
                "give another folder for the maps"
            ) from error

    def strips(self) -> Iterator[NDArray[np.generic]]:
        """All rows (band, h, W), from top to bottom, some at a time."""
        row = self.bands * self.width
        with self.path.open("rb") as file:
            while len(rows := np.fromfile(file, self.dtype, ROWS * row)):
                yield np.moveaxis(rows.reshape(-1, self.bands, self.width), 1, 0)
