"""Store -> training batches: plan, order, feed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glacier.pipeline.augment import check_preset
from glacier.pipeline.backends import Backend, make_batcher
from glacier.pipeline.batcher import Batch
from glacier.pipeline.buffer import Window
from glacier.pipeline.feed import Feed
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import (
    Samples,
    check_share,
    epoch_order,
    rank_part,
    steps_per_epoch,
    tiles_in_order,
)
from glacier.pipeline.plan import uniform_plan
from glacier.store.reader import Store

AHEAD = 2
"""Batches that the kernel fetches before they are read."""


class Loader:
    """Training batches of one rank. Iterate it for an epoch; the next time gives the next epoch."""

    def __init__(
        self,
        store: Store,
        *,
        tiles: NDArray[np.int64],
        patch: int,
        batch: int,
        augment: str = "d4",
        seed: int = 0,
        samples_per_epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        inputs: Inputs | None = None,
        on_batch: Callable[[Batch], Any] | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Plan the epochs.

        Args:
            store: where tiles are read from.
            tiles: those to train on.
            patch: side of a window, px.
            batch: samples per step, over all ranks.
            augment: none or d4.
            seed: of order and augmentation.
            samples_per_epoch: over all ranks; 0 for as many windows as cover the tiles once.
            rank: this process.
            world: how many processes share each batch.
            device: where batches go.
            inputs: what standardises the raw codes; None to yield them raw.
            on_batch: called with each batch; what it returns is yielded in the batch's place.
            backend: what moves and standardises, where not the device's own.

        Raises:
            UsageError: an argument that does not fit the store or the ranks.
            GlacierError: no labelled pixel in `tiles`.
        """
        self.store = store
        self.plan = uniform_plan(store.histogram, tiles, patch)
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        check_share(batch, rank, world)
        covering = len(tiles) * (store.meta.tile_size // patch) ** 2
        self.steps = steps_per_epoch(samples_per_epoch or covering, batch)
        self._batcher = make_batcher(
            store,
            _window(store, patch),
            largest=batch // world,
            preset=check_preset(augment),
            device=device,
            inputs=inputs,
            backend=backend,
        )
        self.on_batch = on_batch
        self.epoch = 0
        self.waited = 0.0
        """Seconds waited for batches in the current epoch."""

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps

    def order(self) -> Samples:
        """The samples of the current epoch, over all ranks."""
        return epoch_order(self.plan, self.seed, self.epoch, self.steps * self.batch)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the current epoch; once they are taken, the next epoch is current."""
        order = self.order()
        parts = (rank_part(order, s, self.batch, self.rank, self.world) for s in range(self.steps))
        feed = Feed(self._batcher, _ahead(self.store, parts), threads=self.store.threads)
        try:
            for step, batch in enumerate(feed, start=1):
                self.waited = feed.waited
                self.epoch += step == self.steps
                yield self.on_batch(batch) if self.on_batch else batch
        finally:
            feed.close()


def tile_feed(store: Store, tiles: NDArray[np.int64], *, batch: int, device: torch.device | str) -> Feed:
    """Whole tiles, each once, in order and unmoved: for evaluation."""
    order = tiles_in_order(tiles)
    batcher = make_batcher(store, _window(store, store.meta.tile_size), largest=batch, device=device)
    parts = (order[i : i + batch] for i in range(0, len(order), batch))
    return Feed(batcher, _ahead(store, parts), threads=store.threads)


def _window(store: Store, patch: int) -> Window:
    return Window(patch, len(store.meta.bands), store.meta.dtype)


def _ahead(store: Store, parts: Iterable[Samples]) -> Iterator[Samples]:
    """`parts`, of which the store hears `AHEAD` earlier."""
    coming: deque[Samples] = deque()
    for samples in parts:
        store.will_read(samples)
        coming.append(samples)
        if len(coming) > AHEAD:
            yield coming.popleft()
    yield from coming
