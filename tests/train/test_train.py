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
from glacier.model.losses import TERMS
from glacier.train.checkpoint import LAST
from glacier.train.evaluate import evaluate_runs, evaluate_tiles
from glacier.train.history import best_of
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import CHECKPOINT, load_run
from glacier.train.trainer import Trainer
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
    events = [f.name for f in run.glob("events.out.tfevents.*")]
    assert len(events) == 1
    names = sorted(f.name for f in run.iterdir())
    assert names == [CHECKPOINT, "config.toml", *events, "history.jsonl", LAST]


def test_the_loss_falls(store, tmp_path):
    history = train(config("train.epochs=6"), store, tmp_path / "run", ALONE)
    assert history[-1].loss < 0.8 * history[0].loss


def test_the_same_seed_gives_the_same_run(store, run, tmp_path):
    again = train(config(), store, tmp_path / "again", ALONE)
    first = [json.loads(line)["losses"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert [epoch.losses for epoch in again] == first


def test_evaluation_gives_the_score_the_checkpoint_was_kept_for(store, run):
    trained = load_run(run)
    plain = trained.unadjusted()
    assert evaluate_runs([plain], store, "val", ALONE).scores.mcc == pytest.approx(trained.mcc, abs=1e-6)
    assert evaluate_runs([trained], store, "val", ALONE).scores.mcc >= trained.mcc - 1e-6


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
    one, two = (evaluate_runs([trained], s, "val", ALONE) for s in (store, other))
    assert two.scores.mcc == pytest.approx(one.scores.mcc, abs=2e-3)


def test_a_selection_of_bands_trains_and_scores(store, tmp_path):
    train(config('data.bands=["thermal","blue"]', "train.epochs=1"), store, tmp_path / "two", ALONE)
    trained = load_run(tmp_path / "two")
    assert [band.name for band in trained.bands] == ["thermal", "blue"]
    plain = trained.unadjusted()
    assert evaluate_runs([plain], store, "val", ALONE).scores.mcc == pytest.approx(trained.mcc, abs=1e-6)


def test_frozen_batch_norm_keeps_its_statistics(store):
    trainer = Trainer(config("train.freeze_norm=true", "train.epochs=1"), store, ALONE)
    before = {k: v.clone() for k, v in trainer.segmenter.network.named_buffers()}
    list(trainer.train(lambda: None))
    assert all(torch.equal(v, before[k]) for k, v in trainer.segmenter.network.named_buffers())


PROGRAM = """
import json, sys, numpy as np, torch
from pathlib import Path
torch.cuda.is_available = lambda: False
torch.set_default_dtype(torch.float64)
from glacier.config import Config, shipped
from glacier.model import glavitu
from glacier.store.reader import Store
from glacier.train.evaluate import judge
from glacier.train.ranks import join_ranks
from glacier.train.trainer import Trainer

glavitu.DROPOUT = 0.0  # each rank draws its own

def scores(ranks, cases, settings):  # whose reducers are gone before the ranks part
    found = {}
    for name, own in cases.items():
        config = Config.load(shipped("demo"), [*settings, *own])
        trainer = Trainer(config, store, ranks)
        list(trainer.train(lambda: None))
        rated = judge(trainer.judged(0), store, np.arange(7), ranks, trainer.loss, 0)
        found[name] = [trainer.losses, rated.loss, rated.matrix.tolist()]
    return found

store = Store(sys.argv[1])
with join_ranks() as ranks:
    found = scores(ranks, json.loads(sys.argv[3]), sys.argv[4:])
    if ranks.main:
        Path(sys.argv[2]).write_text(json.dumps(found))
"""

EXACT = ["data.patch=32", "train.freeze_norm=true", "train.samples_per_epoch=160", "data.brightness=0"]
EXACT += ["data.contrast=0", "train.lr=2e-5"]


def train_by(ranks: int, store, folder: Path, cases: dict[str, list[str]], *settings) -> dict:
    """Losses by real processes, in double precision, of settings by name; then scores of 7 tiles."""
    program, out = folder / "program.py", folder / f"{ranks}.json"
    program.write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [sys.executable, *launch, str(program), str(store.path), str(out), json.dumps(cases)]
    subprocess.run([*command, *EXACT, *settings], check=True, capture_output=True)
    return json.loads(out.read_text())


def alone(terms) -> dict[str, list[str]]:
    """Settings of each term of the loss by itself."""
    return {name: [f"loss.terms={{{name}=1.0}}"] for name in terms}


GLAVITU = ["model.arch=glavitu", "model.location=true", "train.samples_per_epoch=32"]
GLAVITU += ["loss.terms={cross_entropy=1.0}"]


@pytest.fixture(scope="module")
def by_ranks(store, tmp_path_factory) -> list[dict]:
    """What one rank, and what two find of every term of the loss, and of GlaViTU."""
    folder, cases = tmp_path_factory.mktemp("ranks"), alone(TERMS) | {"glavitu": GLAVITU}
    return [train_by(ranks, store, folder, cases, "train.batch=8") for ranks in (1, 2)]


@pytest.mark.parametrize("name", [*TERMS, "glavitu"])
def test_two_ranks_train_as_one_by_every_loss_and_as_glavitu(store, by_ranks, name):
    """In double precision and small steps, so that nothing can hide in rounding that training amplifies.

    Boundary F1 takes maxima: by larger steps a last bit decides which pixel is the largest (LOG).
    """
    (losses, val_loss, matrix), two = (found[name] for found in by_ranks)
    assert len(losses) == (4 if name == "glavitu" else 20)
    assert np.ptp(losses) > 0
    np.testing.assert_allclose(two[0], losses, rtol=1e-9)
    assert two[1] == pytest.approx(val_loss, rel=1e-9)
    assert two[2] == matrix
    assert np.sum(matrix) == store.histogram[:7].sum()


@pytest.mark.slow
def test_accumulated_batches_train_as_one(store, tmp_path):
    """Means over pixels are divided by the count of all micro-batches; with ranks, too."""
    means = [name for name in TERMS if name in ("cross_entropy", "focal", "boundary_error")]
    whole = train_by(1, store, tmp_path, alone(means), "train.batch=16", "train.samples_per_epoch=320")
    parts = train_by(
        2,
        store,
        tmp_path,
        alone(means),
        "train.batch=8",
        "train.accumulate=2",
        "train.samples_per_epoch=320",
    )
    for name in means:
        assert len(whole[name][0]) == 20
        np.testing.assert_allclose(parts[name][0], whole[name][0], rtol=1e-9, err_msg=name)


def test_losses_that_stay_no_numbers_end_the_run(store, tmp_path):
    settings = config("train.lr=1e30", "train.clip=0", "train.samples_per_epoch=160")
    with pytest.raises(
        GlacierError, match=r"step \d+: loss or gradient of the last 2\d steps is no number"
    ):
        train(settings, store, tmp_path / "run", ALONE)


@pytest.mark.parametrize("break_it", ["loss", "gradient"])
def test_what_is_finite_on_one_side_alone_is_left_out_too(store, break_it, monkeypatch):
    """An infinite loss with finite gradients, and a finite loss with a gradient that is none."""
    trainer = Trainer(config("train.epochs=1"), store, ALONE)
    batches = list(trainer.loader)
    trainer._train_mode()
    before = {k: v.clone() for k, v in trainer.segmenter.network.state_dict().items()}
    combine = trainer.loss.combine
    if break_it == "loss":
        monkeypatch.setattr(trainer.loss, "combine", lambda terms, epoch: combine(terms, epoch) + torch.inf)
    else:
        first = next(trainer.segmenter.network.parameters())
        first.register_hook(lambda gradient: gradient * torch.nan)
    assert trainer.step(batches[:1], 0).isnan()
    for name, value in trainer.segmenter.network.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name
    assert trainer.scaler.get_scale() == 1.0


def test_batch_norm_over_ranks_keeps_activations(store):
    from timm.layers import convert_sync_batchnorm

    trainer = Trainer(config("train.epochs=1"), store, ALONE)
    network = trainer.segmenter.network.eval()
    image = torch.randn(2, 7, 64, 64)
    with torch.inference_mode():
        before = network(image)
        after = convert_sync_batchnorm(network).eval()(image)
    torch.testing.assert_close(after, before)


def test_a_loss_that_is_no_number_is_skipped_and_leaves_all_as_it_was(store):
    trainer = Trainer(config("train.epochs=1"), store, ALONE)
    batches = list(trainer.loader)
    trainer._train_mode()
    trainer.step(batches[:1], 0)
    before = {k: v.clone() for k, v in trainer.segmenter.network.state_dict().items()}
    moments = [s["exp_avg"].clone() for s in trainer.optimiser.state.values()]
    for bad in (float("nan"), float("inf")):
        broken = batches[1]._replace(image=batches[1].image.clone())
        broken.image[0, 0, 3, 3] = bad
        assert not torch.isfinite(trainer.step([broken], 0))
    after = trainer.segmenter.network.state_dict()
    counts = [k for k in before if k.endswith("num_batches_tracked")]
    assert all(torch.equal(after[k], v) for k, v in before.items() if k not in counts)
    assert all(
        torch.equal(s["exp_avg"], m) for s, m in zip(trainer.optimiser.state.values(), moments, strict=True)
    )
    assert torch.isfinite(trainer.step(batches[2:3], 0))
    assert all(torch.isfinite(v).all() for v in trainer.average.network.state_dict().values())
    assert any(not torch.equal(after[k], v) for k, v in before.items())


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
        evaluate_runs([trained], other, "val", ALONE)
    named = "0=background,1=glacier,2=debris,3=lake"
    other = make_store(source, tmp_path / "t.zarr", tile_size=32, classes=named)
    with pytest.raises(GlacierError, match="no band blue; it has red, nir"):
        evaluate_runs([trained], other, "val", ALONE)


def test_of_equal_epochs_the_last_is_the_best():
    from types import SimpleNamespace

    history = [SimpleNamespace(scores=SimpleNamespace(mcc=mcc)) for mcc in (0.0, 0.3, 0.3, 0.1)]
    assert best_of(history) == 2


def test_alpha_of_a_class_that_is_not_there_is_said_and_left_out(store, tmp_path, capsys):
    train(config("loss.alpha={ice=3, lake=2}", "train.epochs=1"), store, tmp_path / "run", ALONE)
    assert "loss.alpha: no class ice in mountains.zarr; left out of it" in capsys.readouterr().err
