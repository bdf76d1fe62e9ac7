"""Source label values -> class indices."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.errors import GlacierError


def distinct(values: NDArray[np.integer]) -> set[int]:
    """The values that occur, in an array of any shape."""
    if values.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    return set(np.unique(values).tolist())


def has_class(
    values: NDArray[np.integer], valid: NDArray[np.bool_] | None, index_of: Mapping[int, int]
) -> NDArray[np.bool_]:
    """Where a pixel has a class (h, w), arguments as for `class_indices`; without `index_of`, if valid."""
    if index_of:
        return np.isin(values, [value for value, index in index_of.items() if index != IGNORE])
    return np.full(values.shape, True) if valid is None else valid


def class_indices(
    values: NDArray[np.integer], valid: NDArray[np.bool_] | None, index_of: Mapping[int, int]
) -> NDArray[np.uint8]:
    """Class index of each pixel (h, w), 255 where it is to be ignored.

    Args:
        values: source values (h, w).
        valid: where they are labels (h, w), None if everywhere; a value with a meaning is one anyway.
        index_of: source value -> class index, or 255.

    Raises:
        GlacierError: a valid value that `index_of` does not know.
    """
    keys = np.array(sorted(index_of))
    indices = np.array([index_of[key] for key in keys.tolist()], np.uint8)
    place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    unknown = keys[place] != values
    strange = unknown if valid is None else unknown & valid
    if strange.any():
        raise GlacierError(
            f"label value {int(values[strange][0])} has no class; expected one of "
            f"{', '.join(map(str, sorted(index_of)))}, or name it with --classes"
        )
    return np.where(unknown, np.uint8(IGNORE), indices[place])
