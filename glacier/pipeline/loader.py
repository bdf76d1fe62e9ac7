"""Store -> training batches: plan, order, feed."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glacier.errors import UsageError
from glacier.pipeline.augment import D4, Augment
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
from glacier.pipeline.plan import Balance, Plan, make_plan
from glacier.pipeline.windows import candidates
from glacier.store.reader import Store

AHEAD = 2
"""Batches that the kernel fetches before they are read."""


class Loader:
    """Training batches of one rank. Iterate it for an epoch; the next time gives the next epoch.

    A loop that is left early has had its epoch: the next is of the next, but for one after
    `load_state_dict`, which goes on.

    Its state is three numbers, `seed`, `epoch` and `step`: see `state_dict`.
    """

    def __init__(
        self,
        store: Store,
        *,
        tiles: NDArray[np.int64],
        patch: int,
        batch: int,
        augment: Augment = D4,
        balance: Balance | None = None,
        anneal: float = 0.0,
        epochs: int = 0,
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
            augment: what is done to windows.
            balance: the mix of pixels asked for.
            anneal: share of all epochs over which the mix goes back to the natural one, at their end.
            epochs: how many there will be; for `anneal`.
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
        self.store, self.balance, self.augment = store, balance or Balance(), augment
        self.anneal, self.epochs = anneal, epochs
        if not 0 <= anneal <= 1 or (anneal and epochs < 1):
            raise UsageError(f"data.anneal: {anneal} of {epochs} epochs, expected 0 to 1 of at least one")
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        check_share(batch, rank, world)
        self._windows = candidates(store.histogram, tiles, patch, augment, self.balance.min_labelled)
        self.steps = steps_per_epoch(samples_per_epoch or self._windows.covering, batch)
        self.plan = self._plan(0.0)
        """What orders are drawn from, before annealing."""
        read = store.meta.tile_size if augment.interpolates else patch
        self._batcher = make_batcher(
            store,
            _window(store, read),
            largest=batch // world,
            augment=augment,
            patch=patch,
            device=device,
            inputs=inputs,
            backend=backend,
        )
        self.on_batch = on_batch
        self.epoch = 0
        """The epoch that the next batch is of."""
        self.step = 0
        """The step, in its epoch, of the next batch."""
        self._first = 0
        self.waited = 0.0
        """Seconds waited for batches in the current epoch."""

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps

    def order(self) -> Samples:
        """The samples of the current epoch, over all ranks."""
        return epoch_order(self.plan_of(self.epoch), self.seed, self.epoch, self.steps * self.batch)

    def plan_of(self, epoch: int) -> Plan:
        """What an epoch's order is drawn from, annealed if it is to be."""
        ease = eased(epoch, self.epochs, self.anneal)
        return self._plan(ease) if ease else self.plan

    def __iter__(self) -> Iterator[Any]:
        """The current epoch's batches; once they are taken, or the loop is left, the next is current.

        From its first, or once after `load_state_dict` from where that state was taken.
        """
        if self.step and not self._first:
            self.epoch, self.step = self.epoch + 1, 0
        order, epoch, first, self._first = self.order(), self.epoch, self._first, 0
        steps = range(first, self.steps)
        parts = (rank_part(order, step, self.batch, self.rank, self.world) for step in steps)
        feed = Feed(self._batcher, _ahead(self.store, parts), threads=self.store.threads)
        try:
            for step, batch in enumerate(feed, start=first + 1):
                self.waited = feed.waited
                self.epoch, self.step = epoch + step // self.steps, step % self.steps
                yield self.on_batch(batch) if self.on_batch else batch
        finally:
            feed.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands after the batch it last yielded, and what its order depends on.

        World size and rank are no part of it: any number of ranks that shares the batch can go on.
        """
        return {"seed": self.seed, "epoch": self.epoch, "step": self.step, "depends": self._depends()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken: what comes next is what would have come then.

        Raises:
            UsageError: the order would be another, for another seed, batch, store or plan.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise UsageError(f"a state of {_short(sorted(state))}, expected what `state_dict` gave")
        then, now = ({"data.seed": s["seed"], **s["depends"]} for s in (state, own))
        for name, value in then.items():
            if now.get(name) != value:
                raise UsageError(
                    f"{name}: {_short(now.get(name))}, expected {_short(value)} as when it was saved, or "
                    "the order of samples would be another; set it back, or start anew"
                )
        self.epoch = state["epoch"]
        self.step = self._first = state["step"]

    def _plan(self, ease: float) -> Plan:
        names = self.store.meta.class_names
        return make_plan(self._windows, names, self.balance, self.steps * self.batch, ease)

    def _depends(self) -> dict[str, Any]:
        """All that the order depends on but seed, epoch and step, by the names of the settings."""
        meta, tiles = self.store.meta, self._windows.tiles
        content = f"{len(self.store)} tiles, {meta.tile_size} px, {meta.class_names}, {meta.source}"
        held = {
            "store": _digest(content.encode()),
            "training tiles": _digest(tiles.astype("<i8").tobytes()),
            "train.batch": self.batch,
            "samples per epoch": self.steps * self.batch,
            "data.patch": self._windows.patch,
        }
        settings = {
            **asdict(self.augment),
            **asdict(self.balance),
            "anneal": [self.anneal, self.epochs] if self.anneal else 0,
        }
        held |= {f"data.{name}": value for name, value in settings.items()}
        held["data.augment"] = held.pop("data.preset")
        return held


def eased(epoch: int, epochs: int, anneal: float) -> float:
    """How far an epoch's mix has gone back to the natural one: 0 until the last `anneal` of all.

    In the last epoch it is 1 wherever `anneal` is not 0, however small its share.
    """
    if not anneal:
        return 0.0
    return float(np.clip(1 - (epochs - 1 - epoch) / (anneal * epochs), 0, 1))


def tile_feed(
    store: Store,
    tiles: NDArray[np.int64],
    *,
    batch: int,
    device: torch.device | str,
    inputs: Inputs | None = None,
) -> Feed:
    """Whole tiles, each once, in order and unmoved: for evaluation. Raw codes, but for `inputs`."""
    order = tiles_in_order(tiles)
    window = _window(store, store.meta.tile_size)
    batcher = make_batcher(store, window, largest=batch, device=device, inputs=inputs)
    parts = (order[i : i + batch] for i in range(0, len(order), batch))
    return Feed(batcher, _ahead(store, parts), threads=store.threads)


def _window(store: Store, patch: int) -> Window:
    return Window(patch, len(store.meta.bands), store.meta.dtype)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:117]}..."


def _ahead(store: Store, parts: Iterable[Samples]) -> Iterator[Samples]:
    """`parts`, of which the store hears `AHEAD` earlier."""
    coming: deque[Samples] = deque()
    for samples in parts:
        store.will_read(samples)
        coming.append(samples)
        if len(coming) > AHEAD:
            yield coming.popleft()
    yield from coming
