import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier.config import Config, shipped
from glacier.errors import UsageError
from glacier.train.start import found


@pytest.mark.parametrize("name", ["demo", "finetune", "hkh_pretrain"])
def test_shipped_configurations_load(name):
    assert Config.load(shipped(name)) != Config()


@given(
    st.integers(1, 500),
    st.floats(1e-8, 1.0),
    st.text(),
    st.booleans(),
    st.lists(st.text(max_size=5), max_size=3),
)
def test_toml_round_trip(epochs, lr, store, freeze, bands):
    tables = {
        "train": {"epochs": epochs, "lr": lr, "freeze_norm": freeze},
        "data": {"store": store, "bands": bands},
    }
    config = Config.from_dict(tables)
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config


def test_settings_go_over_the_file():
    config = Config.load(shipped("demo"), ["train.epochs=3", "data.store=a b.zarr", "train.lr=1"])
    assert (config.train.epochs, config.data.store, config.train.lr) == (3, "a b.zarr", 1.0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epoch=3", "did you mean epochs"),
        ("trian.epochs=3", "did you mean train"),
        ("train.epochs=three", "'three', expected int"),
        ("train.epochs=true", "True, expected int"),
        ("train.epochs=0", "expected at least 1"),
        ("train.lr=-1", "expected more than 0"),
        ("train.lr=inf", "expected more than 0"),
        ("train.weight_decay=nan", "expected at least 0"),
        ("data.anneal=2", "expected 0 to 1"),
        ("data.target={lake=true}", "data.target.lake: True, expected float"),
        ("data.bands=[1]", "1, expected str"),
        ("epochs=3", "expected section.key=value"),
        ("train=3", "expected section.key=value"),
    ],
)
def test_a_wrong_setting_is_named(setting, words):
    with pytest.raises(UsageError, match=words):
        Config.load(shipped("demo"), [setting])


@pytest.mark.parametrize(
    ("text", "words"), [(b"[data", "not TOML"), (b"\xff\xfe", "not TOML"), (b"data=1", "section")]
)
def test_a_broken_file_is_named(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=f"mine.toml.*{words}"):
        Config.load(path)


def test_a_missing_file_is_named():
    with pytest.raises(UsageError, match="nowhere.toml: cannot be read"):
        Config.load(Path("nowhere.toml"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "hkh_pretrain",
            {"epochs": 60, "batch": 48, "lr": 5e-4, "weight_decay": 1e-4, "factor": 0.5, "patience": 5},
        ),
        ("finetune", {"epochs": 150, "batch": 32, "accumulate": 2, "lr": 1e-4, "patience": 8}),
    ],
)
def test_shipped_trainings(name, expected):
    train = Config.load(shipped(name)).train
    assert {key: getattr(train, key) for key in expected} == expected


def test_shipped_phases():
    first, second = (Config.load(shipped(name)).loss for name in ("hkh_pretrain", "finetune"))
    assert first.terms == {"focal": 0.6, "dice": 0.4}
    assert second.terms == {"focal": 0.25, "dice": 0.25, "mcc": 0.35, "boundary_error": 0.15}
    assert (second.ramp, second.ramp_from) == ({"mcc": 30, "boundary_error": 30}, 0.05)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "train.precision=fp16",
            "train.precision: 'fp16', expected one of auto, float32, bfloat16, float16",
        ),
        ("train.ema=1.0", "train.ema: 1.0, expected 0 to less than 1"),
        ("train.factor=1", "train.factor: 1.0, expected between 0 and 1; train.patience=0 keeps lr"),
        ("train.accumulate=0", "train.accumulate: 0, expected at least 1"),
        ("inputs.sigma=0", "inputs.sigma: 0.0, expected more than 0"),
        ("loss.ramp={mcc=0}", "loss.ramp.mcc: 0, expected at least 1"),
        ("loss.ramp_from=2", "loss.ramp_from: 2.0, expected 0 to 1"),
        ("loss.term={dice=1}", "no key loss.term; did you mean terms?"),
    ],
)
def test_training_settings_out_of_range_are_named(setting, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        Config.load(shipped("demo"), [setting])


def test_a_folder_does_not_hide_a_shipped_configuration(tmp_path, monkeypatch):
    """`make demo` leaves a folder `demo`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert found(Path("demo")) == shipped("demo")
    (tmp_path / "mine").write_text("")
    assert found(Path("mine")) == Path("mine")
