"""A store is complete or unreadable: unfinished ingests, repeated ones, replaced ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

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


def test_a_scene_name_that_does_not_fit_is_named(source, tmp_path):
    for suffix in ("", "_label"):
        (source / f"s{suffix}.tif").rename(source / f"{'ü' * 115}{suffix}.tif")
    run(source, tmp_path / "s.zarr")
    assert Store(tmp_path / "s.zarr").scene_names == ["ü" * 115]
    (scene,) = find_scenes(source)
    with pytest.raises(GlacierError, match="its name has 256 bytes as UTF-8, expected at most 255"):
        ingest(source, [replace(scene, name="ü" * 128)], tmp_path / "t.zarr", OPTIONS)
    assert not (tmp_path / "t.zarr").exists()


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


@pytest.mark.parametrize("what", ["folder", "unfinished", "zarr", "file"])
def test_something_else_at_out_is_left_alone(source, tmp_path, what):
    out = tmp_path / "precious"
    if what == "file":
        out.write_text("mine")
    else:
        (out / "unfinished").mkdir(parents=True)
        (out / "thesis.txt").write_text("mine")
        if what == "zarr":
            zarr.create_group(out, attributes={"mine": True})
    with pytest.raises(GlacierError, match="exists and is not a glacier store"):
        run(source, out, overwrite=True)
    assert (out if what == "file" else out / "thesis.txt").read_text() == "mine"


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


OTHER = Options(tile_size=64, classes="0=a,1=b", folds=2, dtype="float32")


def interrupted(monkeypatch, name, call):
    """Run `call`, cut off where `write.<name>` would begin."""
    module, _, attribute = name.rpartition(".")
    target = write if not module else getattr(write, module)
    with monkeypatch.context() as patch:
        patch.setattr(target, attribute, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.parametrize("at", ["write_shard", "commit", "StoreWriter.finished"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_ingest_cut_off_anywhere_makes_way_for_another(source, tmp_path, monkeypatch, at, overwrite):
    """What the first left behind never mixes into what the second writes."""
    out = tmp_path / "s.zarr"
    if overwrite:
        run(source, out)
    interrupted(monkeypatch, at, lambda: run(source, out, OPTIONS, overwrite=overwrite))
    run(source, out, OTHER, overwrite=True)
    expected = tmp_path / "expected.zarr"
    run(source, expected, OTHER)
    assert contents(Store(out)) == contents(Store(expected))
    assert Store(out).meta.dtype == "float32"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["expected.zarr", "in", "s.zarr"]


def test_a_swap_cut_off_is_mended(source, tmp_path):
    """Killed between the two renames: the old store is aside, the new one not yet in place."""
    out = tmp_path / "s.zarr"
    run(source, out)
    old = contents(Store(out))
    out.rename(tmp_path / ".s.zarr.old")
    assert not run(source, out).fresh
    assert contents(Store(out)) == old
    out.rename(tmp_path / ".s.zarr.old")
    run(source, tmp_path / ".s.zarr.new", OTHER)
    assert not run(source, out, OTHER).fresh
    assert Store(out).meta.dtype == "float32"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in", "s.zarr"]


def test_a_swap_cut_off_before_it_began_is_ended_and_nothing_done_again(source, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    run(source, out)
    with monkeypatch.context() as patch:
        patch.setattr("glacier.ingest.place.Place.finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(source, out, OTHER, overwrite=True)
    assert Store(out).meta.dtype == "int16"
    assert not run(source, out, OTHER, overwrite=True).fresh
    assert Store(out).meta.dtype == "float32"
    assert run(source, out, OTHER, overwrite=True).fresh
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in", "s.zarr"]


def test_a_wrong_class_map_does_not_cost_what_is_there(source, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    interrupted(monkeypatch, "commit", lambda: run(source, out))
    wrong = Options(tile_size=32, classes="0=a,3=b", folds=2)
    with pytest.raises(GlacierError, match="label value 1 has no class"):
        run(source, out, wrong, overwrite=True)
    assert run(source, out).resumed == 13


def test_outlines_and_rasters_in_one_source_need_classes_for_both(source, tmp_path):
    """Outlines are burnt as 0 and 1; nothing is written before that is found out."""
    import pyogrio
    import shapely

    write_raster(source / "more" / "t.tif", noise(), nodata=0, names=("red", "nir"))
    polygon = shapely.to_wkb(np.array([shapely.box(500000, 3099000, 501000, 3100000)], object))
    pyogrio.raw.write(
        source / "more" / "o.gpkg", polygon, [], [], geometry_type="Polygon", crs="EPSG:32645"
    )
    with pytest.raises(GlacierError, match="label value 1 has no class"):
        run(source, tmp_path / "s.zarr", Options(tile_size=32, classes="0=a,85=b", folds=2))
    assert not (tmp_path / "s.zarr").exists()
    run(source, tmp_path / "s.zarr")
    assert Store(tmp_path / "s.zarr").scene_names == ["s", "t"]


def test_scenes_that_disagree_about_dtype_and_no_data_are_packed_together(tmp_path):
    """uint16 without a no-data value beside float32 with NaN: one store, every value as it was."""
    whole = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64)
    part = np.full((1, 64, 64), np.nan, np.float32)
    for lower, expected in ((0, 0), (32, 32 * 64)):
        source = tmp_path / str(lower)
        write_raster(source / "a.tif", whole, names=("red",))
        part[0, :lower] = 7.0
        write_raster(source / "b.tif", part, names=("red",))
        for name in "ab":
            write_raster(source / f"{name}_label.tif", np.zeros((64, 64), np.uint8))
        store = make_store(source, tmp_path / f"{lower}.zarr", tile_size=64, classes="0=a,1=b", folds=2)
        band = store.meta.bands[0]
        np.testing.assert_array_equal(band.unpack(store.image(0)[..., 0]), whole[0])
        assert len(store) == 1 + (lower > 0)
        if lower:
            back = band.unpack(store.image(1)[..., 0])
            np.testing.assert_array_equal(back, part[0])
        assert store.histogram.sum() == 64 * 64 + expected


def test_textures_do_not_decide_what_is_data(tmp_path):
    """Competition tiles name no sensor: their bands are of unknown role, their textures are not."""
    band = np.ones((64, 64), np.uint16)
    band[:32] = 0
    for number in (1, 2):
        write_raster(tmp_path / "in" / f"Band{number}" / f"B{number + 1}_masked_02_07.tif", band, nodata=0)
    write_raster(tmp_path / "in" / "GLCM_contrast" / "c_02_07.tif", np.ones((64, 64), np.float32))
    write_raster(tmp_path / "in" / "label" / "Y_02_07.tif", np.full((64, 64), 85, np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=32, folds=2)
    assert len(store) == 2
    assert store.histogram.sum() == 64 * 32


@pytest.mark.parametrize("value", [-9999.0, -3.4e38, 1e20])
def test_an_undeclared_no_data_value_is_refused_not_packed(tmp_path, value):
    pixels = np.random.default_rng(0).normal(0.3, 0.1, (1, 64, 64)).astype(np.float32)
    pixels[0, :9] = value
    write_raster(tmp_path / "in" / "s.tif", pixels, names=("red",))
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((64, 64), np.uint8))
    with pytest.raises(GlacierError, match=r"band red: value .* stands far from all others.*-a_nodata"):
        make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", folds=2)
    assert not (tmp_path / "s.zarr").exists()


def test_float32_says_what_wider_types_lose(tmp_path):
    pixels = np.array([[2**24 + 1, -5]], np.int32).repeat(8, 0).repeat(4, 1)[None]
    write_raster(tmp_path / "in" / "s.tif", pixels, names=("red",))
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((8, 8), np.uint8))
    store = make_store(
        tmp_path / "in", tmp_path / "s.zarr", tile_size=32, classes="0=a,1=b", folds=2, dtype="float32"
    )
    (band,) = store.meta.bands
    error = np.abs(band.unpack(store.image(0)[:8, :8, 0]) - pixels[0]).max()
    assert 0 < error <= band.bound <= 2


def test_a_labels_own_no_data_value_is_no_class_unless_asked_for(tmp_path):
    label = np.array([[0, 85], [255, 255]], np.uint8).repeat(16, 0).repeat(16, 1)
    write_raster(tmp_path / "in" / "s_red.tif", np.ones((32, 32), np.uint8), nodata=0)
    write_raster(tmp_path / "in" / "s_label.tif", label, nodata=255)
    store = make_store(tmp_path / "in", tmp_path / "a.zarr", tile_size=32, folds=2)
    assert store.histogram.sum(axis=(0, 1, 2)).tolist() == [256, 256, 0, 0]
    asked = "0=background,85=glacier,255=lake"
    store = make_store(tmp_path / "in", tmp_path / "b.zarr", tile_size=32, folds=2, classes=asked)
    assert store.histogram.sum(axis=(0, 1, 2)).tolist() == [256, 256, 512]


def test_float_labels_may_hold_nan(tmp_path):
    label = np.zeros((32, 32), np.float32)
    label[:8], label[8:16] = np.nan, 1
    write_raster(tmp_path / "in" / "s_red.tif", np.ones((32, 32), np.uint8), nodata=0)
    write_raster(tmp_path / "in" / "s_label.tif", label)
    store = make_store(tmp_path / "in", tmp_path / "a.zarr", tile_size=32, folds=2, classes="0=a,1=b")
    assert store.histogram.sum(axis=(0, 1, 2)).tolist() == [512, 256]
    label[0, 0] = 0.5
    write_raster(tmp_path / "in" / "s_label.tif", label)
    with pytest.raises(GlacierError, match="holds fractions"):
        make_store(tmp_path / "in", tmp_path / "b.zarr", tile_size=32, folds=2, classes="0=a,1=b")


@pytest.mark.parametrize("name", ["s.tif.msk", "s.tfw", "s.tif.aux.xml", "s_label.tif.msk"])
def test_files_beside_a_raster_tell_sources_apart(source, tmp_path, name):
    run(source, tmp_path / "s.zarr")
    if name.endswith(".msk"):
        write_raster(source / "mask.tif", np.full((160, 160), 255, np.uint8)).rename(source / name)
    else:
        (source / name).write_text("30\n0\n0\n-30\n0\n0\n" if name.endswith("w") else "<PAMDataset/>")
    with pytest.raises(GlacierError, match="another source"):
        run(source, tmp_path / "s.zarr")


def test_a_tile_beyond_what_blosc_takes_is_refused_before_anything_is_written(
    source, tmp_path, monkeypatch
):
    monkeypatch.setattr(write, "MOST_BYTES", 4095)
    with pytest.raises(
        GlacierError, match="--tile-size: 32 px of 2 bands int16 are 4096 bytes, expected at most"
    ):
        run(source, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_the_root_of_the_file_system_is_no_store(source):
    with pytest.raises(GlacierError, match="/: cannot be written"):
        run(source, Path("/"))
