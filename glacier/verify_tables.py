"""Whether the small things of a store fit together: its attributes, its scenes, where its tiles lie."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError, UnreachableError
from glacier.store.bands import Statistics
from glacier.store.reader import Store
from glacier.store.schema import TEST, checksum
from glacier.store.statistics import pool

CLOSE = 1e-9
"""Relative; sums of floats differ by much less from one processor to another."""

FRAME = {
    "zarr_format": 3,
    "node_type": "group",
    "attributes": 0,
    "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": 0},
}
"""A root `zarr.json` with its contents taken out."""

Arrays = dict[str, NDArray[Any]]
"""The small arrays of a store that could be read."""
Reasons = list[tuple[str, str]]
"""Array, and what is wrong with it."""


def strange_places(store: Store, arrays: Arrays) -> Iterator[tuple[int, str, str]]:
    """Tiles whose scene, place or fold cannot be: tile, array, reason."""
    meta = store.meta
    scenes = store.shape("scene_name")[0]
    scene, fold, origin = (arrays.get(name) for name in ("scene", "fold", "origin"))
    wrong: dict[tuple[str, str], NDArray[np.bool_]] = {}
    if scene is not None:
        wrong["scene", f"expected 0 to {scenes - 1}"] = (scene < 0) | (scene >= scenes)
    if fold is not None:
        wrong["fold", f"expected {TEST} to {meta.folds}"] = (fold < TEST) | (fold > meta.folds)
    if origin is not None:
        wrong["origin", "expected 0 or more"] = np.any(origin < 0, axis=1)
    if (transform := arrays.get("transform")) is not None:
        a, b, _, d, e, _ = transform.T
        flat = ~np.isfinite(transform).all(axis=1) | (a * e == b * d)
        wrong["transform", "spans no ground"] = flat
        if scene is not None and origin is not None and not any(bad.any() for bad in wrong.values()):
            wrong["transform", "is not that of its scene at its origin"] = _moved(scene, origin, transform)
    for (name, reason), bad in wrong.items():
        for tile in np.flatnonzero(bad).tolist():
            yield tile, name, reason


def _moved(
    scene: NDArray[np.int32], origin: NDArray[np.int32], transform: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tiles (tile,) whose transform is not the one that most tiles of their scene agree on."""
    a, b, c, d, e, f = transform.T
    row, column = origin.T
    corner = np.column_stack((a, b, c - a * column - b * row, d, e, f - d * column - e * row))
    pixel = np.sqrt(np.abs(a * e - b * d))[:, None]
    _, first, where = np.unique(scene, return_index=True, return_inverse=True)
    moved = (np.abs(corner - corner[first[where]]) > 0.01 * pixel).any(axis=1)
    for one in np.unique(scene[moved]):  # the first may be the one that is wrong
        tiles = np.flatnonzero(scene == one)
        away = np.abs(corner[tiles] - np.median(corner[tiles], axis=0))
        moved[tiles] = (away > 0.01 * pixel[tiles]).any(axis=1)
    return np.asarray(moved)


def strange_tables(store: Store, arrays: Arrays) -> Iterator[tuple[str, str]]:
    """What is wrong with a store's attributes and its tables of scenes: array, reason."""
    document = store.document()
    if document["attributes"].get("checksum") != checksum(document["attributes"]):
        yield "attributes", "their checksum differs"
    inner = document.get("consolidated_metadata") or {}
    frame = {**document, "attributes": 0, "consolidated_metadata": {**inner, "metadata": 0}}
    if frame != FRAME:
        yield "attributes", "the root zarr.json around them is damaged"
    interrupted = store.is_being_added_to()
    for name, said in inner.get("metadata", {}).items():
        try:
            own = store.document(name)
            same = own == said or (interrupted and {**own, "shape": 0} == {**said, "shape": 0})
        except UnreachableError:
            raise
        except GlacierError:
            same = False
        if not same:
            yield name, "its zarr.json is not the one that the root holds"
    crs = arrays.get("scene_crs")
    if crs is not None and ((crs < -1) | (crs >= len(store.meta.crs))).any():
        yield "scene_crs", f"expected -1 to {len(store.meta.crs) - 1}"
    if "scene_name" in arrays:
        try:
            names = store.scene_names
        except UnicodeDecodeError as error:
            yield "scene_name", f"is not UTF-8 ({error.reason})"
        else:
            if len(set(names)) < len(names) or "" in names:
                yield "scene_name", "expected a name of its own for each scene"
    if "moments" in arrays:
        yield from _strange_statistics(store, arrays["moments"])


def _strange_statistics(store: Store, stored: NDArray[np.float64]) -> Iterator[tuple[str, str]]:
    """Bands whose statistics do not follow from the moments of the tiles."""
    with np.errstate(all="ignore"):
        pooled = pool(stored)
    for band, mine in zip(store.meta.bands, pooled, strict=True):
        said = band.statistics
        if said is None or not _same(mine, said):
            yield "attributes", f"statistics of band {band.name} are not those of its tiles"


def _same(mine: Statistics, said: Statistics) -> bool:
    pairs = [(mine.mean, said.mean), (mine.std, said.std)]
    pairs += [(mine.minimum, said.minimum), (mine.maximum, said.maximum)]
    scale = CLOSE * max(abs(mine.minimum), abs(mine.maximum))
    if not all(np.isclose(a, b, rtol=CLOSE, atol=scale, equal_nan=True) for a, b in pairs):
        return False
    return bool(np.isnan(said.p2) or said.minimum - scale <= said.p2 <= said.p98 <= said.maximum + scale)
