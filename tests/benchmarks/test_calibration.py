"""What the benchmark of confidence says is held out is held out, and what it fits is found again."""

import numpy as np
import torch

from benchmarks.calibration import draw, errors, halves, held, runs_of, score
from glacier.config import Config, shipped
from glacier.model.calibration import calibration_error
from glacier.pipeline.split import split
from glacier.train.folds import SETTINGS
from glacier.train.ranks import Ranks
from glacier.train.trainer import Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_halves_are_all_of_the_tiles_cut_once(store):
    tiles = split(store, 0).val
    first, second = halves(store, tiles)
    assert sorted([*first, *second]) == sorted(tiles)
    scene, column = store.array("scene"), store.array("origin")[:, 1]
    one, two = ([(scene[t], column[t]) for t in half] for half in (first, second))
    assert max(one) <= min(two)
    labelled = [store.histogram[half].sum() for half in (first, second)]
    most = store.histogram[tiles].sum(axis=(1, 2, 3)).max()
    assert abs(int(labelled[0]) - int(labelled[1])) <= 2 * most


def drawn_at(temperature, seed, count=20_000):
    """Scores, and classes as often as their shares at that temperature say."""
    scores = 3 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    shares = (scores / temperature).softmax(dim=1)
    return scores, shares.multinomial(1, generator=torch.Generator().manual_seed(seed))[:, 0]


def test_the_other_half_is_judged_by_what_one_half_asked_for():
    found = held(drawn_at(1.8, 0), drawn_at(1.8, 1), thresholds=False)
    assert abs(found.temperature - 1.8) < 0.05
    assert calibration_error(found.after) < 0.02 < 0.1 < calibration_error(found.before)
    np.testing.assert_array_equal(found.plain, found.before)
    worse = held(drawn_at(0.4, 0), drawn_at(1.8, 1), thresholds=False)
    assert calibration_error(worse.after) > calibration_error(worse.before)


def test_runs_are_scored_and_drawn(store, tmp_path):
    """An untrained one."""
    settings = Config.load(shipped("demo"), ["data.patch=64", "train.batch=4", "train.thresholds=false"])
    run = Trainer(settings, store, ALONE).trained(0, 0.0)
    found = [score(run, store)]
    pixels = store.histogram[split(store, 0).val].sum()
    assert sum(half.after[0].sum() for half in found[0]) == pixels
    assert errors(found, "after").shape == (1,)
    assert set(found[0][0].to_json()) == {"temperature", "plain", "before", "after", "tables"}
    draw(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_cross_validation_stands_for_its_runs(tmp_path):
    for name in ("cv/fold-1", "cv/fold-0", "single"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cv" / SETTINGS).touch()
    found = runs_of([tmp_path / "cv", tmp_path / "single"])
    assert found == [tmp_path / name for name in ("cv/fold-0", "cv/fold-1", "single")]
