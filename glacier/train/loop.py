"""Training from its first epoch to its last, or until it has to stop: validate, keep the best, save."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glacier.config import Config
from glacier.console import Track, note, silence, warn
from glacier.model.metrics import scores
from glacier.store.reader import Store
from glacier.train import checkpoint
from glacier.train.adjust import Adjustment, choose_adjustment
from glacier.train.evaluate import evaluate_tiles, judge
from glacier.train.history import Epoch, best_of
from glacier.train.nodes import runs_from_main
from glacier.train.ranks import Ranks
from glacier.train.records import Records
from glacier.train.report import EpochTable, percent
from glacier.train.segmenter import Trained, load_run
from glacier.train.stop import Stop
from glacier.train.trainer import LOOK, Stopwatch, Trainer
from glacier.train.transfer import unmatched
from glacier.train.whole import write_text_whole

RESERVE = 20.0
"""Seconds that are left for a last checkpoint before a time limit."""


class Stopped(Exception):  # noqa: N818
    """The training was asked to stop, and has been saved."""


def train(
    config: Config,
    store: Store,
    out: Path,
    ranks: Ranks,
    track: Track = silence,
    *,
    init: Trained | None = None,
    resume: Mapping[str, Any] | None = None,
    stop: Stop | None = None,
) -> list[Epoch]:
    """Train into the folder `out`: config.toml, history.jsonl, best.pt, last.pt, TensorBoard's events.

    Args:
        config: settings.
        store: what to train on.
        out: the run; new, unless it is resumed.
        ranks: who trains.
        track: progress.
        init: a run to start from.
        resume: what `checkpoint.read` gave, to go on from.
        stop: when to end early.

    Returns:
        The epochs so far: fewer than asked for where `stop` was due.

    Raises:
        UsageError: settings that do not fit.
        GlacierError: nothing to train on, losses that are no numbers, or a checkpoint of something else.
    """
    if resume:
        checkpoint.check(resume, config, store, out / checkpoint.LAST)
        if resume["finished"] and len(resume["history"]) >= config.train.epochs:
            return [Epoch.from_record(epoch) for epoch in resume["history"]]
    trainer = Trainer(config, store, ranks, init)
    if init and not resume and ranks.main and (words := unmatched(init, [b.name for b in trainer.bands])):
        warn(words)
    history = checkpoint.restore(trainer, resume) if resume else []
    run = Run(trainer, history, out, track if ranks.main else silence, stop or Stop())
    if resume:
        run.longest = resume["longest"]
    run.open()
    try:
        while len(history) < config.train.epochs:
            run.epoch()
        run.finish()
    except Stopped:
        if ranks.main and len(history) >= config.train.epochs:
            what = "thresholds and temperature are" if config.train.thresholds else "its temperature is"
            note(f"{out}: {what} still to be chosen; `glacier train --resume {out}` does")
    finally:
        run.close()
    return history


class Run:
    """A trainer with what it leaves in a folder and on the terminal."""

    def __init__(self, trainer: Trainer, history: list[Epoch], out: Path, track: Track, stop: Stop) -> None:
        self.trainer, self.history, self.out, self.track, self.stop = trainer, history, out, track, stop
        self.ranks, self.config, self.store = trainer.ranks, trainer.config, trainer.store
        self.longest = RESERVE
        """Seconds that the longest validation took."""
        self.records: Records | None = None
        self.table: EpochTable | None = None

    def open(self) -> None:
        """Say what is begun, in the folder and on the terminal."""
        if not self.ranks.main:
            return
        self._remark()
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.toml").write_text(self.config.to_toml())
        self.records = Records(self.out, self.store, self.trainer, purge=self.trainer.steps + 1)
        self.table = EpochTable(self.store.meta.class_names)

    def close(self) -> None:
        """End what `open` began."""
        if self.records:
            self.records.close()

    def _remark(self) -> None:
        """What the user should know before."""
        names, plan = self.store.meta.class_names, self.trainer.loader.plan
        if self.config.data.target:
            note(plan.words(names))
            for words in plan.warnings(names, self.config.data.target):
                warn(words)
        if absent := [name for name in self.config.loss.alpha if name not in names]:
            warn(f"loss.alpha: no class {', no '.join(absent)} in {self.store.name}; left out of it")
        judged = self.store.histogram[self.trainer.tiles.val].sum(axis=(0, 1, 2))
        if np.count_nonzero(judged) < 2:
            warn(
                f"fold {self.config.train.fold} holds labels of fewer than two classes: its MCC is always 0"
            )

    def epoch(self) -> None:
        """Train through what is left of an epoch, then validate.

        Raises:
            Stopped: it was due.
        """
        watch, number, trained = Stopwatch(), len(self.history), 0.0
        before = len(self.trainer.losses)
        if self.trainer.epoch == number:  # else it has been trained, but not validated
            self._steps(number)
            trained = watch()
            self._save()
        taken = len(self.trainer.losses) - before
        self._stop_if_due(self.longest)
        judging = Stopwatch()
        rated = judge(
            self.trainer.judged(number), self.store, self.trainer.tiles.val, self.ranks, self.trainer.loss,
            number, precision=self.config.train.precision, track=self.track,
        )  # fmt: skip
        self.longest = max(self.longest, judging() + RESERVE)
        lr = float(self.trainer.optimiser.param_groups[0]["lr"])
        losses, terms = self.trainer.close_epoch()
        finite = [v for v in losses if np.isfinite(v)]
        micro = taken * self.config.train.accumulate
        epoch = Epoch(
            epoch=number + 1,
            loss=sum(finite) / max(len(finite), 1),
            losses=losses,
            terms=terms,
            skipped=len(losses) - len(finite),
            lr=lr,
            val_loss=rated.loss,
            scores=scores(rated.matrix, self.store.meta.class_names),
            tiles_per_s=micro * self.config.train.batch / trained if trained else 0.0,
            wait=self.trainer.loader.waited / trained if trained else 0.0,
            seconds=watch(),
        )
        self.history.append(epoch)
        if self.config.train.patience:
            self.trainer.scheduler.step(epoch.scores.mcc)
        self._keep()

    def _steps(self, number: int) -> None:
        with self.track(f"epoch {number + 1}", len(self.trainer.loader)) as done:
            for _ in range(self.trainer.loader.step):
                done()
            for steps in self.trainer.train(done):
                if self.records and steps % LOOK == 0:
                    self.records.steps(self.trainer)
                if self.stop.due(self.ranks, RESERVE):
                    self._end()
                if steps % self.config.train.save_steps == 0:
                    self._save()

    def _keep(self) -> None:
        """Write down the epoch that has ended."""
        epoch, best = self.history[-1], best_of(self.history) == len(self.history) - 1
        if self.ranks.main and best:
            self.trainer.trained(epoch.epoch - 1, epoch.scores.mcc).save(self.out)
        if self.ranks.main:
            lines = "".join(json.dumps(e.to_json()) + "\n" for e in self.history)
            write_text_whole(self.out / "history.jsonl", lines)
        self._save()  # last: killed before, the epoch is validated again, to the same end
        if self.table and self.records:
            self.table.add(epoch, best=best)
            self.records.epoch(epoch, self.trainer)

    def finish(self) -> None:
        """Choose thresholds and temperature for the best weights, on the validation fold."""
        thresholds, precision = self.config.train.thresholds, self.config.train.precision
        self._stop_if_due((2 if thresholds else 1) * self.longest)
        [kept] = runs_from_main(self.ranks, lambda: [load_run(self.out)])
        best = kept.unadjusted()
        segmenter = best.segmenter(self.trainer.segmenter.inputs).to(self.ranks.device)
        found = choose_adjustment(
            segmenter, self.store, self.trainer.tiles.val, self.ranks, thresholds=thresholds,
            precision=precision,
        )  # fmt: skip
        chosen = best.adjusted(found.thresholds, found.temperature)
        words = self._compared(chosen) if thresholds else ""
        if self.ranks.main:
            note(f"chosen on fold {self.config.train.fold}: {words}{temperature_words(found)}")
            chosen.save(self.out)
        self._save(finished=True)
        self.ranks.wait()

    def _compared(self, chosen: Trained) -> str:
        """The thresholds, and what they do to the MCC."""
        segmenter = chosen.segmenter(self.trainer.segmenter.inputs).to(self.ranks.device)
        val, precision = self.trainer.tiles.val, self.config.train.precision
        matrix = evaluate_tiles(segmenter, self.store, val, self.ranks, precision=precision)
        after = scores(matrix, chosen.class_names).mcc
        shown = ", ".join(
            f"{n} {t:+.1f}" for n, t in zip(chosen.class_names, chosen.thresholds, strict=True)
        )
        return f"thresholds {shown}, MCC {chosen.mcc:.3f} -> {after:.3f}; "

    def _save(self, *, finished: bool = False) -> None:
        self.trainer.look()
        if self.ranks.main:
            checkpoint.save(self.trainer, self.history, self.out, longest=self.longest, finished=finished)

    def _stop_if_due(self, reserve: float) -> None:
        if self.stop.due(self.ranks, reserve):
            self._end()

    def _end(self) -> None:
        self._save()
        self.ranks.wait()
        self.stop.obeyed = True
        raise Stopped


def temperature_words(found: Adjustment) -> str:
    """The temperature, and what it does to the calibration error."""
    errors = f"{percent(found.before)} -> {percent(found.after)}"
    return f"temperature {found.temperature:.2f}, calibration error {errors}"
