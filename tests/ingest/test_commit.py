"""A store is complete or unreadable: unfinished ingests, repeated ones, replaced ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio.shutil
import zarr

from glacier.errors import GlacierError, UsageError
from glacier.ingest import write
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from tests.helpers import make_store, write_raster, write_scene

OPTIONS = Options(tile_size=32, classes="0=a,1=b", folds=2)


@pytest.fixture
def source(tmp_path):
    return write_scene(tmp_path / "in", "s", size=160)


def run(source, out, options=OPTIONS, **more):
    return ingest(source, find_scenes(source), out, options, **more)


def noise():
    return np.random.default_rng(0).integers(1, 5000, (2, 160, 160)).astype(np.uint16)


def contents(store: Store):
    return [(store.image(t).tobytes(), store.label(t).tobytes()) for t in range(len(store))]


def test_the_same_again_does_nothing(source, tmp_path):
    out = tmp_path / "s.zarr"
    assert run(source, out).fresh
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*")}
    assert not run(source, out).fresh
    assert {f: f.stat().st_mtime_ns for f in out.rglob("*")} == before


@pytest.mark.parametrize("change", ["options", "source"])
def test_another_ingest_asks_for_overwrite_and_loses_nothing(source, tmp_path, change):
    out = tmp_path / "s.zarr"
    run(source, out)
    before = contents(Store(out))
    options = OPTIONS
    if change == "options":
        options = Options(tile_size=64, classes="0=a,1=b", folds=2)
    else:
        write_scene(source, "s", seed=9, size=160)
    with pytest.raises(GlacierError, match="--overwrite"):
        run(source, out, options)
    assert contents(Store(out)) == before
    assert run(source, out, options, overwrite=True).fresh
    assert contents(Store(out)) != before
    assert [f.name for f in tmp_path.iterdir() if "s.zarr" in f.name] == ["s.zarr"]


def test_an_unfinished_store_opens_nowhere_and_is_finished_by_the_same_call(source, tmp_path, monkeypatch):
    out, whole = tmp_path / "s.zarr", tmp_path / "whole.zarr"
    run(source, whole)
    written = []

    def stop_after_two(task):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(task.shard)
        return true_write(task)

    true_write = write.write_shard
    monkeypatch.setattr(write, "write_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(source, out)
    monkeypatch.undo()
    with pytest.raises(GlacierError, match=r"incomplete.*same `glacier ingest`"):
        Store(out)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(out, mode="r")
    with pytest.raises(GlacierError, match="unfinished ingest of another source"):
        run(source, out, Options(tile_size=64, classes="0=a,1=b", folds=2))
    assert run(source, out).resumed == 2
    assert contents(Store(out)) == contents(Store(whole))
    assert not (out / "unfinished").exists()


def test_killed_at_any_moment_the_same_command_finishes(tmp_path):
    """A real process, killed at rising delays: never a store that opens half-written."""
    source = tmp_path / "in"
    for i in range(3):
        write_scene(source / str(i), f"s{i}", seed=i, size=256)
    whole = make_store(source, tmp_path / "whole.zarr", tile_size=32, classes="0=a,1=b")
    out = tmp_path / "s.zarr"
    command = [sys.executable, "-m", "glacier", "ingest", str(source), "--out", str(out),
               "--tile-size", "32", "--classes", "0=a,1=b", "--workers", "1"]  # fmt: skip
    cut_short = 0
    for attempt in range(6):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(list((out / "unfinished").glob("*.npz"))) < 3 * attempt and process.poll() is None:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        cut_short += process.wait() != 0
        process.stderr.close()
        if (out / "zarr.json").exists():
            assert contents(Store(out)) == contents(whole)
        elif out.exists():
            with pytest.raises(GlacierError, match="incomplete"):
                Store(out)
    assert cut_short >= 3
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "192 tiles" in done.stderr
    assert contents(Store(out)) == contents(whole)


def test_workers_give_the_same_store_as_one(source, tmp_path):
    one = make_store(source, tmp_path / "1.zarr", tile_size=32, classes="0=a,1=b")
    two = make_store(source, tmp_path / "2.zarr", tile_size=32, classes="0=a,1=b", workers=2)
    assert contents(one) == contents(two)
    np.testing.assert_array_equal(one.array("moments"), two.array("moments"))
    np.testing.assert_array_equal(one.histogram, two.histogram)


def test_scenes_without_data_are_skipped_and_counted(source, tmp_path):
    write_raster(source / "empty.tif", np.zeros((2, 64, 64), np.uint16), nodata=0, names=("red", "nir"))
    write_raster(source / "empty_label.tif", np.zeros((64, 64), np.uint8))
    report = run(source, tmp_path / "s.zarr")
    assert report.empty_scenes == ("empty",)
    assert (report.tiles, report.empty_tiles) == (25, 4)
    assert Store(tmp_path / "s.zarr").scene_names == ["s"]


def test_nothing_but_empty_scenes_is_an_error(tmp_path):
    write_raster(
        tmp_path / "in" / "e.tif", np.zeros((2, 64, 64), np.uint16), nodata=0, names=("red", "nir")
    )
    write_raster(tmp_path / "in" / "e_label.tif", np.zeros((64, 64), np.uint8))
    with pytest.raises(GlacierError, match="no data: all pixels of all 1 scenes"):
        run(tmp_path / "in", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_label_value_without_a_class_writes_nothing(source, tmp_path):
    label = np.zeros((160, 160), np.uint8)
    label[150, 3] = 7
    write_raster(source / "s_label.tif", label)
    with pytest.raises(GlacierError, match=r"s_label.tif: label value 7 has no class; expected 0=a, 1=b"):
        run(source, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_scenes_without_labels_write_nothing(source, tmp_path):
    (source / "s_label.tif").unlink()
    with pytest.raises(GlacierError, match="scene s: no labels"):
        run(source, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_source_that_ends_early_is_named_and_leaves_no_store(source, tmp_path):
    path = source / "s.tif"
    rasterio.shutil.copy(write_raster(tmp_path / "s.tif", noise()), path, driver="COG", compress="none")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(GlacierError, match=r"s.tif: unreadable at row"):
        run(source, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr" / "zarr.json").exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_something_else_at_out_is_left_alone(source, tmp_path, what):
    out = tmp_path / "precious"
    if what == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(GlacierError, match="exists and is not a store"):
        run(source, out, overwrite=True)
    assert (out / "thesis.txt" if what == "folder" else out).read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"tile_size": 100}, {"tile_size": 0}, {"folds": 1}])
def test_options_out_of_range_are_usage_errors(wrong):
    with pytest.raises(UsageError):
        Options(**wrong)


def test_a_store_may_be_moved_with_its_source(source, tmp_path):
    run(source, tmp_path / "s.zarr")
    moved = tmp_path / "else where"
    moved.mkdir()
    shutil.move(source, moved / "in")
    shutil.move(tmp_path / "s.zarr", moved / "s.zarr")
    assert not run(moved / "in", moved / "s.zarr").fresh


def test_the_root_says_what_made_the_store(source, tmp_path):
    run(source, tmp_path / "s.zarr")
    attributes = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())["attributes"]
    assert attributes["complete"] is True
    assert attributes["source"]["options"]["tile_size"] == 32
