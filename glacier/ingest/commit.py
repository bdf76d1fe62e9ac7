"""The end of an ingest: what the shards left is gathered, and the root put in place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glacier.ingest.tile import pixel_sample
from glacier.store.reader import Store
from glacier.store.statistics import pool
from glacier.store.writer import StoreWriter

PERCENTILE_TILES = 8192
"""Tiles, evenly spread, whose sampled pixels enter the percentiles."""


def commit(
    writer: StoreWriter,
    small: Mapping[str, NDArray[Any]],
    tag: str | None = None,
    base: Store | None = None,
) -> None:
    """Gather what the shards left, and make it a store.

    Args:
        writer: all its shards are written.
        small: the arrays that were known before, of all tiles and scenes.
        tag: of the root that this one is to take the place of, at an address.
        base: the store as it was, where tiles are added to one.
    """
    every = -(-writer.tiles // PERCENTILE_TILES)
    kept: dict[str, list[NDArray[Any]]] = {"histogram": [], "moments": [], "sample": []}
    if base:
        kept["histogram"].append(base.histogram)
        kept["moments"].append(base.array("moments"))
        bands = base.meta.bands
        kept["sample"] += [pixel_sample(base.image(t), bands)[None] for t in range(0, len(base), every)]
    for tiles, left in zip(writer.shards.values(), writer.kept(), strict=True):
        left["sample"] = left["sample"][-tiles.start % every :: every].copy()  # or the slice keeps all
        for name, values in left.items():
            kept[name].append(values)
    whole = {name: np.concatenate(parts) for name, parts in kept.items()}
    sample = np.moveaxis(whole.pop("sample"), 1, 0).reshape(len(writer.meta.bands), -1)
    statistics = pool(whole["moments"], sample)
    packed = [replace(b, statistics=s) for b, s in zip(writer.meta.bands, statistics, strict=True)]
    writer.commit(replace(writer.meta, bands=tuple(packed)), {**small, **whole}, tag)
