"""Scores of a segmenter, or of several, over whole tiles: each labelled pixel counted once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.addresses import is_address
from glacier.classes import IGNORE
from glacier.config import Config
from glacier.console import Track, silence, warn
from glacier.errors import GlacierError
from glacier.model.calibration import BINS, calibration_error, reliability
from glacier.model.losses import CombinedLoss
from glacier.model.metrics import Scores, confusion, number_or_none, scores
from glacier.pipeline.batcher import Batch
from glacier.pipeline.inputs import Inputs, places_or_none
from glacier.pipeline.loader import tile_feed
from glacier.pipeline.split import Tiles
from glacier.pipeline.split import split as split_tiles
from glacier.store.footprints import centres
from glacier.store.reader import Store, only_store
from glacier.train.ensemble import Ensemble
from glacier.train.members import Weighting, counted
from glacier.train.precision import mixed
from glacier.train.ranks import Ranks
from glacier.train.segmenter import Segmenter, Trained

Scorer = Segmenter | Ensemble
"""Raw codes -> scores or shares."""
Pixels = Literal["labelled", "all"]
"""Which pixels are compared: those with a label; or all, no data as background, as competitions score."""


def scored_tiles(
    module: Scorer,
    store: Store,
    tiles: Tiles,
    ranks: Ranks,
    *,
    batch: int = 4,
    track: Track = silence,
    precision: str = "auto",
    ask: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Iterator[tuple[Batch, Tensor]]:
    """This rank's share of `tiles`, with what `module` makes of their raw codes (N, C, H, W).

    `ask`: the method of `module` that is called, if another than `forward`.
    """
    mine = tiles[ranks.rank :: ranks.world]
    places = places_of(store, ranks.device) if module.located else None
    with track("evaluate", len(mine)) as done:
        for item in tile_feed(store, mine, batch=batch, device=ranks.device):
            place = None if places is None else places[item.samples["tile"]]
            with torch.inference_mode(), mixed(ranks.device, precision):
                found = (ask or module)(item.image, place)
            yield item, found
            for _ in item.samples:
                done()


def places_of(store: Store, device: torch.device) -> Tensor:
    """Longitude and latitude of each tile (tile, 2), degrees, as a segmenter that is located takes them.

    Raises:
        GlacierError: a scene has no place on the earth.
    """
    return torch.tensor(centres(store), dtype=torch.get_default_dtype(), device=device)


def evaluate_tiles(
    module: Scorer,
    store: Store,
    tiles: Tiles,
    ranks: Ranks,
    *,
    pixels: Pixels = "labelled",
    batch: int = 4,
    track: Track = silence,
    precision: str = "auto",
) -> NDArray[np.int64]:
    """The confusion matrix (C, C) over `tiles`, rows true, summed over ranks.

    Args:
        module: raw codes -> scores or shares; in evaluation mode.
        store: where tiles are read from.
        tiles: which.
        ranks: who shares them.
        pixels: which of them count.
        batch: tiles at a time.
        track: progress.
        precision: as `train.precision`.
    """
    classes = len(store.meta.classes)
    total = torch.zeros(classes, classes, dtype=torch.int64, device=ranks.device)
    scored = scored_tiles(module, store, tiles, ranks, batch=batch, track=track, precision=precision)
    for item, found in scored:
        total += _compare(item, found, store, pixels)
    return np.asarray(ranks.add(total).cpu())


def _compare(item: Batch, found: Tensor, store: Store, pixels: Pixels) -> Tensor:
    """A batch's confusion matrix."""
    prediction, label = found.argmax(dim=1), item.label
    if pixels == "all":
        empty = background(store)
        prediction = prediction.masked_fill(no_data(store, item.image), empty)
        label = label.masked_fill(label == IGNORE, empty)
    return confusion(label, prediction, len(store.meta.classes))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What validation says."""

    matrix: NDArray[np.int64]
    """(C, C), rows true."""
    loss: float
    """Over the labelled pixels."""


def judge(
    segmenter: Segmenter,
    store: Store,
    tiles: Tiles,
    ranks: Ranks,
    loss: CombinedLoss,
    epoch: int,
    *,
    precision: str = "auto",
    track: Track = silence,
) -> Judgement:
    """Confusion matrix and loss over whole tiles."""
    total = torch.zeros(loss.classes, loss.classes, dtype=torch.int64, device=ranks.device)
    sums: list[Tensor] = []
    weight = torch.zeros(len(loss.weights), dtype=torch.float64, device=ranks.device)
    for item, found in scored_tiles(segmenter, store, tiles, ranks, track=track, precision=precision):
        total += confusion(item.label, found.argmax(dim=1), loss.classes)
        target = loss.target(item.label)
        new = loss.sums(found, target)
        sums = [old + s for old, s in zip(sums, new, strict=True)] if sums else new
        weight += loss.weight(target)
    if not sums:  # fewer tiles than ranks
        blank = loss.target(torch.full((1, 32, 32), IGNORE, dtype=torch.uint8, device=ranks.device))
        sums = loss.sums(torch.zeros(1, loss.classes, 32, 32, device=ranks.device), blank)
    terms = loss.terms([ranks.add(s) for s in sums], ranks.add(weight))
    return Judgement(np.asarray(ranks.add(total).cpu()), float(loss.combine(terms, epoch)))


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What runs come to on labelled tiles."""

    scores: Scores
    before: NDArray[np.float64]
    """Reliability (3, BINS) of the labelled pixels' shares, as they would be at temperature 1."""
    after: NDArray[np.float64]
    """And as they are."""
    temperatures: list[float]
    """Of each run that counts."""

    @property
    def error_before(self) -> float:
        """The calibration error at temperature 1."""
        return calibration_error(self.before)

    @property
    def error_after(self) -> float:
        """The calibration error."""
        return calibration_error(self.after)

    def to_json(self) -> dict[str, Any]:
        """As `glacier evaluate --json` prints it; NaN becomes null."""
        errors = {
            "before": number_or_none(self.error_before),
            "after": number_or_none(self.error_after),
            "temperatures": self.temperatures,
        }
        return {**self.scores.to_json(), "calibration": errors}


def evaluate_runs(
    runs: Sequence[Trained],
    store: Store,
    split: str,
    ranks: Ranks,
    *,
    pixels: Pixels = "labelled",
    tta: bool = False,
    weights: Weighting = "equal",
    track: Track = silence,
) -> Evaluated:
    """Scores of a run, or of several as one ensemble, on `train`, `val` or `all` tiles of a store.

    How far their confidence is off comes from the same pass, over labelled pixels whatever `pixels` says.

    Raises:
        GlacierError: the store lacks a band of a run, or has other classes; or runs of different folds: one
            has learnt from what another holds out.
        UsageError: by `weights` no run counts.
    """
    tiles = tiles_of(runs, store, split, ranks)
    runs, counts = counted(runs, weights)
    members = [placed(run, store) for run in runs]
    module = Ensemble(members, tta=tta, weights=counts).to(ranks.device).eval()
    names, device = store.meta.class_names, ranks.device
    total = torch.zeros(len(names), len(names), dtype=torch.int64, device=device)
    tables = torch.zeros(2, 3, BINS, dtype=torch.float64, device=device)
    for item, found in scored_tiles(module, store, tiles, ranks, track=track, ask=module.both):
        total += _compare(item, found[0], store, pixels)
        tables += torch.stack([reliability(item.label, shares) for shares in found])
    after, before = np.asarray(ranks.add(tables).cpu())
    rated = scores(np.asarray(ranks.add(total).cpu()), names)
    return Evaluated(rated, before, after, [run.temperature for run in runs])


def tiles_of(runs: Sequence[Trained], store: Store, split: str, ranks: Ranks) -> Tiles:
    """The tiles of a split, as the runs had it."""
    if split == "all":
        return np.arange(len(store))
    folds = sorted({run.config.train.fold for run in runs})
    if len(folds) > 1:
        which = ", ".join(map(str, folds))
        raise GlacierError(
            f"--split {split}: runs of folds {which}; each has learnt from what another holds "
            "out, expected runs of one fold; or score them on another store with --split all"
        )
    if any(store.meta.source != run.source for run in runs) and ranks.main:
        warn(f"{store.path}: not the store the run was trained on; its {split} tiles may be other ground")
    return split_tiles(store, folds[0]).tiles(split)


def placed(run: Trained, store: Store) -> Segmenter:
    """A run's segmenter for the bands of a store, wherever they lie in it.

    Raises:
        GlacierError: the store lacks a band of the run, or has other classes.
    """
    if store.meta.class_names != run.class_names:
        raise GlacierError(
            f"{store.path}: classes {', '.join(store.meta.class_names)}; the run expects "
            f"{', '.join(run.class_names)}; ingest with fitting --classes"
        )
    pick = band_places(store, [band.name for band in run.bands])
    bands = [store.meta.bands[i] for i in pick]
    return run.segmenter(Inputs(bands, run.statistics, places_or_none(pick, len(store.meta.bands))))


def background(store: Store) -> int:
    """The class that competitions give to pixels without data: `background`, else the first."""
    names = store.meta.class_names
    return names.index("background") if "background" in names else 0


def no_data(store: Store, raw: Tensor) -> Tensor:
    """Where all optical bands of raw codes (N, B, H, W) lack data (N, H, W); if none is optical, all."""
    bands = store.meta.bands
    optical = [i for i, band in enumerate(bands) if band.role == "optical"] or list(range(len(bands)))
    part = raw[:, optical]
    if raw.is_floating_point():
        return part.isnan().all(dim=1)
    codes = torch.tensor([bands[i].nodata for i in optical], device=raw.device)
    return (part == codes[:, None, None]).all(dim=1)


def store_of(config: Config, given: Path | str | None) -> Store:
    """The store given, that of the settings if it is still there, or the only one here."""
    own = config.data.store
    there = is_address(own) or (own and Path(own).is_dir())
    return Store(given or (own if there else only_store(Path())))


def band_places(store: Store, names: Sequence[str]) -> list[int]:
    """Where each named band stands in a store's image.

    Raises:
        GlacierError: the store lacks one.
    """
    have = store.meta.band_names
    if missing := [name for name in names if name not in have]:
        raise GlacierError(
            f"{store.path}: no band {missing[0]}; it has {', '.join(have)}; choose with data.bands, or "
            "ingest with --bands"
        )
    return [have.index(name) for name in names]
