"""Does pretraining pay? Five tiles of one set, from scratch and from a run on another; scored on a third.

    python benchmarks/transfer.py

Pretraining sees five bands, as the Himalayan release gives them; fine-tuning seven, matched by name.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from glacier.config import Config, shipped
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.model.metrics import Scores
from glacier.pipeline.split import split
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from glacier.train.evaluate import evaluate_runs
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Trained, load_run

ALONE = Ranks(0, 1, torch.device("cpu"))
SIZE = ["data.patch=64", "train.batch=16", "train.thresholds=false", "train.patience=0"]
BEFORE = [
    'data.bands=["blue","green","red","swir1","thermal"]',
    "train.epochs=8",
    "train.samples_per_epoch=1280",
]
AFTER = ["train.epochs=8", "train.samples_per_epoch=320"]


def make(
    folder: Path, name: str, layout: str, seed: int, count: int, size: int, tile: int, folds: int
) -> Store:
    """Synthetic mountains as a store."""
    source, path = folder / name, folder / f"{name}.zarr"
    write_synthetic(source, layout=layout, seed=seed, count=count, size=size)  # type: ignore[arg-type]
    ingest(source, find_scenes(source), path, Options(tile_size=tile, folds=folds), workers=2)
    return Store(path)


def fit(store: Store, folder: Path, seed: int, settings: list[str], init: Trained | None = None) -> Trained:
    """A run's best epoch, chosen on its own held-out tiles."""
    seeds = [f"data.seed={seed}", f"train.seed={seed}"]
    train(Config.load(shipped("demo"), [*SIZE, *settings, *seeds]), store, folder, ALONE, init=init)
    return load_run(folder)


def spread(found: list[Scores], name: str = "") -> str:
    """Mean and deviation of MCC, or of a class's IoU."""
    values = [one.classes[name].iou if name else one.mcc for one in found]
    return f"{np.nanmean(values):.3f} ± {np.nanstd(values, ddof=1):.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        large = make(here, "large", "scenes", 21, 8, 512, 128, 5)
        few = make(here, "few", "bands", 5, 20, 256, 256, 2)
        unseen = make(here, "unseen", "bands", 77, 24, 256, 256, 5)
        print(
            f"{len(split(large, 0).train)} tiles of 128 px; {len(split(few, 0).train)} of 256 px; "
            f"{len(unseen)} unseen"
        )
        found: dict[str, list[Scores]] = {
            "from scratch": [],
            "from scratch, lr / 4": [],
            "pretrained, lr / 4": [],
        }
        for seed in range(asked.seeds):
            first = fit(large, here / f"first-{seed}", seed, BEFORE)
            slow = [*AFTER, "train.lr=5e-4"]
            runs = [
                fit(few, here / f"scratch-{seed}", seed, AFTER),
                fit(few, here / f"slow-{seed}", seed, slow),
                fit(few, here / f"tuned-{seed}", seed, slow, first),
            ]
            for rows, trained in zip(found.values(), runs, strict=True):
                rows.append(evaluate_runs([trained], unseen, "all", ALONE).scores)
    print("| five tiles | MCC | IoU glacier | debris | lake |\n|---|---|---|---|---|")
    for name, rows in found.items():
        cells = [spread(rows), *(spread(rows, c) for c in ("glacier", "debris", "lake"))]
        print(f"| {name} | {' | '.join(cells)} |")
    if asked.json:
        kept = {name: [one.to_json() for one in rows] for name, rows in found.items()}
        asked.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
