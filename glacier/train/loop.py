"""Training: DDP steps over a loader, validation each epoch, the best weights kept."""

import json
import time
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from glacier.config import Config, DataConfig
from glacier.console import Track, note, silence, warn
from glacier.errors import GlacierError, UsageError
from glacier.model.losses import cross_entropy_dice, soft_counts
from glacier.model.metrics import scores
from glacier.pipeline.augment import Augment
from glacier.pipeline.batcher import Batch
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import Loader
from glacier.pipeline.plan import Balance
from glacier.pipeline.split import split, statistics
from glacier.store.reader import Store
from glacier.train.evaluate import band_places, evaluate_tiles, places_or_none
from glacier.train.history import Epoch, best_of
from glacier.train.precision import half, mixed
from glacier.train.ranks import Ranks
from glacier.train.report import EpochTable
from glacier.train.segmenter import Segmenter, Trained, make_segmenter


class Trainer:
    """One training: a segmenter, its optimiser, its data."""

    def __init__(self, config: Config, store: Store, ranks: Ranks) -> None:
        """Set everything up.

        Raises:
            UsageError: settings that do not fit the store or the ranks.
            GlacierError: nothing to train on.
        """
        self.config, self.store, self.ranks = config, store, ranks
        self.tiles = split(store, config.train.fold)
        names = config.data.bands or store.meta.band_names
        pick = band_places(store, names)
        self.bands = tuple(store.meta.bands[i] for i in pick)
        every = statistics(store, self.tiles.train)
        self.statistics = tuple(every[i] for i in pick)
        torch.manual_seed(config.train.seed)
        self.pick = places_or_none(store, pick)
        inputs = Inputs(self.bands, self.statistics, self.pick)
        segmenter = make_segmenter(config, inputs, len(self.bands), store.meta.classes)
        self.segmenter: Segmenter = segmenter.to(ranks.device)
        self.parallel = ranks.wrap(self.segmenter.network)
        self.optimiser = torch.optim.AdamW(
            self.segmenter.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay
        )
        self.loader = Loader(
            store,
            tiles=self.tiles.train,
            patch=config.data.patch,
            batch=config.train.batch,
            augment=augment_of(config.data),
            balance=balance_of(config.data),
            anneal=config.data.anneal,
            epochs=config.train.epochs,
            seed=config.data.seed,
            samples_per_epoch=config.train.samples_per_epoch,
            rank=ranks.rank,
            world=ranks.world,
            device=ranks.device,
            inputs=Inputs(store.meta.bands, every),
        )
        self.scaler = GradScaler(ranks.device.type, enabled=half(ranks.device) == torch.float16)
        share = config.train.batch // ranks.world
        if config.data.patch * share == 32 and not config.train.freeze_norm:
            raise UsageError(
                "data.patch 32 px with one sample per rank leaves batch norm one value per channel; "
                "expected a larger data.patch or train.batch"
            )

    def step(self, batch: Batch) -> Tensor:
        """One optimiser step; the loss of the global batch, on the device."""
        image = batch.image if self.pick is None else batch.image[:, self.pick]
        image = image.to(torch.get_default_dtype())
        with mixed(self.ranks.device):
            logits = self.parallel(image)
        loss = cross_entropy_dice(self.ranks.add_soft(soft_counts(logits, batch.label)))
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss * self.ranks.world))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach()

    def steps(self, number: int, track: Track) -> list[float]:
        """Train through one epoch; the loss of each step."""
        self._train_mode()
        losses = []
        with track(f"epoch {number}", len(self.loader)) as done:
            for batch in self.loader:
                losses.append(self.step(batch))
                done()
        taken: list[float] = torch.stack(losses).tolist()
        return taken

    def epoch(self, number: int, track: Track) -> Epoch:
        """Train through one epoch, then validate."""
        start = time.perf_counter()
        taken = self.steps(number, track)
        if not all(map(isfinite, taken)):
            raise GlacierError(f"epoch {number}: the loss is no number; try a smaller train.lr")
        trained = time.perf_counter() - start
        self.ranks.agree(self.segmenter)
        matrix = evaluate_tiles(self.segmenter, self.store, self.tiles.val, self.ranks, track=track)
        return Epoch(
            epoch=number,
            loss=sum(taken) / len(taken),
            losses=taken,
            scores=scores(matrix, self.store.meta.class_names),
            tiles_per_s=len(taken) * self.config.train.batch / trained,
            wait=self.loader.waited / trained,
            seconds=time.perf_counter() - start,
        )

    def _train_mode(self) -> None:
        self.segmenter.train()
        if self.config.train.freeze_norm:
            for module in self.segmenter.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def trained(self, epoch: Epoch) -> Trained:
        """The weights as they are, with what is needed to use them."""
        return Trained(
            config=self.config,
            bands=self.bands,
            statistics=self.statistics,
            classes=self.store.meta.classes,
            tile_size=self.store.meta.tile_size,
            epoch=epoch.epoch,
            mcc=epoch.scores.mcc,
            source=self.store.meta.source,
            weights=self.segmenter.network.state_dict(),
        )


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


def train(config: Config, store: Store, out: Path, ranks: Ranks, track: Track = silence) -> list[Epoch]:
    """Train into the new folder `out`: config.toml, history.jsonl and best.pt.

    Raises:
        UsageError: settings that do not fit.
        GlacierError: nothing to train on, or the loss is no number.
    """
    trainer = Trainer(config, store, ranks)
    table = EpochTable(store.meta.class_names) if ranks.main else None
    if ranks.main:
        if config.data.target:
            names, plan = store.meta.class_names, trainer.loader.plan
            note(plan.words(names))
            for words in plan.warnings(names, config.data.target):
                warn(words)
        judged = store.histogram[trainer.tiles.val].sum(axis=(0, 1, 2))
        if np.count_nonzero(judged) < 2:
            warn(f"fold {config.train.fold} holds labels of fewer than two classes: its MCC is always 0")
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.toml").write_text(config.to_toml())
    history: list[Epoch] = []
    for number in range(1, config.train.epochs + 1):
        history.append(trainer.epoch(number, track if ranks.main else silence))
        best = best_of(history) == len(history) - 1
        if ranks.main and best:
            trainer.trained(history[-1]).save(out)
        if table:
            with (out / "history.jsonl").open("a") as file:
                file.write(json.dumps(history[-1].to_json()) + "\n")
            table.add(history[-1], best=best)
    return history
