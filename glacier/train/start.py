"""What `glacier train` does before and after the training itself: settings, store, run folder."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from glacier import console
from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.store.reader import Store, only_store
from glacier.train.history import best_of
from glacier.train.loop import train
from glacier.train.ranks import join_ranks
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
    given = [*settings] + ([f"train.fold={fold}"] if fold is not None else [])
    resolved = Config.load(found(config) if config else shipped(default), given)
    path = store or Path(resolved.data.store or only_store(Path()))
    opened = Store(path)
    resolved = resolved.replaced("data", store=str(path))
    if config is None and resolved.data.patch > opened.meta.tile_size:
        resolved = resolved.replaced("data", patch=opened.meta.tile_size)
    foreign = not set(opened.meta.class_names) <= set(resolved.data.target)
    if config is None and foreign and not any(s.strip().startswith("data.target") for s in given):
        resolved = resolved.replaced("data", target={})  # shipped for other classes
    with join_ranks() as ranks:
        folder = out or new_run(path.stem)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise GlacierError(f"{folder}: exists; give a new folder with --out")
        ranks.wait()
        if ranks.main:
            folder.mkdir(parents=True, exist_ok=True)
            why = f"the {default} settings" if config is None else str(config)
            console.note(f"{path}: {len(opened)} tiles; {why}; {ranks.world} x {ranks.device.type}")
            console.note(resolved.to_toml())
        history = train(resolved, opened, folder, ranks, console.bar)
        best = history[best_of(history)]
        if ranks.main:
            console.note(
                f"{folder / CHECKPOINT}: epoch {best.epoch}, MCC {best.scores.mcc:.3f} on fold "
                f"{resolved.train.fold}; score it with `glacier evaluate {folder}`, map with "
                f"`glacier predict {folder} SCENES OUT`"
            )
    return folder


def found(config: Path) -> Path:
    """A file, or one of the package's by its name."""
    own = shipped(config.name)
    return own if config.parent == Path() and not config.exists() and own.is_file() else config


def new_run(name: str) -> Path:
    """`runs/NAME-N` with the next free N."""
    numbers = [int(m[1]) for f in _runs() if (m := re.fullmatch(rf"{re.escape(name)}-(\d+)", f.name))]
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
