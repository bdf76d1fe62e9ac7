"""Source label values -> class indices."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.errors import GlacierError


def distinct(values: NDArray[np.integer]) -> set[int]:
    """The values that occur in (h, w)."""
    if values.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    return set(np.unique(values).tolist())


def class_indices(
    values: NDArray[np.integer], index_of: Mapping[int, int], nodata: float | None
) -> NDArray[np.uint8]:
    """Class index of each pixel (h, w), 255 where it is to be ignored.

    Args:
        values: source values (h, w).
        index_of: source value -> class index, or 255.
        nodata: the label raster's no-data value: ignored, unless `index_of` gives it a meaning.

    Raises:
        GlacierError: a value that `index_of` does not know.
    """
    known = dict(index_of)
    if nodata is not None and np.isfinite(nodata):
        known.setdefault(int(nodata), IGNORE)
    keys = np.array(sorted(known))
    indices = np.array([known[key] for key in keys.tolist()], np.uint8)
    place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    strange = keys[place] != values
    if strange.any():
        raise GlacierError(
            f"label value {int(values[strange][0])} has no class; expected one of "
            f"{', '.join(map(str, sorted(known)))}, or name it with --classes"
        )
    return np.asarray(indices[place])
