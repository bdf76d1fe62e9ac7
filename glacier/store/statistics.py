"""Statistics of any set of tiles, pooled from each tile's moments."""

import numpy as np
from numpy.typing import NDArray

from glacier.store.bands import Statistics


def pool(moments: NDArray[np.float64], sample: NDArray[np.float32] | None = None) -> list[Statistics]:
    """Statistics per band, exact but for the percentiles.

    Squared deviations are pooled with those between the tiles' means (Chan, Golub and LeVeque, 1983).

    Args:
        moments: (tile, band, 5): count, mean, squared deviations, min, max.
        sample: pixels (band, n), NaN without data, for the percentiles; NaN without it.
    """
    count, mean, spread, low, high = np.moveaxis(moments, -1, 0)
    total = count.sum(axis=0)
    with np.errstate(invalid="ignore"):
        middle = (count * mean).sum(axis=0) / total
        between = (count * np.square(mean - middle)).sum(axis=0)
        std = np.sqrt((spread.sum(axis=0) + between) / total)
    held = count > 0
    minimum = np.where(held, low, np.inf).min(axis=0, initial=np.inf)
    maximum = np.where(held, high, -np.inf).max(axis=0, initial=-np.inf)
    result = []
    for band in range(moments.shape[1]):
        p2 = p98 = np.nan
        if sample is not None and np.isfinite(sample[band]).any():
            inside = np.clip(sample[band], minimum[band], maximum[band])  # the sample is rounded to float32
            p2, p98 = np.nanpercentile(inside, [2, 98])
        any_data = bool(total[band])
        result.append(
            Statistics(
                mean=float(middle[band]),
                std=float(std[band]),
                minimum=float(minimum[band]) if any_data else np.nan,
                maximum=float(maximum[band]) if any_data else np.nan,
                p2=float(p2),
                p98=float(p98),
            )
        )
    return result
