"""Grey-level co-occurrence texture (Haralick et al., 1973), for bands computed beside the optical ones."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ANGLES = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Offsets (rows, columns) of a pixel pair at 0, 45, 90 and 135 degrees, distance 1 px."""


def texture(
    band: NDArray[np.float32], *, low: float, high: float, levels: int, window: int
) -> dict[str, NDArray[np.float32]]:
    """Contrast and homogeneity of `band`, averaged over four angles.

    Both are means over pixel pairs of a function of their difference d in grey level, so no
    co-occurrence matrix is built: contrast = mean d², homogeneity = mean 1 / (1 + d²).

    Args:
        band: (H, W).
        low, high: range that is cut into `levels` grey levels, in the band's unit.
        window: side of the square neighbourhood, px.

    Returns:
        `contrast` and `homogeneity`, each (H, W); pairs that leave the image repeat its border.
    """
    grey = ((band - low) * (levels / (high - low))).clip(0, levels - 1).astype(np.int32)
    padded = np.pad(grey, 1, mode="edge")
    height, width = band.shape
    contrast = np.zeros(band.shape, np.float32)
    homogeneity = np.zeros(band.shape, np.float32)
    for dy, dx in ANGLES:
        shifted = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        squared = np.square(shifted - grey).astype(np.float32)
        contrast += ndimage.uniform_filter(squared, window) / len(ANGLES)
        homogeneity += ndimage.uniform_filter(1 / (1 + squared), window) / len(ANGLES)
    return {"contrast": contrast, "homogeneity": homogeneity}
