"""TensorBoard's scalars and sample maps of a training."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from glacier.classes import IGNORE
from glacier.pictures import Picture, class_colours
from glacier.store.look import most_varied, tile_picture
from glacier.store.reader import Store
from glacier.train.evaluate import scored_tiles
from glacier.train.history import Epoch
from glacier.train.ranks import Ranks
from glacier.train.trainer import Stopwatch, Trainer

SHOWN = 4
"""Tiles of the validation fold that maps are drawn of."""
EVERY = 5
"""Epochs between two drawings."""


class Records:
    """Events in the run's own folder: `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path, store: Store, trainer: Trainer, *, purge: int) -> None:
        """Begin at step `purge`: what an earlier process wrote from there on is hidden."""
        self.writer = SummaryWriter(str(folder), purge_step=purge)
        self.store = store
        self.tiles = most_varied(store, SHOWN, trainer.tiles.val)
        self._mark(trainer)

    def steps(self, trainer: Trainer) -> None:
        """Loss, tiles/s and data wait of the latest optimiser steps."""
        seconds, taken = self._watch(), trainer.steps - self._seen
        waited = trainer.loader.waited - self._waited
        if waited < 0:  # another epoch
            waited = trainer.loader.waited
        settings = trainer.config.train
        self.writer.add_scalar("step/loss", trainer.losses[-1], trainer.steps)
        self.writer.add_scalar(
            "step/tiles per s", taken * settings.batch * settings.accumulate / seconds, trainer.steps
        )
        self.writer.add_scalar("step/wait %", 100 * waited / seconds, trainer.steps)
        self._mark(trainer)

    def _mark(self, trainer: Trainer) -> None:
        """What comes next is counted from here."""
        self._watch, self._waited, self._seen = Stopwatch(), trainer.loader.waited, trainer.steps

    def epoch(self, epoch: Epoch, trainer: Trainer) -> None:
        """Scores and terms of an epoch, and maps of a few tiles now and then."""
        values = {
            "loss/train": epoch.loss,
            "loss/validation": epoch.val_loss,
            "lr": epoch.lr,
            "skipped steps": epoch.skipped,
            "score/MCC": epoch.scores.mcc,
            "score/mean IoU": epoch.scores.mean_iou,
        }
        values |= {f"term/{name}": value for name, value in epoch.terms.items()}
        values |= {f"IoU/{name}": row.iou for name, row in epoch.scores.classes.items()}
        for name, value in values.items():
            self.writer.add_scalar(name, value, trainer.steps)
        if (epoch.epoch - 1) % EVERY == 0 or epoch.epoch == trainer.config.train.epochs:
            self._maps(trainer, epoch.epoch - 1)
        self.writer.flush()
        self._mark(trainer)

    def _maps(self, trainer: Trainer, number: int) -> None:
        segmenter, alone = trainer.judged_here(number), Ranks(0, 1, trainer.ranks.device)
        scored = scored_tiles(
            segmenter, self.store, np.array(self.tiles), alone, batch=1,
            precision=trainer.config.train.precision,
        )  # fmt: skip
        for place, (tile, (_, found)) in enumerate(zip(self.tiles, scored, strict=True)):
            classes = found.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
            picture = beside(self.store, tile, classes)
            self.writer.add_image(f"maps/{place}", picture, trainer.steps, dataformats="HWC")

    def close(self) -> None:
        """Write out what is left."""
        self.writer.close()


def beside(store: Store, tile: int, found: NDArray[np.uint8]) -> Picture:
    """A tile in false colour, its label, and class indices (H, W) found for it, side by side."""
    label, classes = store.label(tile), store.meta.classes
    shown = np.where(label == IGNORE, IGNORE, found).astype(np.uint8)
    return np.concatenate(
        (tile_picture(store, tile), class_colours(label, classes), class_colours(shown, classes)), axis=1
    )
