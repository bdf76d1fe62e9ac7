"""Tiles of a store as pictures, and which of them are worth a look."""

import numpy as np
from numpy.typing import NDArray

from glacier.pictures import Picture, Stretch, composite, false_colour
from glacier.store.bands import Band
from glacier.store.reader import Store


def stretches(bands: tuple[Band, ...]) -> list[Stretch]:
    """What of a store's bands to show, from their 2nd to their 98th percentile."""
    chosen = []
    for place in composite([band.name for band in bands]):
        s = bands[place].statistics
        low, high = (s.p2, s.p98) if s else (0.0, 1.0)
        chosen.append(Stretch(place, low, high))
    return chosen


def tile_picture(store: Store, tile: int) -> Picture:
    """One tile in false colour (S, S, 3)."""
    raw, bands = store.image(tile), store.meta.bands
    pixels = np.stack([band.unpack(raw[..., i]) for i, band in enumerate(bands)], axis=-1)
    return false_colour(pixels, stretches(bands))


def most_varied(store: Store, count: int, among: NDArray[np.int64] | None = None) -> list[int]:
    """Tiles, of all or `among` some, whose class mix has the highest entropy, in the store's order."""
    tiles = np.arange(len(store)) if among is None else among
    mass = store.histogram[tiles].sum(axis=(1, 2), dtype=np.float64)
    share = mass / mass.sum(axis=1, keepdims=True).clip(min=1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    entropy *= mass.sum(axis=1) / mass.sum(axis=1).max().clip(min=1)
    return sorted(tiles[np.argsort(-entropy, kind="stable")[:count]].tolist())
