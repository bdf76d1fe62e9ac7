"""The command line as its users meet it: what works, and every error as one line and nothing written."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glacier.errors import GlacierError
from glacier.train.start import new_run
from tests.helpers import NORTH_UP, one_line, write_raster, write_scene


def test_from_scenes_to_a_map(call, tmp_path, store):
    call("synth", "hills", "--count", 4, "--size", 128, "--seed", 5)
    assert "16 tiles of 64 px" in call("ingest", "hills", "--tile-size", 64, "--workers", 1).stderr
    assert "complete already" in call("ingest", "hills", "--tile-size", 64, "--workers", 1).stderr
    small = ("--set", "train.epochs=1", "--set", "data.patch=32", "--set", "train.samples_per_epoch=16")
    trained = call("train", *small)
    assert "hills.zarr: 16 tiles; the demo settings; 1 x cpu" in trained.stderr
    assert (tmp_path / "runs" / "hills-1" / "best.pt").is_file()
    record = json.loads(call("evaluate", "--json").stdout)
    assert {"mcc", "mean_iou", "pixels", "classes"} <= set(record)
    assert record["pixels"] == "labelled"
    assert set(record["classes"]["debris"]) == {"iou", "precision", "recall", "f1"}
    assert "glacier" in call("evaluate", "runs/hills-1", "--split", "all").stdout
    call("predict", "runs/hills-1", "hills", "maps")
    assert len(list((tmp_path / "maps").glob("*.tif"))) == 4
    call("train", *small, "--fold", 1)
    assert (tmp_path / "runs" / "hills-2" / "best.pt").is_file()


TARGET = "background=0.2,glacier=0.4,debris=0.35,lake=0.05"


def test_inspect_says_what_a_target_would_give(call, store, tmp_path):
    words = ("inspect", store.path, "--target", TARGET, "--patch", 32, "--samples", 60)
    plan = json.loads(call(*words, "--json").stdout)["plan"]
    assert plan["target"] == {"background": 0.2, "glacier": 0.4, "debris": 0.35, "lake": 0.05}
    for mix in ("source", "reached", "reached_without_cap"):
        assert sum(plan[mix].values()) == pytest.approx(1)
    miss = {
        k: max(abs(plan[k][c] - plan["target"][c]) for c in plan["target"]) for k in ("source", "reached")
    }
    assert miss["reached"] < 0.5 * miss["source"]
    assert plan["effective_windows"] < plan["windows"] <= 36 * 9
    assert plan["most_repeated"] == pytest.approx(8, rel=1e-3)
    shown = call(*words).stdout
    assert f"{100 * plan['reached']['debris']:.2f} %" in shown
    assert "without a cap of 8" in shown
    call(*words, "--png", "windows.png")
    with Image.open(tmp_path / "windows.png") as opened:
        picture = np.asarray(opened)
    for cls in store.meta.classes[:3]:
        colour = np.frombuffer(bytes.fromhex(cls.colour[1:]), np.uint8)
        assert (picture == colour).all(axis=-1).sum() > 2000


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("background", "--target: 'background' is not CLASS=SHARE"),
        ("background=1,background=2", "--target: 'background=2' is not CLASS=SHARE with a new class"),
        ("", "--target: '' is not CLASS=SHARE"),
        ("background=much", "--target: 'background=much' is not CLASS=SHARE"),
        ("background=1,glacir=1", "no share for glacier, debris, lake; it names background, glacir"),
        ("background=-1,glacier=1,debris=1,lake=1", "background = -1.0, expected a share"),
    ],
)
def test_a_target_that_makes_no_sense_is_one_line(call, store, target, words):
    assert words in one_line(call("inspect", store.path, "--target", target), 2)


def test_train_says_what_mix_it_sees_and_what_cannot_be_had(call, store):
    small = ("--store", store.path, "--set", "train.epochs=1", "--set", "train.samples_per_epoch=16",
             "--set", "train.batch=4", "--set", "data.patch=32")  # fmt: skip
    mix = "data.target={background=0.1,glacier=0.2,debris=0.2,lake=0.4,moss=0.1}"
    result = call("train", "--config", "demo", *small, "--set", mix)
    assert result.exit_code == 0
    said = " ".join(result.stderr.split())
    assert "mix of pixels: background" in said
    assert "warning: data.target: no moss in the training tiles" in said
    assert "warning: data.target: out of reach" in said


def test_inspect_as_json_table_and_picture(call, store, tmp_path):
    record = json.loads(call("inspect", store.path, "--json").stdout)
    assert record["tiles"] == 36
    assert (record["tile_size"], record["dtype"], record["bands"][0]) == (64, "int16", "blue")
    assert record["classes"] == ["background", "glacier", "debris", "lake"]
    assert sum(record["mix"].values()) == pytest.approx(1)
    assert sum(record["folds"]) == 36
    labels = np.concatenate([store.label(t).ravel() for t in range(36)])
    assert record["mix"]["debris"] == pytest.approx((labels == 2).sum() / (labels != 255).sum())
    assert "glcm_homogeneity" in call("inspect", store.path).stdout
    call("inspect", store.path, "--png", "sheet.png")
    with Image.open(tmp_path / "sheet.png") as opened:
        picture = np.asarray(opened)
    for cls in store.meta.classes[:3]:
        colour = np.frombuffer(bytes.fromhex(cls.colour[1:]), np.uint8)
        assert (picture == colour).all(axis=-1).sum() > 500


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "in", "s", size=64)


def grid_break(folder, **options):
    write_raster(folder / "s_B4.tif", np.ones((64, 64), np.uint16), **options)


CLASSES = ("--classes", "0=a,1=b", "--tile-size", 32, "--workers", 1)


@pytest.mark.parametrize(
    ("spoil", "words", "code"),
    [
        (lambda f: shutil.rmtree(f), "in: no such file or folder", 1),
        (lambda f: [x.unlink() for x in f.iterdir()], "no raster of bands", 1),
        (lambda f: (f / "s_label.tif").unlink(), "scene s: no labels", 1),
        (lambda f: write_raster(f / "s_B4.tif", np.ones((64, 63), np.uint16)), "64 x 63 px, expected", 1),
        (lambda f: grid_break(f, crs="EPSG:4326"), "CRS WGS 84, expected", 1),
        (lambda f: grid_break(f, transform=NORTH_UP @ NORTH_UP.translation(1, 0)), "transform", 1),
        (lambda f: write_raster(f / "s_label.tif", np.full((64, 64), 9, "u1")), "value 9 has no class", 1),
        (lambda f: write_raster(f / "s.tif", np.zeros((2, 64, 64), np.uint16), nodata=0), "no data", 1),
        (lambda f: (f / "s.tif").write_bytes(b"junk"), "cannot be read as a raster", 1),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(call, scene, tmp_path, spoil, words, code):
    spoil(scene)
    assert words in one_line(call("ingest", "in", *CLASSES), code)
    assert not list(tmp_path.glob("*.zarr"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "0=a"), "--classes: 1 classes"),
        (("--tile-size", 33), "--tile-size: 33, expected a multiple of 32"),
        (("--bands", "B9"), "no band B9"),
        ((), "labels hold the values 0, 1; say what they mean with --classes"),
    ],
)
def test_wrong_usage_exits_2_and_nothing_is_written(call, scene, tmp_path, words, message):
    assert message in one_line(call("ingest", "in", "--workers", 1, *words), 2)
    assert not list(tmp_path.glob("*.zarr"))


def test_a_missing_band_file_for_one_tile(call, tmp_path):
    for name in ("Band1/a_01", "Band1/a_02", "Band2/a_01"):
        write_raster(tmp_path / "in" / f"{name}.tif", np.ones((32, 32), np.uint16))
    assert "Band2: no file for tile 02" in one_line(call("ingest", "in"), 1)


def test_a_scene_without_data_is_skipped_with_a_warning(call, scene):
    write_raster(scene / "e.tif", np.zeros((2, 64, 64), np.uint16), nodata=0, names=("red", "nir"))
    write_raster(scene / "e_label.tif", np.zeros((64, 64), np.uint8))
    result = call("ingest", "in", *CLASSES)
    assert result.exit_code == 0
    assert "warning: scene e: no tile of it holds data; skipped" in result.stderr


def test_another_store_is_not_overwritten_unasked(call, scene):
    call("ingest", "in", *CLASSES)
    assert "--overwrite" in one_line(call("ingest", "in", *CLASSES, "--folds", 3), 1)
    assert call("ingest", "in", *CLASSES, "--folds", 3, "--overwrite").exit_code == 0
    assert json.loads(call("inspect", "--json").stdout)["folds"] == [1, 2, 1]


def test_an_incomplete_store_is_named_wherever_it_is_used(call, tmp_path):
    (tmp_path / "half.zarr" / "unfinished").mkdir(parents=True)
    (tmp_path / "half.zarr" / "unfinished" / "source.json").write_text("{}")
    for words in (("inspect",), ("train",), ("train", "--store", "half.zarr")):
        assert "half.zarr: the store is incomplete" in one_line(call(*words), 1)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("train",), "no *.zarr here; make one with `glacier ingest", 1),
        (("inspect", "nowhere.zarr"), "nowhere.zarr: no store here", 1),
        (("evaluate",), "no run with a checkpoint", 1),
        (("evaluate", "nowhere"), "nowhere: no such run", 1),
        (("predict", ".", ".", "maps"), "no checkpoint in this run", 1),
        (("train", "--set", "train.epoch=1"), "did you mean epochs", 2),
        (("train", "--config", "nowhere.toml"), "nowhere.toml: cannot be read", 2),
    ],
)
def test_what_is_not_there_is_named(call, words, message, code):
    assert message in one_line(call(*words), code)


def test_a_run_is_not_written_over(call, store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    message = one_line(call("train", "--store", store.path, "--out", "mine"), 1)
    assert "mine: exists; give a new folder" in message
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_trainings_begun_at_once_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(new_run, ["x"] * 40)) == {Path(f"runs/x-{n}") for n in range(1, 41)}


def test_paths_with_spaces_and_letters_of_any_language(call, tmp_path):
    source = write_scene(tmp_path / "Ледник übrig", "Gornergletscher – ñ")
    assert call("ingest", source, *CLASSES).exit_code == 0
    assert "4 tiles" in call("inspect", "Ледник übrig.zarr").stdout


def test_every_error_is_one_line_even_if_its_cause_is_not(call, monkeypatch):
    def fail(*_, **__):
        raise GlacierError("first\nsecond")

    monkeypatch.setattr("glacier.store.reader.only_store", fail)
    assert one_line(call("inspect"), 1) == "error: first second"


@pytest.mark.parametrize(
    "command", ["demo", "synth", "ingest", "glcm", "inspect", "train", "evaluate", "predict"]
)
def test_every_command_has_help(call, command):
    text = call(command, "--help").output
    assert command in text
    assert len(text) > 150


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{store}", "--png", "afile/x.png"),
        ("train", "--store", "{store}", "--out", "afile"),
        ("train", "--store", "{store}", "--out", "afile/run"),
        ("synth", "afile/x", "--size", 64, "--count", 1),
        ("ingest", "in", "--out", "afile/x.zarr", *CLASSES),
        ("ingest", "in", "--out", ".", *CLASSES),
        ("evaluate", "afile"),
        ("predict", "afile", "in", "maps"),
        ("ingest", "afile"),
    ],
)
def test_a_file_where_a_folder_is_meant_is_named(call, scene, store, tmp_path, words):
    (tmp_path / "afile").write_text("mine")
    result = call(*(str(word).format(store=store.path) for word in words))
    assert one_line(result, 1)
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_png_needs_no_suffix(call, store, tmp_path):
    call("inspect", store.path, "--png", "sheet")
    with Image.open(tmp_path / "sheet") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.encoder=tu-swin_tiny_patch4_window7_224", "cannot be made"),
        ("model.decoder_channels=[64,32,16,8,4]", "cannot be made"),
        ("data.seed=99999999999999999999999", "data.seed: 99999999999999999999999, expected"),
        ("data.patch=4096", "data.patch: 4096 px, expected a multiple of 32 up to the tile's 64 px"),
        ("train.fold=7", "train.fold: 7, expected 0 to 4"),
        ('data.bands=["nir"]', "no band nir"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_settings_that_do_not_fit_are_named(call, store, setting, words, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[data]\npatch = 64\n[train]\nepochs = 1\n")
    result = call("train", "--config", config, "--store", store.path, "--set", setting)
    assert result.exit_code in (1, 2)
    assert words in one_line(result, result.exit_code)


def test_default_windows_shrink_to_the_stores_tiles(call, store, tmp_path):
    small = ("--set", "train.epochs=1", "--set", "train.samples_per_epoch=16", "--set", "train.batch=4")
    assert call("train", "--store", store.path, "--out", "run", *small).exit_code == 0
    assert "patch = 64" in (tmp_path / "run" / "config.toml").read_text()


def test_names_that_look_like_markup_are_shown_as_they_are(call, tmp_path):
    source = write_scene(tmp_path / "[b]in[/b]", "s", size=160)
    classes = "0=ice [clean],1=rock[/b]"
    call("ingest", source, "--out", "[x]s.zarr", "--classes", classes, "--tile-size", 32, "--workers", 1)
    shown = call("inspect", "[x]s.zarr").stdout
    assert "[x]s.zarr" in shown
    assert "ice [clean]" in shown
    assert "rock[/b]" in shown


def test_every_tile_of_an_unseen_store_can_be_scored(call, store, tmp_path):
    """--split all asks for no folds."""
    small = ("--set", "train.epochs=1", "--set", "train.samples_per_epoch=8", "--set", "train.batch=4")
    call("train", "--store", store.path, "--out", "run", *small)
    call("synth", "one", "--count", 1, "--size", 64, "--seed", 5)
    call("ingest", "one", "--tile-size", 64, "--workers", 1)
    record = json.loads(call("evaluate", "run", "--store", "one.zarr", "--split", "all", "--json").stdout)
    assert record["split"] == "all"
    result = call("evaluate", "run", "--store", "one.zarr")
    assert "folds" in one_line(result, 1)


def test_another_store_than_the_runs_is_remarked_upon(call, store, mountains):
    small = ("--set", "train.epochs=1", "--set", "train.samples_per_epoch=8", "--set", "train.batch=4")
    call("train", "--store", store.path, "--out", "run", *small)
    assert "warning" not in call("evaluate", "run").stderr
    call("ingest", mountains, "--out", "other.zarr", "--tile-size", 64, "--folds", 4, "--workers", 1)
    assert "not the store the run was trained on" in call("evaluate", "run", "--store", "other.zarr").stderr
