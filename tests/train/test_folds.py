"""Cross-validation, the report, and the commands around a training."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from glacier.cli import main
from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.train import folds
from glacier.train.evaluate import evaluate_runs
from glacier.train.loop import RESERVE, train
from glacier.train.ranks import Ranks
from glacier.train.report import percent
from glacier.train.segmenter import load_run
from glacier.train.stop import Stop
from glacier.train.summary import write_report
from tests.helpers import After, make_store

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = ["data.patch=32", "train.batch=4", "train.samples_per_epoch=8", "train.epochs=2"]


def config(*settings):
    return Config.load(shipped("demo"), [*SMALL, *settings])


@pytest.fixture(scope="module")
def three(mountains, tmp_path_factory):
    """A store of three folds."""
    return make_store(mountains, tmp_path_factory.mktemp("three") / "three.zarr", tile_size=64, folds=3)


@pytest.fixture(scope="module")
def crossed(three, tmp_path_factory):
    out = tmp_path_factory.mktemp("crossed") / "cv"
    folds.train_folds(config(), three, out, ALONE, Stop(), None)
    return out


def test_a_run_per_fold_and_a_summary(three, crossed):
    found = json.loads((crossed / "summary.json").read_text())
    mcc = []
    for k in range(3):
        run = load_run(crossed / f"fold-{k}")
        assert run.config.train.fold == k
        plain = run.unadjusted()
        mcc.append(evaluate_runs([plain], three, "val", ALONE).scores.mcc)
        assert found["folds"][k]["mcc"] == pytest.approx(mcc[-1], abs=1e-6)
    over = found["over folds"]["MCC"]
    assert over["mean"] == pytest.approx(np.mean(mcc))
    assert over["sd"] == pytest.approx(np.std(mcc, ddof=1))
    assert over["folds"] == 3


def test_what_a_fold_lacks_does_not_count():
    rated = [scores_of({"lake": 0.5}), scores_of({"lake": float("nan")})]
    over = folds.summary(rated)["over folds"]["IoU lake"]
    assert over == {"mean": 0.5, "sd": None, "folds": 1}


def scores_of(iou):
    from glacier.model.metrics import ClassScores, Scores

    return Scores(0.5, 0.5, 9, {name: ClassScores(value, 1, 1, 1) for name, value in iou.items()})


class TooLong(Stop):
    """Due where what comes next takes longer than a last checkpoint."""

    def due(self, ranks, reserve=0.0):
        return reserve > RESERVE


def test_a_fold_that_has_no_time_to_be_validated_is_the_last(three, tmp_path):
    folds.train_folds(config(), three, tmp_path / "cv", ALONE, TooLong(), None)
    assert [folder.name for folder in (tmp_path / "cv").glob("fold-*")] == ["fold-0"]
    assert not (tmp_path / "cv" / "summary.json").exists()


def test_stopped_in_a_fold_it_goes_on_there(three, crossed, tmp_path):
    out = tmp_path / "cv"
    folds.train_folds(config(), three, out, ALONE, After(8), None)
    assert not (out / "summary.json").exists()
    assert (out / "fold-1").is_dir()
    folds.train_folds(config(), three, out, ALONE, Stop(), None)
    whole, again = (json.loads((f / "summary.json").read_text()) for f in (crossed, out))
    assert again == whole


def test_folds_go_on_from_the_run_they_started_from(three, crossed, tmp_path, monkeypatch):
    """Through the command, which resumes all folds, and does not ask for the run again."""
    monkeypatch.chdir(tmp_path)
    source = load_run(crossed / "fold-0")
    slow = config("train.lr=1e-9", "train.ema=0", "train.freeze_norm=true", "train.thresholds=false")
    folds.train_folds(slow, three, tmp_path / "runs" / "cv", ALONE, After(4), source)
    assert not (tmp_path / "runs" / "cv" / "fold-1").exists()
    done = call("train", "--resume", "--store", three.path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "cv" / "summary.json").is_file()
    for k in range(3):
        weights = load_run(tmp_path / "runs" / "cv" / f"fold-{k}").weights
        for name, value in weights.items():
            torch.testing.assert_close(value, source.weights[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "train.lr=0.5"), "train.lr = 0.5, but the run to be resumed has 0.002"),
        (("--set", "loss.terms={dice=1.0}"), "loss.terms = {'dice': 1.0}, but"),
        (("--fold", "1"), "holds all folds; leave it out"),
    ],
)
def test_folds_go_on_as_they_were_or_not_at_all(three, crossed, words, message):
    before = (crossed / "folds.toml").read_text()
    done = call("train", "--resume", crossed, "--store", three.path, *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert (crossed / "folds.toml").read_text() == before


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text = []

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_page_about_the_run(three, crossed):
    path = write_report(crossed / "fold-1", None, three.path)
    text = path.read_text()
    assert path == crossed / "fold-1" / "report.html"
    assert "http://" not in text.replace("http://www.w3.org", "")
    page = Tags()
    page.feed(text)
    words = " ".join(page.text)
    rated = evaluate_runs([load_run(crossed / "fold-1")], three, "val", ALONE)
    assert f"{rated.scores.mcc:.3f}" in words
    assert f"calibration error {percent(rated.error_before)} → {percent(rated.error_after)}" in words
    assert f"divided by the temperature {rated.temperatures[0]:.2f}" in words
    assert f"{rated.scores.pixels:,}" in words
    assert "labelled pixels of fold 1 of three.zarr" in words
    assert "samples_per_epoch = 8" in words
    assert text.count("data:image/png;base64,") >= 6


def test_a_report_of_no_run_is_an_error(three, tmp_path):
    with pytest.raises(GlacierError, match="no such run"):
        write_report(tmp_path / "none", None, three.path)


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_commands(three, crossed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = crossed / "fold-0"
    done = call("evaluate", run, "--store", three.path, "--pixels", "all", "--tta", "--json")
    found = json.loads(done.stdout)
    assert (found["pixels"], found["tta"], found["split"]) == ("all", True, "val")
    assert set(found["classes"]) == {"background", "glacier", "debris", "lake"}
    assert found["calibration"]["temperatures"] == [load_run(run).temperature]
    shown = call("evaluate", run, "--store", three.path)
    error = percent(evaluate_runs([load_run(run)], three, "val", ALONE).error_after)
    said = f"-> {error}, temperature {load_run(run).temperature:.2f}"
    assert said in " ".join(shown.stdout.split())
    assert "best epoch, thresholds and temperature were chosen on these tiles" in shown.stderr
    assert call("export", run, "out.safetensors").exit_code == 0
    again = json.loads(call("evaluate", "out.safetensors", "--store", three.path, "--json").stdout)
    whole = json.loads(call("evaluate", run, "--store", three.path, "--json").stdout)
    assert again["mcc"] == pytest.approx(whole["mcc"], abs=1e-3)
    assert call("report", run, "--store", three.path, "--html", "page.html").exit_code == 0
    settings = [part for s in SMALL for part in ("--set", s)]
    started = call("train", "--store", three.path, "--init", "out.safetensors", *settings, "--fold", "1")
    assert started.exit_code == 0, started.output
    assert (tmp_path / "runs" / "three-1" / "best.pt").is_file()
    longer = call("train", "--resume", "--set", "train.epochs=3")
    assert longer.exit_code == 0, longer.output
    history = (tmp_path / "runs" / "three-1" / "history.jsonl").read_text().splitlines()
    assert len(history) == 3


def test_the_title_names_what_was_scored_though_a_newer_run_came_meanwhile(
    three, crossed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(crossed / "fold-0", "first")
    newest = iter([Path("first"), Path("second")])
    monkeypatch.setattr("glacier.train.start.newest_run", lambda: next(newest))
    assert "first on three.zarr" in call("evaluate", "--store", three.path).stdout


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("train", "--fold", "some"), "expected a number or all", 2),
        (("train", "--resume", "nowhere"), "nowhere: no such run", 1),
        (("train", "--resume"), "no run with a checkpoint (last.pt)", 1),
        (("train", "--time-limit", "soon"), "--time-limit: 'soon', expected e.g. 11h30m", 2),
        (("export", "nowhere", "x.safetensors"), "nowhere: no such run", 1),
        (("report",), "no run with a checkpoint", 1),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, monkeypatch, words, message, code):
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert done.exit_code == code
    assert message in done.output
    assert "Traceback" not in done.output


def test_resuming_into_another_folder_leaves_the_first_alone(three, crossed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = crossed / "fold-2"
    before = {f.name: f.read_bytes() for f in source.iterdir()}
    done = call(
        "train", "--resume", source, "--out", "more", "--store", three.path, "--set", "train.epochs=3"
    )
    assert done.exit_code == 0, done.output
    assert {f.name: f.read_bytes() for f in source.iterdir()} == before
    assert len((tmp_path / "more" / "history.jsonl").read_text().splitlines()) == 3


def test_a_run_may_be_other_than_float32(three, tmp_path):
    history = train(config("train.precision=bfloat16", "train.epochs=1"), three, tmp_path / "run", ALONE)
    assert np.isfinite(history[0].loss)
    assert np.isfinite(history[0].val_loss)
