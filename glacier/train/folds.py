"""Cross-validation: one run per spatial fold, and what they come to together."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from glacier import console
from glacier.config import Config
from glacier.model.metrics import Scores
from glacier.store.reader import Store
from glacier.train import checkpoint
from glacier.train.evaluate import evaluate_runs
from glacier.train.loop import RESERVE, train
from glacier.train.nodes import runs_from_main
from glacier.train.ranks import Ranks
from glacier.train.report import number
from glacier.train.segmenter import Trained, load_run, read_trained
from glacier.train.stop import Stop
from glacier.train.whole import write_text_whole

SETTINGS = "folds.toml"
SUMMARY = "summary.json"
INIT = "init.pt"
"""What the folds start from, kept so that resuming does not depend on where it came from."""


def train_folds(
    config: Config, store: Store, out: Path, ranks: Ranks, stop: Stop, init: Trained | None = None
) -> None:
    """Train `out/fold-0`, `out/fold-1`, …, each from where it stands; then write `out/summary.json`.

    Stops early where `stop` is due; the same again goes on. `init`, what all of them start from, is kept in
    `out` and need not be given again.
    """
    if ranks.main:
        out.mkdir(parents=True, exist_ok=True)
        if init:
            init.save(out, INIT)
        write_text_whole(out / SETTINGS, config.to_toml())
    kept = runs_from_main(ranks, lambda: [read_trained(out / INIT)] if (out / INIT).is_file() else [])
    for fold in range(store.meta.folds):
        folder = out / f"fold-{fold}"
        record = ranks.from_main(partial(_begun, folder)) or None
        if ranks.main:
            console.note(f"{folder}: {'goes on' if record else f'fold {fold} of {store.meta.folds}'}")
        own = config.replaced("train", fold=fold)
        train(own, store, folder, ranks, console.bar, init=next(iter(kept), None), resume=record, stop=stop)
        if stop.obeyed or stop.due(ranks, RESERVE):
            if ranks.main:
                console.note(
                    f"{out}: stopped in fold {fold} and saved; go on with `glacier train --resume {out}`"
                )
            return
    runs = runs_from_main(ranks, lambda: [load_run(out / f"fold-{k}") for k in range(store.meta.folds)])
    rated = [score_fold(run, store, ranks) for run in runs]
    if ranks.main:
        write_text_whole(out / SUMMARY, json.dumps(summary(rated), indent=1) + "\n")
        console.out.print(fold_table(rated, f"{out}: {len(rated)} spatial folds of {store.name}"))


def _begun(folder: Path) -> dict[str, Any]:
    """A fold's `last.pt`, or nothing where it has not begun."""
    return checkpoint.read(folder) if (folder / checkpoint.LAST).is_file() else {}


def score_fold(run: Trained, store: Store, ranks: Ranks) -> Scores:
    """Of the best weights on the fold held out, without thresholds, which were chosen on it."""
    return evaluate_runs([run.unadjusted()], store, "val", ranks, track=console.bar).scores


def summary(rated: Sequence[Scores]) -> dict[str, Any]:
    """Each fold's scores; mean and deviation over the folds that hold a class."""
    rows = [flat(one) for one in rated]
    together = {}
    for key in rows[0]:
        values = [row[key] for row in rows if not isnan(row[key])]
        together[key] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "folds": len(values),
        }
    return {"pixels": "labelled", "folds": [one.to_json() for one in rated], "over folds": together}


def flat(rated: Scores) -> dict[str, float]:
    """MCC, mean IoU, and each class's IoU, by name."""
    per_class = {f"IoU {name}": row.iou for name, row in rated.classes.items()}
    return {"MCC": rated.mcc, "mean IoU": rated.mean_iou, **per_class}


def fold_table(rated: Sequence[Scores], title: str) -> Table:
    """A column per fold, then mean and deviation."""
    table = Table(title=escape(title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.caption = "labelled pixels of the fold held out; the epoch was chosen on it"
    table.add_column("")
    for head in (*(f"fold {k}" for k in range(len(rated))), "mean ± sd"):
        table.add_column(head, justify="right")
    together: Mapping[str, Any] = summary(rated)["over folds"]
    for key, value in together.items():
        spread = f"{number(value['mean'])} ± {number(value['sd'])}"
        table.add_row(escape(key), *(number(flat(one)[key]) for one in rated), spread)
    return table


def is_cross_validation(folder: Path) -> bool:
    """Whether a folder holds one run per fold."""
    return (folder / SETTINGS).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of its runs, as nested tables."""
    return Config.load(folder / SETTINGS).to_dict()
