"""Runs that are asked together: what each counts, and that networks of any kind go together."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyproj import Transformer
from sklearn.metrics import matthews_corrcoef

from glacier.errors import UsageError
from glacier.train.evaluate import placed
from glacier.train.members import gather, weights_of
from glacier.train.segmenter import load_run
from tests.helpers import cut_tile, make_store, one_line, untrained

GLAVITU = ['model.arch="glavitu"', "data.patch=32"]


@pytest.fixture(scope="module")
def small(mountains, tmp_path_factory):
    """Four tiles of 32 px."""
    folder = tmp_path_factory.mktemp("small")
    source = cut_tile(mountains, "00_01", folder / "in", size=64)
    classes = "0=background,85=glacier,170=debris,255=lake"
    return make_store(source, folder / "small.zarr", tile_size=32, folds=2, classes=classes)


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """A U-Net, GlaViTU, and one that is told where windows lie; of different bands, windows and MCC."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "unet": (0.6, ["data.patch=64"]),
        "glavitu": (0.2, [*GLAVITU, 'data.bands=["thermal", "blue"]']),
        "located": (0.4, [*GLAVITU, "model.location=true", 'data.bands=["swir1"]']),
    }
    return [
        untrained(store, folder / name, *given, mcc=mcc, temperature=1.5, thresholds=(0.0, 0.5, 1.0, 0.2))
        for name, (mcc, given) in settings.items()
    ]


@pytest.mark.parametrize(
    ("mcc", "weighting", "expected"),
    [
        ([0.6, 0.2], "equal", [0.5, 0.5]),
        ([-0.6, 0.0, math.nan], "equal", [1 / 3] * 3),
        ([0.6, 0.2], "mcc", [0.75, 0.25]),
        ([0.5], "mcc", [1]),
        ([0.6, -0.2, 0.2, 0, math.nan], "mcc", [0.75, 0, 0.25, 0, 0]),
    ],
)
def test_runs_count_the_same_or_by_their_mcc(runs, mcc, weighting, expected):
    run = load_run(runs[0])
    assert weights_of([replace(run, mcc=m) for m in mcc], weighting) == pytest.approx(expected)


def test_runs_that_count_nothing_are_not_asked(runs):
    """So neither are their bands, nor where windows lie."""
    few, worst = load_run(runs[1]), replace(load_run(runs[2]), mcc=-0.1)
    members = gather([few, worst], weighting="mcc")
    assert members.runs == (few,)
    assert members.weights == (1.0,)
    assert [band.name for band in members.bands] == ["thermal", "blue"]
    assert not members.located


def test_runs_that_learnt_nothing_do_not_count(runs):
    run = load_run(runs[0])
    bad = [replace(run, mcc=m) for m in (0.0, -0.25)]
    with pytest.raises(UsageError, match=r"MCC of 0\.000, -0\.250, expected one above 0"):
        weights_of(bad, "mcc")
    assert gather(bad).weights == (0.5, 0.5)


def test_what_runs_count_tells_ensembles_apart(runs):
    two = [load_run(path) for path in runs[:2]]
    digests = [gather(two, weighting=weighting).digest() for weighting in ("equal", "mcc", "equal")]
    assert digests[0] == digests[2] != digests[1]
    alone = [gather(two[:1], weighting=weighting).digest() for weighting in ("equal", "mcc")]
    assert alone[0] == alone[1]


def test_networks_of_any_kind_are_scored_together(call, runs, small):
    """By hand: the mean of their softmax by weight, each told its tiles' centres by pyproj."""
    result = call("evaluate", *runs, "--store", small.path, "--split", "all", "--weights", "mcc", "--json")
    assert result.exit_code == 0, result.output
    members = [placed(load_run(path), small) for path in runs]
    (crs,) = small.meta.crs
    degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    truth, found = [], []
    for tile in range(len(small)):
        raw = torch.from_numpy(small.image(tile)).permute(2, 0, 1)[None]
        a, b, c, d, e, f = small.array("transform")[tile]
        place = degrees.transform(a * 16 + b * 16 + c, d * 16 + e * 16 + f)
        with torch.inference_mode():
            each = [member(raw, torch.tensor([place]).float()).softmax(dim=1)[0] for member in members]
        mean = (0.6 * each[0] + 0.2 * each[1] + 0.4 * each[2]).numpy()
        truth.append(small.label(tile).ravel())
        found.append(mean.argmax(axis=0).ravel())
    truth, found = np.concatenate(truth), np.concatenate(found)
    said = json.loads(result.stdout)
    assert said["weights"] == "mcc"
    assert said["mcc"] == pytest.approx(matthews_corrcoef(truth[truth < 255], found[truth < 255]), abs=1e-9)


def test_a_run_that_learnt_nothing_is_one_line(call, runs, small, tmp_path):
    replace(load_run(runs[1]), mcc=-0.1).save(tmp_path)
    words = ["evaluate", tmp_path, "--store", small.path, "--split", "all", "--weights", "mcc"]
    line = one_line(call(*words), 2)
    assert "MCC of -0.100" in line
