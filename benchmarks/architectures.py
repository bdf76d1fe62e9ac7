"""GlaViTU against a U-Net, and both together: as many seconds, as many steps, over several seeds.

    python benchmarks/architectures.py FOLDER                        # synthetic scenes, scored on others
    python benchmarks/architectures.py FOLDER --store STORE.zarr     # each spatial fold of a store

What is in FOLDER already is kept, by store: a run that was stopped goes on. One core trains one run, in
bfloat16, and each core another. A run is one epoch without thresholds, so that nothing of it is chosen by
what it is scored on; temperatures are fitted on its validation fold, and left out where that is scored.
Seconds are those that one core works on steps, as measured first: other work makes no budget smaller.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from benchmarks.host import machine
from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from glacier.train.evaluate import evaluate_runs
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from glacier.train.trainer import Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))
BATCH = 8
ARCHS = {
    "unet": ["model.encoder=resnet18", "model.decoder_channels=[]", "train.lr=1e-3"],
    "glavitu": ["model.arch=glavitu", "train.lr=1e-3"],
}
"""What each network is trained with; the rate is the better of two for both (docs/LOG.md)."""
COMMON = [
    *("data.patch=128", f"train.batch={BATCH}", "train.epochs=1", "train.thresholds=false"),
    "train.precision=bfloat16",
]
Score = dict[str, Any]
"""As `Scores.to_json`."""
Rows = dict[str, list[Score]]
"""Row of a table -> scores, by seed or fold."""
SIZES = (128, 256)
"""Sides of the tiles that unseen scenes are scored in, px; the first is that of training."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be trained."""

    arch: str
    steps: int
    seed: int
    fold: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arch}-{self.steps}-fold{self.fold}-seed{self.seed}"

    @property
    def settings(self) -> list[str]:
        """As `--set` takes them."""
        own = [f"train.samples_per_epoch={self.steps * BATCH}", f"train.fold={self.fold}"]
        return [*COMMON, *ARCHS[self.arch], *own, f"train.seed={self.seed}", f"data.seed={self.seed}"]


def mountains(folder: Path) -> dict[str, Path]:
    """Synthetic stores: one to train on, and other scenes in tiles of each size."""
    made = {}
    for name, seed, count, sizes in (("mountains", 3, 48, SIZES[:1]), ("unseen", 1001, 12, SIZES)):
        source, partial = folder / name, folder / f".{name}"
        if not source.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            write_synthetic(partial, layout="bands", seed=seed, count=count, size=256)
            partial.rename(source)
        for size in sizes:
            path = made[f"{name}-{size}"] = folder / f"{name}-{size}.zarr"
            ingest(source, find_scenes(source), path, Options(tile_size=size), workers=2)
    return made


def pace(store: Store, rounds: int = 7) -> dict[str, float]:
    """Seconds that one core works on a step of each network: the median of some, in turns."""
    torch.set_num_threads(1)
    trainers = {
        arch: Trainer(Config.load(shipped("demo"), Job(arch, rounds + 2, 0).settings), store, ALONE)
        for arch in ARCHS
    }
    batches = {arch: iter(trainer.loader) for arch, trainer in trainers.items()}
    taken: dict[str, list[float]] = {arch: [] for arch in ARCHS}
    for _ in range(rounds + 1):
        for arch, trainer in trainers.items():
            trainer.segmenter.train()
            batch = next(batches[arch])
            start = time.thread_time()
            trainer.step([batch], 0)
            taken[arch].append(time.thread_time() - start)
    return {arch: statistics.median(seconds[1:]) for arch, seconds in taken.items()}


def train_all(jobs: list[Job], store: Path, folder: Path) -> None:
    """Train what is not trained yet: a core works on one run at a time."""
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def one(job: Job) -> None:
        core = cores.get()
        try:
            _train(job, store, folder / job.name, core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(one, jobs))


def _train(job: Job, store: Path, run: Path, core: int) -> None:
    command = [sys.executable, "-m", "glacier", "train", "--store", str(store)]
    if (run / "last.pt").is_file():
        command += ["--resume", str(run)]
    else:
        shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
        command += ["--config", "demo", "--out", str(run)]
        command += [part for setting in job.settings for part in ("--set", setting)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if done.returncode:
        raise GlacierError(f"{run}: training ended with {done.returncode}: {done.stderr[-500:]}")


def scored(
    folder: Path, key: str, runs: list[Path], store: Path, split: str, *, tta: bool = False
) -> Score:
    """Scores of runs as one ensemble, kept in a file: looking eight times takes its time."""
    file = folder / "scores" / f"{key}.json"
    if not file.is_file():
        loaded = [load_run(run) for run in runs]
        if split == "val":
            loaded = [run.unadjusted() for run in loaded]
        rated = evaluate_runs(loaded, Store(store), split, ALONE, tta=tta)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(rated.to_json()))
    found: Score = json.loads(file.read_text())
    return found


def compare(folder: Path, key: str, pairs: list[tuple[Job, Job]], store: Path, split: str) -> Rows:
    """Scores over seeds or folds of each network, of the U-Net with TTA, and of two runs with TTA.

    Two U-Nets are those of one seed and of the next: what an ensemble buys by itself. One seed has none.
    """
    rows: Rows = {}
    for i, (unet, glavitu) in enumerate(pairs):
        after = [other for other, _ in pairs[i + 1 :] + pairs[:i] if other.fold == unet.fold]
        together: dict[str, list[Job]] = {
            "U-Net": [unet],
            "GlaViTU": [glavitu],
            "U-Net, TTA": [unet],
            "two U-Nets, TTA": [unet, *after[:1]],
            "U-Net and GlaViTU, TTA": [unet, glavitu],
        }
        if not after:
            del together["two U-Nets, TTA"]
        for name, jobs in together.items():
            tta, runs = name.endswith("TTA"), [folder / job.name for job in jobs]
            what = f"{key}-{'+'.join(job.name for job in jobs)}{'-tta' * tta}"
            rows.setdefault(name, []).append(scored(folder, what, runs, store, split, tta=tta))
    return rows


def table(title: str, rows: Rows) -> list[str]:
    """Mean and deviation of MCC and of each class's IoU, as Markdown."""
    classes = list(next(iter(rows.values()))[0]["classes"])
    lines = [
        f"\n{title}\n",
        f"| | MCC | {' | '.join(f'IoU {c}' for c in classes)} |",
        "|---" * (2 + len(classes)) + "|",
    ]
    for name, found in rows.items():
        values = [[one["mcc"] for one in found]]
        values += [[one["classes"][c]["iou"] for one in found] for c in classes]
        lines.append(f"| {name} | {' | '.join(map(spread, values))} |")
    return lines


def spread(values: list[float | None]) -> str:
    """Mean and deviation."""
    known = np.array([value for value in values if value is not None])
    several = f" ± {known.std(ddof=1):.3f}" if len(known) > 1 else ""
    return f"{known.mean():.3f}{several}" if len(known) else "–"


def steps_of(folder: Path, store: Store, seconds: float) -> dict[str, int]:
    """Steps of each network that take one core `seconds`, measured once for a folder."""
    file = folder / "pace.json"
    if not file.is_file():
        file.write_text(json.dumps(pace(store)))
    return {arch: round(seconds / taken) for arch, taken in json.loads(file.read_text()).items()}


def synthetic(folder: Path, seconds: float, seeds: int) -> dict[str, Rows]:
    """Train on synthetic mountains, score on others; for each budget and size of window."""
    stores, folder = mountains(folder), _own(folder, "mountains")
    training, unseen = stores[f"mountains-{SIZES[0]}"], [stores[f"unseen-{size}"] for size in SIZES]
    steps = steps_of(folder, Store(training), seconds)
    glavitu = [Job("glavitu", steps["glavitu"], seed) for seed in range(seeds)]
    long = [Job("unet", steps["unet"], seed) for seed in range(seeds)]
    short = [Job("unet", steps["glavitu"], seed) for seed in range(seeds)]
    train_all([*glavitu, *long, *short], training, folder)
    same = f"{seconds:.0f} s each: {steps['unet']} and {steps['glavitu']} steps"
    by_seconds, by_steps = (list(zip(some, glavitu, strict=True)) for some in (long, short))
    found = {
        same: compare(folder, "128", by_seconds, unseen[0], "all"),
        f"{steps['glavitu']} steps each": compare(folder, "128", by_steps, unseen[0], "all"),
    }
    sizes: Rows = {}
    for size, store in zip(SIZES, unseen, strict=True):
        for name, jobs in (("U-Net", long), ("GlaViTU", glavitu)):
            sizes[f"{name}, {size} px"] = [
                scored(folder, f"{size}-{job.name}", [folder / job.name], store, "all") for job in jobs
            ]
    return {**found, f"windows of {SIZES[0]} px in training, of other sizes after": sizes}


def by_folds(folder: Path, path: Path, seconds: float) -> dict[str, Rows]:
    """Train on all folds of a store but one, score on that, for each."""
    store, folder = Store(path), _own(folder, path.stem)
    steps, folds = steps_of(folder, store, seconds), range(store.meta.folds)
    pairs = [tuple(Job(arch, steps[arch], 0, fold) for arch in ARCHS) for fold in folds]
    train_all([job for arch in (1, 0) for job in (pair[arch] for pair in pairs)], path, folder)
    rows = compare(folder, path.stem, pairs, path, "val")
    return {f"{path.stem}, {store.meta.folds} spatial folds, {seconds:.0f} s each": rows}


def _own(folder: Path, store: str) -> Path:
    """Where runs, pace and scores of a store lie."""
    own = folder / f"{store}-runs"
    own.mkdir(exist_ok=True)
    return own


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="for stores and runs")
    parser.add_argument("--store", type=Path, help="cross-validate on this instead of synthetic scenes")
    parser.add_argument("--seconds", type=float, default=600, help="of one core, per run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.store:
        found = by_folds(asked.folder, asked.store, asked.seconds)
    else:
        found = synthetic(asked.folder, asked.seconds, asked.seeds)
    for title, rows in found.items():
        print("\n".join(table(title, rows)))
    if asked.json:
        name = asked.store.stem if asked.store else "mountains"
        paced = json.loads((_own(asked.folder, name) / "pace.json").read_text())
        about = {"machine": machine(["torch", "segmentation-models-pytorch"]), "seconds per step": paced}
        asked.json.write_text(json.dumps({**about, "scores": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
