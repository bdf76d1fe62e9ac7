"""`last.pt`: a training as it stood after an optimiser step, for another process to go on from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glacier.config import Config
from glacier.errors import GlacierError, UsageError
from glacier.store.reader import Store
from glacier.train.history import Epoch
from glacier.train.segmenter import read_record, write_whole
from glacier.train.trainer import Trainer

LAST = "last.pt"

FREE = {"epochs", "save_steps", "compile"}
"""Of `train`: what may change when a run is resumed."""


def save(
    trainer: Trainer, history: Sequence[Epoch], folder: Path, *, longest: float, finished: bool
) -> None:
    """Write `last.pt`, whole or not at all: by the main rank, after all have called `trainer.look`.

    Args:
        trainer: what is to be saved.
        history: its epochs.
        folder: the run.
        longest: seconds that the longest validation took, for time limits.
        finished: whether nothing is left to do.
    """
    record = {
        "about": about(trainer.config, trainer.store),
        "state": trainer.state_dict(),
        "history": [epoch.to_record() for epoch in history],
        "longest": longest,
        "finished": finished,
    }
    write_whole(record, folder / LAST)


def about(config: Config, store: Store) -> dict[str, Any]:
    """What a checkpoint is of."""
    return {
        "config": config.to_dict(),
        "bands": list(config.data.bands or store.meta.band_names),
        "classes": store.meta.class_names,
    }


def read(folder: Path) -> dict[str, Any]:
    """A run's `last.pt`.

    Raises:
        GlacierError: there is none, or a damaged one.
    """
    path = folder / LAST
    if not path.is_file():
        what = "no checkpoint to go on from in this run" if folder.is_dir() else "no such run"
        raise GlacierError(f"{folder}: {what}, expected {LAST}; start with `glacier train --out {folder}`")
    record = read_record(path)
    if set(record) != {"about", "state", "history", "longest", "finished"}:
        raise GlacierError(f"{path}: not a checkpoint of a training; train again")
    return record


def resumed_config(record: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> Config:
    """The settings to go on with: the run's own, but for those that may change.

    Args:
        record: as from `read`.
        settings: nested tables of what is set anew.
        where: what to call them in errors.

    Raises:
        UsageError: a setting that would make it another run.
    """
    tables: dict[str, Any] = {name: dict(table) for name, table in record["about"]["config"].items()}
    for section, table in settings.items():
        for key, value in table.items():
            if (section, key) != ("data", "store") and not (section == "train" and key in FREE):
                kept = tables.get(section, {}).get(key)
                if (list(kept) if isinstance(kept, tuple) else kept) == value:
                    continue
                raise UsageError(
                    f"{where}: {section}.{key} = {value!r}, but the run to be resumed has {kept!r}; "
                    "expected it as it was (of train, epochs, save_steps and compile may change), or a new "
                    "run with --init"
                )
            tables[section][key] = value
    return Config.from_dict(tables, where)


def check(record: Mapping[str, Any], config: Config, store: Store, where: Path) -> None:
    """Whether a checkpoint is of what is to be trained.

    Raises:
        GlacierError: it is of other bands or classes, or of another network.
    """
    then, now = record["about"], about(config, store)
    for key in ("bands", "classes"):
        if then[key] != now[key]:
            raise GlacierError(
                f"{where}: a checkpoint of the {key} {', '.join(then[key])}; the store gives "
                f"{', '.join(now[key])}; expected the store it was trained on, or use --init"
            )
    for key in ("model", "inputs"):
        old, new = then["config"][key], now["config"][key]
        if old != new:
            raise GlacierError(f"{where}: a checkpoint of {key} {old}; found {new}, expected the same")


def restore(trainer: Trainer, record: Mapping[str, Any]) -> list[Epoch]:
    """Put a trainer where `last.pt` was taken; the history until then.

    Raises:
        UsageError: it is of another order of samples.
    """
    trainer.load_state_dict(record["state"])
    return [Epoch.from_record(epoch) for epoch in record["history"]]
