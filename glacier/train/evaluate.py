"""Scores of a segmenter over whole tiles, each labelled pixel counted once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from glacier.console import Track, silence, warn
from glacier.errors import GlacierError
from glacier.model.metrics import Scores, confusion, scores
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import tile_feed
from glacier.pipeline.split import split as split_tiles
from glacier.store.reader import Store
from glacier.train.precision import mixed
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Segmenter, Trained


def evaluate_tiles(
    segmenter: Segmenter,
    store: Store,
    tiles: NDArray[np.int64],
    ranks: Ranks,
    *,
    batch: int = 4,
    track: Track = silence,
) -> NDArray[np.int64]:
    """The confusion matrix (C, C) over `tiles`, rows true, summed over ranks."""
    classes = len(store.meta.classes)
    total = torch.zeros(classes, classes, dtype=torch.int64, device=ranks.device)
    training = segmenter.training
    segmenter.eval()
    mine = tiles[ranks.rank :: ranks.world]
    with torch.inference_mode(), track("evaluate", len(mine)) as done:
        for item in tile_feed(store, mine, batch=batch, device=ranks.device):
            with mixed(ranks.device):
                prediction = segmenter(item.image).argmax(dim=1)
            total += confusion(item.label, prediction, classes)
            for _ in item.samples:
                done()
    segmenter.train(training)
    return np.asarray(ranks.add(total).cpu())


def evaluate_run(
    trained: Trained, store: Store, split: str, ranks: Ranks, track: Track = silence
) -> Scores:
    """Scores of a run on `train`, `val` or `all` tiles of a store, over their labelled pixels.

    Raises:
        GlacierError: the store lacks a band of the run, or has other classes.
    """
    names = [c.name for c in trained.classes]
    if store.meta.class_names != names:
        raise GlacierError(
            f"{store.path}: classes {', '.join(store.meta.class_names)}; the run expects "
            f"{', '.join(names)}; ingest with fitting --classes"
        )
    pick = band_places(store, [band.name for band in trained.bands])
    bands = [store.meta.bands[i] for i in pick]
    inputs = Inputs(bands, trained.statistics, places_or_none(store, pick))
    segmenter = trained.segmenter(inputs).to(ranks.device)
    everything = np.arange(len(store))
    fold = trained.config.train.fold
    tiles = everything if split == "all" else split_tiles(store, fold).tiles(split)
    if split != "all" and store.meta.source != trained.source and ranks.main:
        warn(f"{store.path}: not the store the run was trained on; its {split} tiles may be other ground")
    return scores(evaluate_tiles(segmenter, store, tiles, ranks, track=track), names)


def places_or_none(store: Store, places: list[int]) -> list[int] | None:
    """`places`, or None where they are all of a store's bands in order, so that nothing is copied."""
    return None if places == list(range(len(store.meta.bands))) else places


def band_places(store: Store, names: Sequence[str]) -> list[int]:
    """Where each named band stands in a store's image.

    Raises:
        GlacierError: the store lacks one.
    """
    have = store.meta.band_names
    if missing := [name for name in names if name not in have]:
        raise GlacierError(
            f"{store.path}: no band {missing[0]}; it has {', '.join(have)}; choose with data.bands, or "
            "ingest with --bands"
        )
    return [have.index(name) for name in names]
