"""Store -> training batches: plan, order, feed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glacier.pipeline.augment import check_preset, matrices
from glacier.pipeline.feed import Batch, Feed, Window
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

        Raises:
            UsageError: an argument that does not fit the store or the ranks.
            GlacierError: no labelled pixel in `tiles`.
        """
        self.store = store
        self.plan = uniform_plan(store.histogram, tiles, patch)
        self.preset = check_preset(augment)
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        check_share(batch, rank, world)
        covering = len(tiles) * (store.meta.tile_size // patch) ** 2
        self.steps = steps_per_epoch(samples_per_epoch or covering, batch)
        self.device = torch.device(device)
        self.inputs = inputs.to(self.device) if inputs else None
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
        feed = self._feed(self.order())
        try:
            for step, batch in enumerate(feed, start=1):
                self.waited = feed.waited
                self.epoch += step == self.steps
                if self.inputs:
                    batch = replace(batch, image=self.inputs(batch.image))
                yield self.on_batch(batch) if self.on_batch else batch
        finally:
            feed.close()

    def _feed(self, order: Samples) -> Feed:
        meta = self.store.meta
        share = self.batch // self.world
        return Feed(
            self.store,
            Window(self.plan.patch, len(meta.bands), meta.dtype),
            (rank_part(order, s, self.batch, self.rank, self.world) for s in range(self.steps)),
            lambda samples: matrices(samples, self.preset, self.plan.patch),
            largest=share,
            moves=self.preset != "none",
            device=self.device,
        )


def tile_feed(store: Store, tiles: NDArray[np.int64], *, batch: int, device: torch.device | str) -> Feed:
    """Whole tiles, each once, in order and unmoved: for evaluation."""
    meta, order = store.meta, tiles_in_order(tiles)
    return Feed(
        store,
        Window(meta.tile_size, len(meta.bands), meta.dtype),
        (order[i : i + batch] for i in range(0, len(order), batch)),
        lambda samples: None,
        largest=batch,
        moves=False,
        device=torch.device(device),
    )
