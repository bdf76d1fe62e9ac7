"""What `glacier train` does before and after the training itself: settings, store, run folder."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from glacier import console
from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.store.reader import Store, only_store
from glacier.train.loop import train
from glacier.train.ranks import Ranks, join_ranks
from glacier.train.segmenter import CHECKPOINT

RUNS = Path("runs")


def start_training(
    config: Path | None,
    store: Path | None,
    out: Path | None,
    fold: int | None,
    settings: Iterable[str] = (),
) -> Path:
    """Train a run; its folder.

    Raises:
        UsageError: settings that cannot be read or do not fit.
        GlacierError: no store, or a run that stands in the way.
    """
    default = "hkh_pretrain" if torch.cuda.is_available() else "demo"
    given = [*settings]
    given += [f"data.store={store}"] if store else []
    given += [f"train.fold={fold}"] if fold is not None else []
    resolved = Config.load(config or shipped(default), given)
    path = Path(resolved.data.store) if resolved.data.store else only_store(Path())
    opened = Store(path)
    if not resolved.data.store:
        resolved = resolved.with_store(path)
    with join_ranks() as ranks:
        folder = out or new_run(path.stem, ranks)
        if (folder / CHECKPOINT).exists() or (folder.exists() and any(folder.iterdir())):
            raise GlacierError(f"{folder}: exists; give a new folder with --out")
        ranks.wait()
        if ranks.main:
            why = f"the {default} settings" if config is None else str(config)
            console.note(f"{path}: {len(opened)} tiles; {why}; {ranks.world} x {ranks.device.type}")
            console.note(resolved.to_toml())
        history = train(resolved, opened, folder, ranks, console.bar)
        best = max(history, key=lambda epoch: epoch.scores.mcc)
        if ranks.main:
            console.note(
                f"{folder / CHECKPOINT}: epoch {best.epoch}, MCC {best.scores.mcc:.3f} on fold "
                f"{resolved.train.fold}; score it with `glacier evaluate {folder}`, map with "
                f"`glacier predict {folder} SCENES OUT`"
            )
    return folder


def new_run(name: str, ranks: Ranks) -> Path:
    """`runs/NAME-N` with the next free N, the same on every rank."""
    numbers = [int(m[1]) for f in _runs() if (m := re.fullmatch(rf"{re.escape(name)}-(\d+)", f.name))]
    ranks.wait()
    return RUNS / f"{name}-{max(numbers, default=0) + 1}"


def newest_run() -> Path:
    """The run with the newest checkpoint.

    Raises:
        GlacierError: there is none.
    """
    runs = [folder for folder in _runs() if (folder / CHECKPOINT).is_file()]
    if not runs:
        raise GlacierError(f"{RUNS}/: no run with a checkpoint; train one with `glacier train`")
    return max(runs, key=lambda folder: (folder / CHECKPOINT).stat().st_mtime)


def _runs() -> list[Path]:
    return [f for f in RUNS.iterdir() if f.is_dir()] if RUNS.is_dir() else []
