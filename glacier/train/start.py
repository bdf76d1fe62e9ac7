"""What `glacier train` does before and after the training itself: settings, store, run folder."""

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glacier import console
from glacier.config import Config, parse_settings, shipped
from glacier.errors import GlacierError, UsageError
from glacier.store.reader import Store, only_store
from glacier.train import checkpoint, folds
from glacier.train.evaluate import store_of
from glacier.train.history import Epoch, best_of
from glacier.train.loop import train
from glacier.train.nodes import open_same, runs_from_main
from glacier.train.ranks import Ranks, join_ranks
from glacier.train.segmenter import CHECKPOINT, load_run
from glacier.train.stop import Stop

RUNS = Path("runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `glacier train` is asked for."""

    config: Path | None = None
    """TOML, or the name of a shipped configuration."""
    store: Path | str | None = None
    out: Path | None = None
    fold: int | str | None = None
    """The fold held out, or `all`: one run after the other."""
    settings: tuple[str, ...] = ()
    """section.key=value"""
    resume: Path | str | None = None
    """A run to go on with; an empty text for the newest."""
    init: Path | None = None
    """A run, or an exported file, to start from."""
    limit: float | None = None
    """Seconds until it has to be saved."""


def start_training(request: Request) -> Path:
    """Train a run, or one per fold; its folder.

    Raises:
        UsageError: settings that cannot be read or do not fit.
        GlacierError: no store, or a run that stands in the way.
    """
    with Stop(request.limit) as stop, join_ranks() as ranks:
        begun = ranks.from_main(
            lambda: _begin(request) if request.resume is None else _begin_again(request)
        )
        return (_resume if begun["goes on"] else _start)(request, begun, ranks, stop)


def _start(request: Request, begun: dict[str, Any], ranks: Ranks, stop: Stop) -> Path:
    """Train what rank 0 has begun: of another rank's request only the store counts."""
    config = Config.from_dict(begun["config"], "rank 0's settings")
    store = open_same(ranks, lambda: Store(request.store or config.data.store))
    init = runs_from_main(ranks, lambda: [load_run(request.init)] if request.init else [])
    folder = Path(ranks.from_main(lambda: {"folder": str(_made(request.out, begun["name"]))})["folder"])
    if ranks.main:
        console.note(
            f"{store.path}: {len(store)} tiles; {begun['why']}; {ranks.world} x {ranks.device.type}"
        )
        console.note(config.to_toml())
    if begun["all folds"]:
        folds.train_folds(config, store, folder, ranks, stop, *init)
        return folder
    history = train(config, store, folder, ranks, console.bar, init=next(iter(init), None), stop=stop)
    _say(folder, config, history, ranks)
    return folder


def _begin(request: Request) -> dict[str, Any]:
    """Settings, where they are from, and what a folder for the run is called."""
    config, name, why = _resolved(request)
    out = request.out
    if out and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise GlacierError(f"{out}: exists; give a new folder with --out, or go on with --resume {out}")
    about = {"config": config.to_dict(), "name": Path(name).stem, "why": why}
    return {"goes on": False, "all folds": request.fold == "all", **about}


def _made(out: Path | None, name: str) -> Path:
    """The run's folder: the one asked for, or a new one."""
    if out is None:
        return new_run(name)
    out.mkdir(parents=True, exist_ok=True)
    return out


def _resolved(request: Request) -> tuple[Config, str, str]:
    """Settings, the store's name, and where the settings are from."""
    default = "hkh_pretrain" if torch.cuda.is_available() else "demo"
    one = request.fold is not None and request.fold != "all"
    given = [*request.settings, *([f"train.fold={request.fold}"] if one else [])]
    config = Config.load(found(request.config) if request.config else shipped(default), given)
    with Store(request.store or config.data.store or only_store(Path())) as store:
        config = config.replaced("data", store=str(store.path))
        if request.config is None:
            config = _fitted(config, store, parse_settings(given))
    return config, store.name, f"the {default} settings" if request.config is None else str(request.config)


def _fitted(config: Config, store: Store, given: Mapping[str, Any]) -> Config:
    """Shipped settings for what a store holds, where nothing else was asked for."""
    if config.data.patch > store.meta.tile_size:
        config = config.replaced("data", patch=store.meta.tile_size)
    names = set(store.meta.class_names)
    if not names <= set(config.data.target) and "target" not in given.get("data", {}):
        config = config.replaced("data", target={})
    return config


def _resume(request: Request, begun: dict[str, Any], ranks: Ranks, stop: Stop) -> Path:
    """Go on with a run; in a new folder, if one is given."""
    folder, record = Path(begun["folder"]), begun["record"]
    config = Config.from_dict(begun["config"], "rank 0's settings")
    store = open_same(ranks, lambda: store_of(config, request.store))
    config = config.replaced("data", store=str(store.path))
    if begun["all folds"]:
        folds.train_folds(config, store, folder, ranks, stop)
        return folder
    if ranks.main:
        done, step = len(record["history"]), record["state"]["loader"]["step"]
        console.note(f"{folder}: goes on after {done} of {config.train.epochs} epochs and {step} steps")
    _say(folder, config, train(config, store, folder, ranks, console.bar, resume=record, stop=stop), ranks)
    return folder


def _begin_again(request: Request) -> dict[str, Any]:
    """The run to go on with, where it is to be, its settings, and what is known of it."""
    if request.config or request.init:
        raise UsageError("--resume goes on with a run's own settings; leave out --config and --init")
    source = Path(request.resume) if request.resume else newest_run(checkpoint.LAST)
    folder = request.out or source
    if folder.resolve() != source.resolve():
        _copy(source, folder)
    every = folds.is_cross_validation(folder)
    if every and request.fold not in (None, "all"):
        raise UsageError(
            f"--fold {request.fold}: {folder} holds all folds; leave it out, or resume one of them"
        )
    if not every and request.fold is not None:
        raise UsageError("--resume goes on with a run's own fold; leave out --fold")
    record = {"about": {"config": folds.read_config(folder)}} if every else checkpoint.read(folder)
    config = checkpoint.resumed_config(record, parse_settings(request.settings), "--resume")
    about = {"folder": str(folder), "config": config.to_dict(), "record": None if every else record}
    return {"goes on": True, "all folds": every, **about}


def _copy(source: Path, folder: Path) -> None:
    """A run from a place that cannot be written to."""
    if folder.exists() and any(folder.iterdir()):
        raise GlacierError(f"{folder}: exists; give a new folder with --out")
    if not source.is_dir():
        raise GlacierError(f"{source}: no such run to resume")
    shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)


def _say(folder: Path, config: Config, history: list[Epoch], ranks: Ranks) -> None:
    """How it ended."""
    if not ranks.main:
        return
    if len(history) < config.train.epochs:
        console.note(
            f"{folder}: stopped after {len(history)} of {config.train.epochs} epochs and saved; go on with "
            f"`glacier train --resume {folder}`"
        )
        return
    best = history[best_of(history)]
    console.note(
        f"{folder / CHECKPOINT}: epoch {best.epoch}, MCC {best.scores.mcc:.3f} on fold "
        f"{config.train.fold}; score it with `glacier evaluate {folder}`, see it with "
        f"`glacier report {folder}`, map with `glacier predict {folder} SCENES OUT`"
    )


def found(config: Path) -> Path:
    """A file, or one of the package's by its name."""
    own = shipped(config.name)
    return own if config.parent == Path() and not config.is_file() and own.is_file() else config


def new_run(name: str) -> Path:
    """Make `runs/NAME-N` with the next free N."""
    RUNS.mkdir(exist_ok=True)
    while True:
        numbers = [
            int(m[1]) for f in RUNS.iterdir() if (m := re.fullmatch(rf"{re.escape(name)}-(\d+)", f.name))
        ]
        folder = RUNS / f"{name}-{max(numbers, default=0) + 1}"
        with suppress(FileExistsError):  # another training's, by now
            folder.mkdir()
            return folder


def newest_run(file: str = CHECKPOINT) -> Path:
    """The run whose checkpoint `file` is the newest; to be resumed, all its folds if it is one of several.

    Raises:
        GlacierError: there is none.
    """
    runs = list(RUNS.glob(f"**/{file}")) if RUNS.is_dir() else []
    if not runs:
        raise GlacierError(f"{RUNS}/: no run with a checkpoint ({file}); train one with `glacier train`")
    run = max(runs, key=lambda path: path.stat().st_mtime).parent
    whole = file == checkpoint.LAST and folds.is_cross_validation(run.parent)
    return run.parent if whole else run
