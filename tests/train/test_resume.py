"""A training that was killed, stopped or asked to stop goes on to the very same weights."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from glacier.config import Config, shipped
from glacier.errors import GlacierError, UsageError
from glacier.train import checkpoint
from glacier.train.checkpoint import LAST
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import CHECKPOINT, load_run, read_record
from glacier.train.stop import Stop, parse_duration
from glacier.train.trainer import Trainer
from tests.helpers import After, make_store

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = [
    "data.patch=64", "train.batch=2", "train.accumulate=2", "train.samples_per_epoch=22", "train.epochs=3",
    "train.patience=1", "train.save_steps=1",
    "loss.terms={focal=0.3, dice=0.3, mcc=0.4}", "loss.ramp={mcc=2}",
    "data.target={background=0.3, glacier=0.3, debris=0.3, lake=0.1}", "inputs.log=true",
]  # fmt: skip


def config(*settings):
    return Config.load(shipped("demo"), [*SMALL, *settings])


def same(one, two):
    """Whether nested records of tensors and plain values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return set(one) == set(two) and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two or (one != one and two != two)


TIMES = ("tiles_per_s", "wait", "seconds")


def untimed(record):
    history = [{k: v for k, v in epoch.items() if k not in TIMES} for epoch in record["history"]]
    return {**record, "history": history}


def assert_same_run(one: Path, two: Path):
    """All state, the history but for its times, and the best weights."""
    first, second = (untimed(read_record(folder / LAST)) for folder in (one, two))
    for key in ("network", "average", "optimiser", "scheduler", "scaler", "loader", "steps"):
        assert same(first["state"][key], second["state"][key]), key
    assert same(first["history"], second["history"])
    best = [read_record(folder / CHECKPOINT) for folder in (one, two)]
    assert same(best[0]["weights"], best[1]["weights"])
    assert best[0]["thresholds"] == best[1]["thresholds"]
    assert best[0]["temperature"] == pytest.approx(best[1]["temperature"], rel=1e-5)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory) -> Path:
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert len(train(config(), store, out, ALONE)) == 3
    return out


@pytest.mark.parametrize("questions", [0, 1, 4, 6, 7, 11, 13, 20])
def test_stopped_at_any_step_it_goes_on(store, whole, tmp_path, questions):
    """Six optimiser steps to an epoch, the last a single batch; the seventh question: before validation."""
    out, seldom = tmp_path / "run", config("train.save_steps=99")
    train(seldom, store, out, ALONE, stop=After(questions))
    record = checkpoint.read(out)
    assert not record["finished"]
    assert record["state"]["steps"] == min(questions, 20) - questions // 7 + 1 - (questions % 7 == 6)
    history = train(seldom, store, out, ALONE, resume=record)
    assert len(history) == 3
    assert_same_run(whole, out)
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_a_finished_run_is_left_as_it_is(store, whole):
    before = {f.name: f.read_bytes() for f in whole.iterdir()}
    assert len(train(config(), store, whole, ALONE, resume=checkpoint.read(whole))) == 3
    assert {f.name: f.read_bytes() for f in whole.iterdir()} == before


def test_stopped_before_its_scores_are_adjusted_it_says_so_and_does_that_when_resumed(
    store, whole, tmp_path, capsys
):
    out = shutil.copytree(whole, tmp_path / "run")
    load_run(out).unadjusted().save(out)
    record = {**checkpoint.read(out), "finished": False}
    assert len(train(config(), store, out, ALONE, resume=record, stop=After(0))) == 3
    assert "thresholds and temperature are still to be chosen" in capsys.readouterr().err
    assert load_run(out).temperature == 1
    assert not checkpoint.read(out)["finished"]
    train(config(), store, out, ALONE, resume=checkpoint.read(out))
    assert load_run(out).temperature != 1
    assert checkpoint.read(out)["finished"]
    assert_same_run(whole, out)


def test_more_epochs_may_be_asked_for(store, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    record = checkpoint.read(out)
    longer = checkpoint.resumed_config(record, {"train": {"epochs": 4}}, "--resume")
    assert len(train(longer, store, out, ALONE, resume=record)) == 4


def test_the_state_holds_a_scheduler_and_a_scaler_that_have_moved(store):
    settings = config("train.patience=1", "train.factor=0.1", "train.precision=float16")
    trainer = Trainer(settings, store, ALONE)
    for mcc in (0.5, 0.4, 0.3, 0.2):
        trainer.scheduler.step(mcc)
    batches = list(trainer.loader)
    batches[0].image[0, 0, 0, 0] = float("nan")
    trainer.unlooked.append(trainer.step(batches[:1], 0))
    state = deepcopy(trainer.state_dict())
    other = Trainer(settings, store, ALONE)
    other.load_state_dict(state)
    assert other.scaler.get_scale() == 2.0**15
    assert other.lost == 1
    assert other.optimiser.param_groups[0]["lr"] == pytest.approx(2e-4)
    assert other.scheduler.best == 0.5
    for one in (trainer, other):
        one.step(batches[1:3], 0)
    assert same(trainer.state_dict()["network"], other.state_dict()["network"])


def test_dropout_is_the_same_after_resuming(store, tmp_path):
    """GlaViTU drops values at random; what its second head and batch norm brought goes on, too."""
    own = ["data.patch=32", "train.samples_per_epoch=10", "train.epochs=1", "train.save_steps=99"]
    settings = config("model.arch=glavitu", "model.location=true", "train.thresholds=false", *own)
    train(settings, store, tmp_path / "whole", ALONE)
    train(settings, store, tmp_path / "part", ALONE, stop=After(0))
    assert checkpoint.read(tmp_path / "part")["state"]["loader"]["step"] == 2
    train(settings, store, tmp_path / "part", ALONE, resume=checkpoint.read(tmp_path / "part"))
    assert_same_run(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"model": {"encoder": "resnet18"}},
            "model.encoder = 'resnet18', but the run .* has 'tu-tf_mobile",
        ),
        ({"train": {"lr": 1.0}}, "train.lr = 1.0, but the run to be resumed has 0.002"),
        ({"data": {"bands": ["red"]}}, r"data.bands = \['red'\]"),
        ({"train": {"epocs": 3}}, "train.epocs = 3, but"),
    ],
)
def test_what_would_be_another_run_is_refused(whole, settings, words):
    with pytest.raises(UsageError, match=words):
        checkpoint.resumed_config(checkpoint.read(whole), settings, "--resume")


def test_other_bands_classes_or_models_are_refused_by_name(store, whole, mountains, tmp_path):
    record = {**checkpoint.read(whole), "finished": False}
    for option, words in (
        ("bands", "the bands blue, green"),
        ("classes", "the classes background, glacier"),
    ):
        value = {"bands": "B2=blue,B3=green", "classes": "0=background,85=ice,170=debris,255=lake"}[option]
        with make_store(mountains, tmp_path / f"{option}.zarr", tile_size=64, **{option: value}) as other:
            plain = config("data.target={}")
            with pytest.raises(GlacierError, match=f"a checkpoint of {words}"):
                train(plain, other, tmp_path / "run", ALONE, resume=record)
    with pytest.raises(GlacierError, match="a checkpoint of model"):
        train(config("model.encoder=resnet18"), store, tmp_path / "run", ALONE, resume=record)
    with pytest.raises(UsageError, match="train.batch: 4, expected 2"):
        train(config("train.batch=4"), store, tmp_path / "run", ALONE, resume=record)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: None, "no such run, expected last.pt"),
        (lambda f: f.mkdir(), "no checkpoint to go on from in this run"),
        (lambda f: (f.mkdir(), (f / LAST).write_bytes(b"PK\3\4")), "not a readable checkpoint"),
        (lambda f: (f.mkdir(), torch.save({"state": {}}, f / LAST)), "not a checkpoint of a training"),
    ],
)
def test_what_cannot_be_resumed_is_named(tmp_path, make, words):
    make(tmp_path / "run")
    with pytest.raises(GlacierError, match=words):
        checkpoint.read(tmp_path / "run")


def command(store, out, *more):
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return [sys.executable, "-m", "glacier", "train", "--config", "demo", "--store", str(store.path),
            "--out", str(out), *settings, *more]  # fmt: skip


def started(arguments):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    )


def steps_of(out):
    try:
        return torch.load(out / LAST, weights_only=True)["state"]["steps"]
    except (OSError, RuntimeError, EOFError):
        return -1


def stopped_after(store, out, number, least):
    """Send a signal once so many steps have been saved; the process, what it said, where it stopped."""
    process = started(command(store, out))
    while steps_of(out) < least:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(number)
    _, words = process.communicate()
    return process.returncode, words, checkpoint.read(out)


def killed_and_resumed(store, out, least):
    """As a user would; where it stopped."""
    code, _, record = stopped_after(store, out, signal.SIGKILL, least)
    assert code == -signal.SIGKILL
    again = started([sys.executable, "-m", "glacier", "train", "--resume", str(out)])
    _, problem = again.communicate()
    assert again.returncode == 0, problem
    return record


def test_killed_it_resumes_to_the_same_weights(store, whole, tmp_path):
    record = killed_and_resumed(store, tmp_path / "run", 8)
    assert record["state"]["loader"]["step"] or len(record["history"]) == 2
    assert_same_run(whole, tmp_path / "run")


def test_on_sigterm_it_saves_says_how_to_go_on_and_exits_0(store, whole, tmp_path):
    out = tmp_path / "run"
    code, words, record = stopped_after(store, out, signal.SIGTERM, 2)
    assert code == 0
    assert f"go on with `glacier train --resume {out}`" in words
    assert not record["finished"]
    train(config(), store, out, ALONE, resume=record)
    assert_same_run(whole, out)


@pytest.mark.slow
def test_killed_at_random_steps_it_resumes_to_the_same_weights(store, whole, tmp_path):
    rng, stops = random.Random(0), []
    for number in range(5):
        out = tmp_path / str(number)
        record = killed_and_resumed(store, out, rng.randrange(1, 17))
        stops.append(record["state"]["loader"]["step"])
        assert_same_run(whole, out)
    assert sum(step > 0 for step in stops) >= 3


def test_a_time_limit_saves_before_it_is_over(store, tmp_path):
    stop = Stop(limit=0.0)
    assert train(config(), store, tmp_path / "run", ALONE, stop=stop) == []
    assert checkpoint.read(tmp_path / "run")["state"]["steps"] == 1


def test_two_ranks_stop_at_the_same_step_when_one_is_asked(store, tmp_path):
    """And one rank goes on where two have stopped."""
    settings = ["train.batch=4", "train.accumulate=1", "train.samples_per_epoch=160"]
    more = [part for setting in settings for part in ("--set", setting)]
    _, _, *arguments = command(store, tmp_path / "run", *more)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", *arguments]
    process = started([sys.executable, *launch])
    while steps_of(tmp_path / "run") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    _, words = process.communicate()
    assert process.returncode == 0, words
    record = checkpoint.read(tmp_path / "run")
    assert 3 <= record["state"]["steps"] < 120
    assert record["state"]["loader"]["step"] == record["state"]["steps"] % 40
    seldom = {"train": {"epochs": 1, "save_steps": 99}}
    resumed = checkpoint.resumed_config(record, seldom, "--resume")
    assert len(train(resumed, store, tmp_path / "run", ALONE, resume=record)) >= 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("11h30m", 41400), ("45m", 2700), ("600s", 600), ("90", 90), ("1h5s", 3605)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1d", "-3m", "0", "1.5h"])
def test_what_is_no_duration_is_named(text):
    with pytest.raises(UsageError, match="--time-limit: .* expected e.g. 11h30m"):
        parse_duration(text)


def test_load_run_reads_what_resuming_kept(whole):
    assert load_run(whole).epoch in (1, 2, 3)
