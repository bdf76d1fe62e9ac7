"""`glacier report`: what a run came to, gathered for its page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glacier import console
from glacier.classes import IGNORE
from glacier.errors import GlacierError
from glacier.model.calibration import calibration_error, reliability
from glacier.model.metrics import confusion, scores
from glacier.pictures import Picture, class_colours
from glacier.store.look import tile_picture
from glacier.store.reader import Store
from glacier.train.ensemble import Ensemble
from glacier.train.evaluate import placed, scored_tiles, store_of, tiles_of
from glacier.train.page import Page, ShownTile, render
from glacier.train.ranks import Ranks
from glacier.train.report import number, percent
from glacier.train.segmenter import Segmenter, Trained, load_run
from glacier.train.whole import write_text_whole

SHOWN = 4
"""Tiles that went worst, and best."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A validation tile."""

    tile: int
    mcc: float
    matrix: NDArray[np.int64]
    reliability: NDArray[np.float64]
    """Of its shares, and of those at temperature 1 (2, 3, BINS)."""


def write_report(run: Path, html: Path | None, store: Path | str | None) -> Path:
    """Write the page about a run; where it lies.

    Raises:
        GlacierError: no such run, or no store that fits it.
    """
    trained, history = load_run(run), read_history(run)
    opened = store_of(trained.config, store)
    alone = Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    tiles = tiles_of([trained], opened, "val", alone)
    segmenter = placed(trained, opened).to(alone.device)
    rated = rate_tiles(segmenter, opened, tiles, alone)
    worst, best = worst_and_best(rated)
    maps = mapped(segmenter, opened, sorted({one.tile for one in (*worst, *best)}), alone)
    path = html or run / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = gather(
        run,
        trained,
        opened,
        history,
        rated,
        worst=[shown(one, opened, maps[one.tile]) for one in worst],
        best=[shown(one, opened, maps[one.tile]) for one in best],
    )
    write_text_whole(path, render(page))
    return path


def read_history(run: Path) -> list[dict[str, Any]]:
    """A run's epochs.

    Raises:
        GlacierError: none are there.
    """
    path = run / "history.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise GlacierError(f"{path}: cannot be read, expected a line per epoch; is {run} a run?") from error
    if not lines:
        raise GlacierError(f"{path}: no epoch in it; let the training go on first")
    return lines


def rate_tiles(segmenter: Segmenter, store: Store, tiles: NDArray[np.int64], ranks: Ranks) -> list[Rated]:
    """Each tile's own confusion matrix, and how often its shares are right."""
    names, rated, alone = store.meta.class_names, [], Ensemble([segmenter]).eval()
    for item, both in scored_tiles(alone, store, tiles, ranks, track=console.bar, ask=alone.both):
        for place, sample in enumerate(item.samples):
            label, shares = item.label[place : place + 1], both[:, place : place + 1]
            matrix = np.asarray(confusion(label, shares[0].argmax(dim=1), len(names)).cpu())
            tables = torch.stack([reliability(label, each) for each in shares])
            mcc = scores(matrix, names).mcc
            rated.append(Rated(int(sample["tile"]), mcc, matrix, np.asarray(tables.cpu())))
    return rated


def worst_and_best(rated: Sequence[Rated]) -> tuple[list[Rated], list[Rated]]:
    """`SHOWN` tiles of the lowest MCC and of the highest, among those whose labels hold several classes."""
    several = [one for one in rated if np.count_nonzero(one.matrix.sum(axis=1)) > 1] or list(rated)
    ordered = sorted(several, key=lambda one: one.mcc)
    return ordered[:SHOWN], ordered[::-1][:SHOWN]


def mapped(segmenter: Segmenter, store: Store, tiles: Sequence[int], ranks: Ranks) -> dict[int, Picture]:
    """Each tile's map in the colours of its classes; dark where nothing is labelled."""
    pictures = {}
    for item, scored in scored_tiles(segmenter, store, np.array(tiles), ranks):
        found = (
            torch.where(item.label == IGNORE, IGNORE, scored.argmax(dim=1)).to(torch.uint8).cpu().numpy()
        )
        for sample, one in zip(item.samples, found, strict=True):
            pictures[int(sample["tile"])] = class_colours(one, store.meta.classes)
    return pictures


def gather(
    run: Path,
    trained: Trained,
    store: Store,
    history: Sequence[dict[str, Any]],
    rated: Sequence[Rated],
    *,
    worst: Sequence[ShownTile],
    best: Sequence[ShownTile],
) -> Page:
    """Everything the page shows."""
    matrix = np.sum([one.matrix for one in rated], axis=0)
    total, fold = scores(matrix, trained.class_names), trained.config.train.fold
    after, before = np.sum([one.reliability for one in rated], axis=0)
    error, plain = percent(calibration_error(after)), percent(calibration_error(before))
    speed = float(np.median([e["tiles_per_s"] for e in history]))
    wait = float(np.median([e["wait"] for e in history]))
    facts = [
        ("MCC", number(total.mcc)),
        ("mean IoU", number(total.mean_iou)),
        ("calibration error", f"{plain} → {error}"),
        ("best epoch", f"{trained.epoch} of {len(history)}"),
        ("tiles/s in training", f"{speed:.1f}"),
        ("waiting for data", f"{100 * wait:.1f} %"),
        ("labelled pixels", f"{total.pixels:,}"),
        ("tiles held out", f"{len(rated)}"),
    ]
    named = zip(trained.class_names, trained.prior, trained.thresholds, strict=True)
    offsets = ", ".join(f"{name} {prior:+.2f} {extra:+.2f}" for name, prior, extra in named)
    notes = [
        f"Scores are over the labelled pixels of fold {fold} of {store.name}, which was held out from "
        "training; the best epoch, thresholds and temperature were chosen on it, so expect less elsewhere.",
        f"Curves are without thresholds: with those of the best epoch its MCC went from "
        f"{number(trained.mcc)} to {number(total.mcc)}.",
        f"Added to each class's score, for the prior and as threshold: {offsets}.",
        f"Scores are then divided by the temperature {trained.temperature:.2f}. No class changes by "
        f"that, but how sure the map is of it: that is off by {error} on average, and was by {plain}.",
        "Tiles are ordered by their own MCC, among those whose labels hold more than one class.",
    ]
    return Page(
        title=run.resolve().name,
        facts=facts,
        notes=notes,
        history=history,
        classes=trained.classes,
        confusion=matrix,
        scores=total,
        before=before,
        after=after,
        worst=worst,
        best=best,
        settings=trained.config.to_toml(),
    )


def shown(one: Rated, store: Store, prediction: Picture) -> ShownTile:
    """A tile's pictures, and where it lies."""
    scene = store.scene_names[int(store.array("scene")[one.tile])]
    row, column = store.array("origin")[one.tile].tolist()
    return ShownTile(
        caption=f"{scene}, row {row}, column {column} · MCC {number(one.mcc)}",
        image=tile_picture(store, one.tile),
        label=class_colours(store.label(one.tile), store.meta.classes),
        prediction=prediction,
    )
