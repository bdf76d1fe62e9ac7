"""One training: its network, optimiser and data, step by step; and all of its state."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from glacier.config import Config, DataConfig
from glacier.console import Advance
from glacier.errors import GlacierError, UsageError
from glacier.model.losses import CombinedLoss
from glacier.model.networks import own_network
from glacier.pipeline.augment import Augment
from glacier.pipeline.batcher import Batch
from glacier.pipeline.inputs import Inputs, places_or_none
from glacier.pipeline.loader import Loader
from glacier.pipeline.plan import Balance
from glacier.pipeline.split import split, statistics
from glacier.store.reader import Store
from glacier.train.average import Average
from glacier.train.evaluate import band_places, places_of
from glacier.train.precision import mixed, scaler
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Segmenter, Trained, make_segmenter
from glacier.train.transfer import transfer

LOOK = 10
"""Optimiser steps between two looks at the losses: each makes the CPU wait for the GPU."""
PERSIST = 25
"""So many steps left out in a row end the run: more than float16's scale takes to find its place."""


class Trainer:
    """Everything that a training changes, and what changes it."""

    def __init__(self, config: Config, store: Store, ranks: Ranks, init: Trained | None = None) -> None:
        """Set everything up; `init` is a run to start from.

        Raises:
            UsageError: settings that do not fit the store or the ranks.
            GlacierError: nothing to train on, or an `init` of another network.
        """
        self.config, self.store, self.ranks = config, store, ranks
        settings, device = config.train, ranks.device
        self.tiles = split(store, settings.fold)
        pick = band_places(store, config.data.bands or store.meta.band_names)
        self.bands = tuple(store.meta.bands[i] for i in pick)
        every = statistics(store, self.tiles.train)
        self.statistics = tuple(every[i] for i in pick)
        names = store.meta.class_names
        spec = config.loss
        self.loss = CombinedLoss(
            spec.terms, names, alpha=spec.alpha, ramp=spec.ramp, ramp_from=spec.ramp_from
        )
        torch.manual_seed(settings.seed)
        inputs = Inputs(self.bands, self.statistics, places_or_none(pick, len(store.meta.bands)))
        made = make_segmenter(config, inputs, self.bands, self.statistics, store.meta.classes)
        if init:
            transfer(init, made.network, config.model, made.features.channels, names)
        if settings.sync_norm and ranks.world > 1:
            if device.type != "cuda":
                raise UsageError("train.sync_norm: batch norm over ranks exists on GPUs only; leave it out")
            made.network = convert_sync_batchnorm(made.network)  # PyTorch's own loses timm's activations
        self.segmenter: Segmenter = made.to(device)
        if settings.freeze_encoder:
            self._encoder()  # missed before anything is written
        self._places = places_of(store, device) if config.model.location else None
        self.average = Average(self.segmenter.network, settings.ema)
        compiled = torch.compile(self.segmenter.network) if settings.compile else self.segmenter.network
        self.parallel = ranks.wrap(compiled)  # type: ignore[arg-type]
        self.optimiser = torch.optim.AdamW(
            self.segmenter.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.scheduler = ReduceLROnPlateau(
            self.optimiser,
            mode="max",
            factor=settings.factor,
            patience=settings.patience or settings.epochs,
        )
        self.scaler = scaler(device, settings.precision)
        self.loader = Loader(
            store,
            tiles=self.tiles.train,
            patch=config.data.patch,
            batch=settings.batch,
            augment=augment_of(config.data),
            balance=balance_of(config.data),
            anneal=config.data.anneal,
            epochs=settings.epochs,
            seed=config.data.seed,
            samples_per_epoch=settings.samples_per_epoch,
            rank=ranks.rank,
            world=ranks.world,
            device=device,
            inputs=Inputs(store.meta.bands, every),
        )
        if (
            not own_network(config.model)  # others halve a window five times
            and config.data.patch * (settings.batch // ranks.world) == 32
            and not settings.freeze_norm
        ):
            raise UsageError(
                "data.patch 32 px with one sample per rank leaves batch norm one value per channel; "
                "expected a larger data.patch or train.batch"
            )
        self.steps = 0
        """Optimiser steps taken in all."""
        self.losses: list[float] = []
        """Of this epoch's optimiser steps so far; NaN of those left out."""
        self.lost = 0
        """Steps left out since the last that was not."""
        self.term_sums = torch.zeros(len(self.loss.weights), dtype=torch.float64, device=device)
        """Of this epoch so far."""
        self.unlooked: list[Tensor] = []
        self._prior: tuple[int, tuple[float, ...]] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 0."""
        return self.loader.epoch

    def train(self, done: Advance) -> Iterator[int]:
        """What is left of the epoch; yields how many optimiser steps have been taken in all, after each.

        Raises:
            GlacierError: loss after loss is no number.
        """
        self._train_mode()
        epoch, batches = self.epoch, iter(self.loader)
        try:
            while group := list(islice(batches, self.config.train.accumulate)):
                self.unlooked.append(self.step(group, epoch))
                if self.steps % LOOK == 0:
                    self.look()  # on every rank at once: it may end the run
                for _ in group:
                    done()
                yield self.steps
        finally:
            batches.close()  # type: ignore[attr-defined]
        self.look()

    def step(self, group: list[Batch], epoch: int) -> Tensor:
        """One optimiser step over some batches; the loss of all of them, on the device.

        That of the scores alone: further heads' are made small with it, but not shown.
        A loss or gradient that is no number leaves weights, batch norm and optimiser as they were, and
        gives NaN.
        """
        self._seed()
        targets = [self.loss.target(batch.label) for batch in group]
        weight = self.ranks.add(sum(self.loss.weight(t) for t in targets)) / len(group)  # type: ignore[arg-type]
        norms = [b for b in self.segmenter.network.buffers() if b.is_floating_point()]
        before = [b.clone() for b in norms]
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        parts = torch.zeros_like(self.term_sums)
        for i, (batch, target) in enumerate(zip(group, targets, strict=True)):
            with self._in_step(last=i == len(group) - 1):
                terms, *others = self._terms(batch, target, weight)
                loss = self.loss.combine(terms, epoch) / len(group)
                made_small = loss  # with what further heads lose
                for other in others:
                    further = self.loss.combine(other, epoch) / len(group)
                    made_small = made_small + self.config.loss.auxiliary * further
                # inf may have finite gradients: as a NaN it has none, and the scaler leaves the step out
                forced = made_small * torch.where(made_small.detach().isfinite(), 1.0, torch.nan)
                torch.autograd.backward(self.scaler.scale(forced * self.ranks.world))
            total, parts = total + loss.detach(), parts + terms.detach() / len(group)
        fine = self._update(epoch) & total.isfinite()
        for buffer, old in zip(norms, before, strict=True):
            buffer.copy_(torch.where(fine, buffer, old))
        self.term_sums += torch.where(fine, parts, 0)
        self.steps += 1
        self.average.update(self.segmenter.network, self.steps)
        return torch.where(fine, total, torch.nan)

    def _terms(self, batch: Batch, target: Any, weight: Tensor) -> list[Tensor]:
        """Each term of the loss of a micro-batch over all ranks (terms,), by head of the network."""
        pick = self.segmenter.inputs.pick
        image = batch.image if pick is None else batch.image[:, pick]
        channels = self.segmenter.features(image.to(torch.get_default_dtype()))
        told = () if self._places is None else (self._places[batch.samples["tile"]],)
        with mixed(self.ranks.device, self.config.train.precision):
            found = self.parallel(channels, *told)
        by_head = [
            self.loss.sums(head, target) for head in (found if isinstance(found, tuple) else (found,))
        ]
        return [self.loss.terms([self.ranks.add_soft(s) for s in sums], weight) for sums in by_head]

    def _update(self, epoch: int) -> Tensor:
        """Let the optimiser step, unless a gradient is no number; whether it did, on the device."""
        if epoch < self.config.train.freeze_encoder:
            for parameter in self._encoder().parameters():
                parameter.grad = None
        self.scaler.unscale_(self.optimiser)
        longest = self.config.train.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.segmenter.parameters(), longest)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return norm.isfinite()

    def _in_step(self, *, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients in the last micro-step alone."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return nullcontext()
        return self.parallel.no_sync()

    def _seed(self) -> None:
        """The network's randomness follows from seed, step and rank: resuming needs no other state."""
        torch.manual_seed(
            (self.config.train.seed * 1_000_003 + self.steps) * 4096 % 2**62 + self.ranks.rank
        )

    def look(self) -> None:
        """Take the latest losses from the device.

        Raises:
            GlacierError: `PERSIST` in a row are no numbers.
        """
        new: list[float] = torch.stack(self.unlooked).tolist() if self.unlooked else []
        self.unlooked.clear()
        self.losses += new
        for loss in new:
            self.lost = 0 if math.isfinite(loss) else self.lost + 1
        if self.lost >= PERSIST:
            raise GlacierError(
                f"step {self.steps}: loss or gradient of the last {self.lost} steps is no number; try a "
                "smaller train.lr or train.precision=float32"
            )

    def close_epoch(self) -> tuple[list[float], dict[str, float]]:
        """Losses and mean terms of the epoch, which are then forgotten."""
        losses, counted = self.losses, max(sum(map(math.isfinite, self.losses)), 1)
        terms = dict(zip(self.loss.weights, (self.term_sums / counted).tolist(), strict=True))
        self.losses = []
        self.term_sums.zero_()
        return losses, terms

    def _train_mode(self) -> None:
        """Batch norm takes statistics, but where these are to stay."""
        self.segmenter.train()
        frozen: Iterable[nn.Module] = ()
        if self.config.train.freeze_norm:
            frozen = self.segmenter.modules()
        elif self.epoch < self.config.train.freeze_encoder:
            frozen = self._encoder().modules()
        for module in frozen:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def _encoder(self) -> nn.Module:
        encoder = getattr(self.segmenter.network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise UsageError(f"train.freeze_encoder: {self.config.model.arch} has no encoder; leave it out")
        return encoder

    def prior(self, epoch: int) -> tuple[float, ...]:
        """Per class, log of the natural share of pixels over that in an epoch's samples; 0 in the mean."""
        if not (self.config.train.correct_prior and self.config.data.target):
            return (0.0,) * self.loss.classes
        if self._prior and self._prior[0] == epoch:
            return self._prior[1]
        plan = self.loader.plan_of(epoch)
        ratio = [
            math.log(n / r) if n > 0 and r > 0 else 0.0
            for n, r in zip(plan.natural, plan.reached, strict=True)
        ]
        self._prior = epoch, tuple(value - sum(ratio) / len(ratio) for value in ratio)
        return self._prior[1]

    def judged(self, epoch: int) -> Segmenter:
        """What is validated: the average of the weights, with the prior corrected, alike on every rank."""
        self.ranks.agree(self.average.network)
        return self.judged_here(epoch)

    def judged_here(self, epoch: int) -> Segmenter:
        """The same, once ranks have agreed."""
        prior = self.prior(epoch)
        own = self.segmenter
        whole = Segmenter(own.inputs, own.features, self.average.network, prior, located=own.located)
        return whole.to(self.ranks.device).eval()

    def trained(self, epoch: int, mcc: float) -> Trained:
        """The averaged weights after an epoch, counted from 0, with what is needed to use them."""
        return Trained(
            config=self.config,
            bands=self.bands,
            statistics=self.statistics,
            classes=self.store.meta.classes,
            tile_size=self.store.meta.tile_size,
            epoch=epoch + 1,
            mcc=mcc,
            source=self.store.meta.source,
            prior=self.prior(epoch),
            thresholds=(0.0,) * len(self.store.meta.classes),
            temperature=1.0,
            weights=self.average.network.state_dict(),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on as this one would."""
        self.look()
        return {
            "network": self.segmenter.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "steps": self.steps,
            "losses": self.losses,
            "lost": self.lost,
            "terms": self.term_sums,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self.loader.load_state_dict(state["loader"])
        self.segmenter.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps, self.losses, self.lost = state["steps"], list(state["losses"]), state["lost"]
        self.term_sums.copy_(state["terms"])


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start


def augment_of(data: DataConfig) -> Augment:
    """The augmentation that settings ask for."""
    return Augment(
        data.augment,  # type: ignore[arg-type]
        rotate=data.rotate,
        scale=data.scale,
        shift=data.shift,
        brightness=data.brightness,
        contrast=data.contrast,
    )


def balance_of(data: DataConfig) -> Balance:
    """The balance that settings ask for."""
    return Balance(data.target, repeats=data.repeats, min_labelled=data.min_labelled)
