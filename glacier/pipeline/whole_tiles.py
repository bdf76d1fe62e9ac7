"""Whole tiles in order, as often as wanted: for validation."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from glacier.errors import UsageError
from glacier.pipeline.batcher import Batch
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import tile_feed
from glacier.pipeline.split import Tiles
from glacier.store.reader import Store


class WholeTiles:
    """A rank's share of some tiles, standardised, unmoved, in order: the same in each loop over it."""

    def __init__(
        self,
        store: Store,
        *,
        tiles: Tiles,
        batch: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        inputs: Inputs | None = None,
        on_batch: Callable[[Batch], Any] | None = None,
    ) -> None:
        """Read nothing yet; the arguments are those of `glacier.tiles`.

        Raises:
            UsageError: an argument that does not fit.
        """
        if batch < 1 or not 0 <= rank < world:
            raise UsageError(
                f"batch of {batch}, rank {rank} of {world}; expected one tile or more, and ranks from 0"
            )
        self.store, self.batch, self.device = store, batch, device
        self.inputs, self.on_batch = inputs, on_batch
        self.mine = tiles[rank::world]
        """This rank's: of the others' number, or one more or less."""

    def __len__(self) -> int:
        """Batches of this rank; the last may be smaller."""
        return -(-len(self.mine) // self.batch)

    def __iter__(self) -> Iterator[Any]:
        """All of them, from the first."""
        feed = tile_feed(self.store, self.mine, batch=self.batch, device=self.device, inputs=self.inputs)
        for batch in feed:
            yield self.on_batch(batch) if self.on_batch else batch
