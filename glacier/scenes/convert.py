"""Values as they are to be read where a source holds them otherwise."""

import numpy as np
from numpy.typing import NDArray

from glacier.scenes.scene import Convert


def digital(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """8-bit digital numbers of resampled ones: rounded, clipped to 1 … 255, 0 where there is no data."""
    held = np.isfinite(values)
    whole = np.rint(np.where(held, values, 1)).clip(1, 255).astype(np.uint8)
    whole[~held] = 0
    return whole


def converted(values: NDArray[np.generic], how: Convert) -> NDArray[np.generic]:
    """Values as `how` has them read."""
    if how == "digital":
        return digital(np.asarray(values, np.float32))
    return np.negative(values) if how == "negated" else values
