"""What each part of a training is worth: all of them, then all but one, on synthetic mountains.

glacier synth big --seed 3 --count 100 --size 256; glacier ingest big --tile-size 128
python benchmarks/ablation.py big.zarr
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glacier.config import Config, shipped
from glacier.model.metrics import Scores, scores
from glacier.pipeline.split import split
from glacier.store.reader import Store
from glacier.train.checkpoint import LAST
from glacier.train.evaluate import evaluate_tiles, placed
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run, read_record

ALONE = Ranks(0, 1, torch.device("cpu"))
SIZE = [
    "data.patch=64",
    "train.batch=32",
    "train.samples_per_epoch=1280",
    "train.lr=2e-3",
    "train.thresholds=false",
]
ALL = [
    "data.target={background=0.10, glacier=0.35, debris=0.40, lake=0.15}",
    "inputs.log=true",
    "inputs.validity=true",
    "loss.terms={focal=0.25, dice=0.25, mcc=0.35, boundary_error=0.15}",
    "loss.ramp={mcc=4, boundary_error=4}",
    "loss.alpha={}",
]
WITHOUT = {
    "all of it": [],
    "focal and Dice alone": ["loss.terms={focal=0.6, dice=0.4}", "loss.ramp={}"],
    "uniform sampling, alpha 1 2 3 4": [
        "data.target={}",
        "loss.alpha={background=1, glacier=2, debris=3, lake=4}",
    ],
    "linear inputs, no validity plane": ["inputs.log=false", "inputs.validity=false"],
    "no augmentation": ["data.augment=none"],
    "no moving average": ["train.ema=0"],
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last epoch on the held-out fold, with the prior corrected and as the network has it."""

    corrected: Scores
    raw: Scores


def run(store: Store, settings: list[str], seed: int, epochs: int, folder: Path) -> Outcome:
    """Train once and score the last weights, chosen by nothing."""
    seeds = [f"data.seed={seed}", f"train.seed={seed}", f"train.epochs={epochs}"]
    train(Config.load(shipped("demo"), [*SIZE, *ALL, *settings, *seeds]), store, folder, ALONE)
    last = read_record(folder / LAST)["state"]["average"]
    best = load_run(folder)
    tiles = split(store, 0).val
    found = []
    for prior in (best.prior, (0.0,) * len(best.classes)):
        segmenter = placed(best, store)
        segmenter.network.load_state_dict(last)
        segmenter.offset.copy_(torch.tensor(prior))
        found.append(scores(evaluate_tiles(segmenter, store, tiles, ALONE), store.meta.class_names))
    return Outcome(*found)


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    return f"{np.nanmean(values):.3f} ± {np.nanstd(values, ddof=1):.3f}"


def main() -> None:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    store, kept = Store(asked.store), {}
    print(
        "| without one part | MCC | prior not corrected | IoU debris | lake | recall lake |\n"
        "|---|---|---|---|---|---|"
    )
    for name, settings in WITHOUT.items():
        with tempfile.TemporaryDirectory() as scratch:
            found = [
                run(store, settings, seed, asked.epochs, Path(scratch) / str(seed))
                for seed in range(asked.seeds)
            ]
        kept[name] = [[one.corrected.to_json(), one.raw.to_json()] for one in found]
        cells = [
            spread([one.corrected.mcc for one in found]),
            spread([one.raw.mcc for one in found]),
            *(spread([one.corrected.classes[c].iou for one in found]) for c in ("debris", "lake")),
            spread([one.corrected.classes["lake"].recall for one in found]),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
