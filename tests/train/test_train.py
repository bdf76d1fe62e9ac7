"""Training runs: what they write, what two ranks do, what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.train.evaluate import evaluate_run, evaluate_tiles
from glacier.train.history import best_of
from glacier.train.loop import Trainer, train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import CHECKPOINT, load_run
from tests.helpers import make_store, write_scene

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = ["data.patch=64", "train.batch=4", "train.samples_per_epoch=16", "train.epochs=2"]


def config(*settings):
    return Config.load(shipped("demo"), [*SMALL, *settings])


@pytest.fixture(scope="module")
def run(store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    train(config(), store, out, ALONE)
    return out


def test_a_run_holds_its_settings_history_and_best_weights(run):
    assert Config.load(run / "config.toml") == config()
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    assert all(len(epoch["losses"]) == 4 for epoch in history)
    trained = load_run(run)
    best = max(history, key=lambda epoch: epoch["scores"]["mcc"])
    assert (trained.epoch, trained.mcc) == (best["epoch"], best["scores"]["mcc"])
    assert sorted(f.name for f in run.iterdir()) == [CHECKPOINT, "config.toml", "history.jsonl"]


def test_the_loss_falls(store, tmp_path):
    history = train(config("train.epochs=6"), store, tmp_path / "run", ALONE)
    assert history[-1].loss < 0.8 * history[0].loss


def test_the_same_seed_gives_the_same_run(store, run, tmp_path):
    again = train(config(), store, tmp_path / "again", ALONE)
    first = [json.loads(line)["losses"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert [epoch.losses for epoch in again] == first


def test_evaluation_gives_the_score_the_checkpoint_was_kept_for(store, run):
    trained = load_run(run)
    rated = evaluate_run(trained, store, "val", ALONE)
    assert rated.mcc == pytest.approx(trained.mcc, abs=1e-6)


def test_every_labelled_pixel_is_counted_once(store, run):
    segmenter = load_run(run).segmenter()
    tiles = np.array([3, 8, 21])
    matrix = evaluate_tiles(segmenter, store, tiles, ALONE, batch=2)
    np.testing.assert_array_equal(matrix.sum(axis=1), store.histogram[tiles].sum(axis=(0, 1, 2)))


def test_a_store_packed_otherwise_gives_the_same_score(store, run, mountains, tmp_path):
    """Raw codes differ, physical values do not, nor does the order of bands matter."""
    order = "thermal,glcm_contrast,glcm_homogeneity,swir1,red,green,blue"
    other = make_store(mountains, tmp_path / "f.zarr", tile_size=64, dtype="float32", bands=order)
    assert other.meta.band_names == order.split(",")
    trained = load_run(run)
    one, two = (evaluate_run(trained, s, "val", ALONE) for s in (store, other))
    assert two.mcc == pytest.approx(one.mcc, abs=2e-3)


def test_a_selection_of_bands_trains_and_scores(store, tmp_path):
    train(config('data.bands=["thermal","blue"]', "train.epochs=1"), store, tmp_path / "two", ALONE)
    trained = load_run(tmp_path / "two")
    assert [band.name for band in trained.bands] == ["thermal", "blue"]
    assert evaluate_run(trained, store, "val", ALONE).mcc == pytest.approx(trained.mcc, abs=1e-6)


def test_frozen_batch_norm_keeps_its_statistics(store):
    trainer = Trainer(config("train.freeze_norm=true", "train.epochs=1"), store, ALONE)
    before = {k: v.clone() for k, v in trainer.segmenter.network.named_buffers()}
    trainer.epoch(1, lambda what, total: __import__("contextlib").nullcontext(lambda: None))
    assert all(torch.equal(v, before[k]) for k, v in trainer.segmenter.network.named_buffers())


PROGRAM = """
import json, sys, numpy as np, torch
from pathlib import Path
torch.cuda.is_available = lambda: False
torch.set_default_dtype(torch.float64)
from glacier.config import Config, shipped
from glacier.store.reader import Store
from glacier.train.evaluate import evaluate_tiles
from glacier.train.loop import Trainer
from glacier.train.ranks import join_ranks

config = Config.load(shipped("demo"), sys.argv[3:])
with join_ranks() as ranks:
    trainer = Trainer(config, Store(sys.argv[1]), ranks)
    trainer._train_mode()
    losses = [float(trainer.step(batch)) for batch in trainer.loader]
    ranks.agree(trainer.segmenter)
    matrix = evaluate_tiles(trainer.segmenter, trainer.store, np.arange(7), ranks)
    if ranks.main:
        Path(sys.argv[2]).write_text(json.dumps([losses, matrix.tolist()]))
"""


def train_by(ranks: int, store, folder: Path) -> tuple[list[float], list[list[int]]]:
    """20 losses of a training by real processes, in double precision; then the scores of 7 tiles."""
    program, out = folder / "program.py", folder / f"{ranks}.json"
    program.write_text(PROGRAM)
    settings = ["data.patch=64", "train.batch=8", "train.samples_per_epoch=160", "train.freeze_norm=true"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [sys.executable, *launch, str(program), str(store.path), str(out), *settings]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(out.read_text())


def test_two_ranks_train_as_one(store, tmp_path):
    """In double precision, so that a wrong reduction cannot hide in rounding that training amplifies."""
    (one, matrix_of_one), (two, matrix_of_two) = (train_by(ranks, store, tmp_path) for ranks in (1, 2))
    assert len(one) == 20
    np.testing.assert_allclose(two, one, rtol=1e-9)
    np.testing.assert_array_equal(matrix_of_two, matrix_of_one)
    assert np.sum(matrix_of_one) == store.histogram[:7].sum()


def test_a_loss_that_is_no_number_ends_the_run(store, tmp_path):
    with pytest.raises(GlacierError, match=r"epoch \d: the loss is no number; try a smaller train.lr"):
        train(config("train.lr=1e30"), store, tmp_path / "run", ALONE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: None, "no such run"),
        (lambda f: f.mkdir(), "no checkpoint in this run"),
        (
            lambda f: (f.mkdir(), (f / CHECKPOINT).write_bytes(b"PK\3\4 not much")),
            "not a readable checkpoint",
        ),
        (lambda f: (f.mkdir(), torch.save({"config": {}}, f / CHECKPOINT)), "not a readable checkpoint"),
        (lambda f: (f.mkdir(), torch.save(Path("/"), f / CHECKPOINT)), "not a readable checkpoint"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, make, words):
    folder = tmp_path / "run"
    make(folder)
    with pytest.raises(GlacierError, match=words):
        load_run(folder)


def test_a_store_with_other_classes_or_bands_is_refused(run, tmp_path):
    trained = load_run(run)
    source = write_scene(tmp_path / "in", "s", size=160)
    other = make_store(source, tmp_path / "s.zarr", tile_size=32, classes="0=a,1=b")
    with pytest.raises(GlacierError, match="classes a, b; the run expects background, glacier"):
        evaluate_run(trained, other, "val", ALONE)
    named = "0=background,1=glacier,2=debris,3=lake"
    other = make_store(source, tmp_path / "t.zarr", tile_size=32, classes=named)
    with pytest.raises(GlacierError, match="no band blue; it has red, nir"):
        evaluate_run(trained, other, "val", ALONE)


def test_of_equal_epochs_the_last_is_the_best():
    from types import SimpleNamespace

    history = [SimpleNamespace(scores=SimpleNamespace(mcc=mcc)) for mcc in (0.0, 0.3, 0.3, 0.1)]
    assert best_of(history) == 2
