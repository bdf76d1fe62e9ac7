"""Is confidence calibrated on ground that the temperature was not fitted on?

    python benchmarks/calibration.py runs/hills --store hills.zarr --png reliability.png

Each fold's validation tiles are cut into two halves by one line. Thresholds and temperature are chosen on
one, as the end of training does on the whole; the calibration error is the other's, then vice versa.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glacier.model.calibration import BINS, calibration_error, reliability
from glacier.pipeline.split import Tiles, split
from glacier.store.reader import Store
from glacier.train.adjust import best_adjustment
from glacier.train.evaluate import placed, store_of
from glacier.train.folds import is_cross_validation
from glacier.train.ranks import Ranks
from glacier.train.reliability import points
from glacier.train.segmenter import Trained, load_run
from glacier.train.thresholds import sample_scores

ALONE = Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
BEFORE, AFTER, INK = "#c4600c", "#1667b7", "#54606d"


@dataclass(frozen=True, slots=True)
class Held:
    """A half of a fold's tiles, by what was chosen on the other half."""

    temperature: float
    plain: NDArray[np.float64]
    """Reliability (3, BINS) as the network has it: without thresholds, at temperature 1."""
    before: NDArray[np.float64]
    """With thresholds, at temperature 1."""
    after: NDArray[np.float64]
    """With both."""

    def to_json(self) -> dict[str, Any]:
        """Temperature, errors and tables."""
        tables = {"plain": self.plain, "before": self.before, "after": self.after}
        return {
            "temperature": self.temperature,
            **{name: calibration_error(table) for name, table in tables.items()},
            "tables": {name: table.tolist() for name, table in tables.items()},
        }


def halves(store: Store, tiles: Tiles) -> tuple[Tiles, Tiles]:
    """Tiles in two parts of about as many labelled pixels, that share at most one border.

    They are laid in order of scene, then of column from left to right, and cut once.
    """
    origin = store.array("origin")[tiles]
    ordered = tiles[np.lexsort((origin[:, 0], origin[:, 1], store.array("scene")[tiles]))]
    labelled = store.histogram[ordered].sum(axis=(1, 2, 3)).cumsum()
    cut = int(np.searchsorted(labelled, labelled[-1] / 2)) + 1
    return ordered[:cut], ordered[cut:]


def score(run: Trained, store: Store) -> list[Held]:
    """Both halves of the fold that a run held out."""
    plain = run.unadjusted()
    segmenter = placed(plain, store).to(ALONE.device)
    first, second = (
        sample_scores(segmenter, store, half, ALONE, precision=run.config.train.precision)
        for half in halves(store, split(store, run.config.train.fold).val)
    )
    thresholds = run.config.train.thresholds
    return [held(first, second, thresholds=thresholds), held(second, first, thresholds=thresholds)]


def held(fitted: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor], *, thresholds: bool) -> Held:
    """What is chosen on the scores and classes of one half, asked of the other."""
    chosen = best_adjustment(*fitted, ALONE, thresholds=thresholds)
    scores, truth = asked
    shifted = scores + torch.tensor(chosen.thresholds, device=scores.device)
    tables = [
        np.asarray(reliability(truth, shown.softmax(dim=1)).cpu())
        for shown in (scores, shifted, shifted / chosen.temperature)
    ]
    return Held(chosen.temperature, *tables)


def runs_of(folders: list[Path]) -> list[Path]:
    """Runs, and those of each cross-validation."""
    found: list[Path] = []
    for folder in folders:
        found += sorted(folder.glob("fold-*")) if is_cross_validation(folder) else [folder]
    return found


def errors(found: list[list[Held]], what: str) -> NDArray[np.float64]:
    """Of each run: the mean of its halves' calibration errors."""
    return np.array([np.mean([calibration_error(getattr(half, what)) for half in run]) for run in found])


def draw(found: list[list[Held]], path: Path) -> None:
    """Write a PNG: accuracy against confidence over all halves held out, and pixels by confidence."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, sharex=True, figsize=(5.5, 6), height_ratios=(3, 1), layout="constrained"
    )
    above.plot((0, 1), (0, 1), color=INK, linewidth=1, linestyle=":")
    for place, (what, colour) in enumerate((("before", BEFORE), ("after", AFTER))):
        table = np.sum([getattr(half, what) for run in found for half in run], axis=0)
        mean = errors(found, what).mean()
        label = f"{what}, calibration error {100 * mean:.2f} %"
        above.plot(*points(table), "o-", color=colour, label=label)
        left = (np.arange(BINS) + 0.1 + 0.4 * place) / BINS
        below.bar(left, table[0], 0.4 / BINS, align="edge", color=colour)
    above.legend(frameon=False)
    above.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1.01))
    below.set(ylabel="pixels", xlabel="confidence", yscale="log")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    above.set_title(f"{len(found)} runs; fitted on a half of the fold, asked of the other", fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def spread(values: NDArray[np.float64]) -> str:
    """Mean and deviation in percent."""
    more = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{more}"


def main() -> None:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="runs, or folders of a run per fold")
    parser.add_argument("--store", type=Path, help="default: the one each was trained on")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    asked = parser.parse_args()
    print(
        "| calibration error, % | temperatures | of the network | with thresholds | and temperature |\n"
        "|---|---|---|---|---|"
    )
    found, kept = [], {}
    for path in runs_of(asked.runs):
        run = load_run(path)
        found.append(score(run, store_of(run.config, asked.store)))
        kept[str(path)] = [half.to_json() for half in found[-1]]
        cells = [spread(errors(found[-1:], what)) for what in ("plain", "before", "after")]
        fitted = ", ".join(f"{half.temperature:.2f}" for half in found[-1])
        print(f"| {path} | {fitted} | {' | '.join(cells)} |", flush=True)
    cells = [spread(errors(found, what)) for what in ("plain", "before", "after")]
    print(f"| mean ± sd over {len(found)} runs | | {' | '.join(cells)} |")
    if asked.json:
        asked.json.write_text(json.dumps(kept, indent=1) + "\n")
    if asked.png:
        draw(found, asked.png)


if __name__ == "__main__":
    main()
