"""Maps come from the runs' networks, whatever the windows, the ranks and the source's layout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import torch
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from glacier.config import Config, shipped
from glacier.errors import GlacierError, UsageError
from glacier.maps.command import MapRequest, predict_all
from glacier.maps.source import SceneSource
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import SAMPLE
from glacier.scenes.layouts import find_scenes
from glacier.scenes.read import gdal_settings
from glacier.synth.write import write_synthetic
from glacier.train.ensemble import turned, turned_back
from glacier.train.loop import train
from glacier.train.members import gather
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from tests.helpers import one_line, write_raster

ROOT = Path(__file__).resolve().parents[2]


def trained(store, out, *settings):
    few = ["data.patch=64", "train.epochs=2", "train.batch=4", "train.samples_per_epoch=32", *settings]
    train(Config.load(shipped("demo"), few), store, out, Ranks(0, 1, torch.device("cpu")))
    return out


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return trained(store, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def other(store, tmp_path_factory):
    """A run of fewer bands in another order, with logarithms."""
    bands = 'data.bands=["swir1", "blue", "thermal"]'
    return trained(
        store, tmp_path_factory.mktemp("runs") / "other", bands, "inputs.log=true", "train.seed=1"
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A scene of 300 x 300 px, with clouds that are no data."""
    out = tmp_path_factory.mktemp("wide") / "scenes"
    write_synthetic(out, layout="scenes", seed=4, count=1, size=300)
    return out


def maps(runs, source, out, **options):
    return predict_all(MapRequest(runs=runs, source=source, out=out, **options))


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def read_scene(source, members):
    """All values of the only scene by rasterio (1, B, H, W), NaN without data."""
    (scene,) = find_scenes(source, labelled=False, bands=members.selection)
    planes = []
    for band in scene.bands:
        with rasterio.open(band.path) as file:
            planes.append(file.read(band.index, masked=True).astype(np.float32).filled(np.nan))
    return torch.from_numpy(np.stack(planes))[None]


def whole_image(path, source, *, side):
    """The class of each pixel by one look of a run's own network at the whole scene."""
    members = gather([load_run(path)])
    raw = read_scene(source, members)
    height, width = raw.shape[-2:]
    padded = torch.full((1, raw.shape[1], side, side), torch.nan)
    padded[..., :height, :width] = raw
    network = members.ensemble(tta=False)
    with torch.inference_mode():
        shares = network(padded)[0, :, :height, :width]
    table = np.array([c.value for c in members.classes])
    return table[shares.argmax(dim=0).numpy()]


def test_maps_lie_on_their_scenes_grids_and_are_called_as_the_files_of_the_first_band(
    run, mountains, tmp_path
):
    written = maps([run], mountains, tmp_path / "maps")
    names = sorted(p.name for p in (mountains / "Band1").iterdir())
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == names
    assert sorted(p.name for p in written) == names
    for path in written:
        with rasterio.open(path) as made, rasterio.open(mountains / "Band1" / path.name) as source:
            assert (made.shape, made.transform, made.crs) == (source.shape, source.transform, source.crs)
            values, nodata = made.read(1), made.nodata
            assert nodata == 254
            assert set(np.unique(values)) <= {0, 85, 170, 255, nodata}
        # a cloud over all optical bands, and only that, is no data
        tile = path.stem[-5:]
        gone = [pixels(next((mountains / f"Band{b}").glob(f"*{tile}.tif")))[0] == 0 for b in range(1, 5)]
        np.testing.assert_array_equal(values == nodata, np.all(gone, axis=0))


def test_a_scene_of_one_window_is_mapped_as_a_whole_image(run, wide, tmp_path):
    (path,) = maps([run], wide, tmp_path / "maps", window=320)
    found = pixels(path)[0]
    held = found != 254
    assert 0.5 < held.mean() < 1
    np.testing.assert_array_equal(found[held], whole_image(run, wide, side=320)[held])


def test_a_network_sees_of_a_scene_what_it_sees_of_the_store(run, mountains, store):
    """Physical values, standardised, are the store's codes, standardised."""
    members = gather([load_run(run)])
    own = members.runs[0]
    scenes = find_scenes(mountains, labelled=False, bands=members.selection)
    names, origin = store.scene_names, store.array("origin")
    source = SceneSource(scenes)
    for number in range(0, len(store), 5):
        sample = np.zeros(1, SAMPLE)
        sample["tile"] = number
        tile = Buffer.empty(1, 64, len(own.bands), own.bands[0].dtype)
        store.read_into(sample, tile)
        sample["tile"] = [scene.name for scene in scenes].index(names[store.array("scene")[number]])
        sample["y"], sample["x"] = origin[number]
        window = Buffer.empty(1, 64, len(own.bands), "float32")
        with gdal_settings(scenes):
            source.read_into(sample, window)
        seen = [
            inputs(torch.from_numpy(buffer.image).permute(0, 3, 1, 2))
            for inputs, buffer in (
                (Inputs(own.bands, own.statistics), tile),
                (Inputs(members.bands, own.statistics), window),
            )
        ]
        torch.testing.assert_close(*seen, rtol=0, atol=1e-3)
    source.close()


def test_the_members_of_an_ensemble_see_their_own_bands(run, other, wide, tmp_path):
    (path,) = maps([run, other], wide, tmp_path / "maps", window=320, shares="float16")
    members = gather([load_run(run), load_run(other)])
    assert [band.name for band in members.bands][:3] == ["blue", "green", "red"]
    mean = 0
    for each in (run, other):
        alone = gather([load_run(each)])
        padded = torch.nn.functional.pad(read_scene(wide, alone), (0, 20, 0, 20), value=torch.nan)
        network = alone.ensemble(tta=False)
        with torch.inference_mode():
            mean = mean + network(padded)[0, :, :300, :300] / 2
    found = pixels(tmp_path / "maps" / "probabilities" / path.name)
    held = ~np.isnan(found)
    np.testing.assert_allclose(found[held], mean.numpy()[held], atol=5e-4)
    classes = pixels(path)[0]
    np.testing.assert_array_equal(classes == 254, ~held[0])
    clear = held[0] & (np.sort(found, axis=0)[-1] - np.sort(found, axis=0)[-2] > 1e-3)
    np.testing.assert_array_equal(
        classes[clear], np.array([0, 85, 170, 255])[mean.numpy().argmax(axis=0)][clear]
    )


def test_symmetries_are_the_mean_over_turned_windows(run, wide, tmp_path):
    maps([run], wide, tmp_path / "maps", window=320, shares="float16", tta=True)
    members = gather([load_run(run)])
    padded = torch.nn.functional.pad(read_scene(wide, members), (0, 20, 0, 20), value=torch.nan)
    network = members.ensemble(tta=False)
    with torch.inference_mode():
        views = [turned_back(network(turned(padded, k)), k)[0, :, :300, :300] for k in range(8)]
    (path,) = (tmp_path / "maps" / "probabilities").iterdir()
    found = pixels(path)
    held = ~np.isnan(found)
    np.testing.assert_allclose(found[held], torch.stack(views).mean(dim=0).numpy()[held], atol=1e-3)


def test_confidence_is_the_probability_of_each_pixels_class(call, run, wide, tmp_path):
    out = tmp_path / "maps"
    (path,) = maps([run], wide, out, confidence=True, shares="uint8", fill="background")
    with rasterio.open(out / "confidence" / path.name) as file:
        assert (file.descriptions, file.dtypes, file.nodata) == (("confidence",), ("uint8",), 255)
        assert file.scales == (0.004,)
        with rasterio.open(path) as beside:
            assert (file.shape, file.transform, file.crs) == (beside.shape, beside.transform, beside.crs)
        found = file.read(1)
    assert cog_validate(out / "confidence" / path.name, strict=True, quiet=True)[0]
    probabilities = pixels(out / "probabilities" / path.name)
    np.testing.assert_array_equal(found, probabilities.max(axis=0))
    held = found != 255
    assert 0.5 < held.mean() < 1
    index = np.searchsorted([0, 85, 170, 255], pixels(path)[0])
    chosen = np.take_along_axis(probabilities, index[None], axis=0)[0]
    np.testing.assert_array_equal(chosen[held], found[held])

    maps([run], wide, tmp_path / "later", fill="background")
    words = ["predict", run, wide, "later", "--fill", "background", "--confidence"]
    assert "1 map;" in call(*words).stderr
    assert "1 of which stood there" in call(*words).stderr
    assert "stands there and was not made" in one_line(call(*words, "--tta"))
    for name in (path.name, f"confidence/{path.name}"):
        assert (tmp_path / "later" / name).read_bytes() == (out / name).read_bytes()
    (tmp_path / "later" / path.name).unlink()
    for asked in (words, words[:-1]):  # another map would stand beside it
        assert f"confidence/{path.name}: stands there" in one_line(call(*asked, "--tta"))


def test_two_ranks_make_the_bytes_that_one_makes(run, wide, tmp_path):
    """A scene shared by ranks, and more scenes than ranks; all kinds of output."""
    source = shutil.copytree(wide, tmp_path / "in")
    write_synthetic(tmp_path / "more", layout="scenes", seed=8, count=2, size=64)
    for i, folder in enumerate(sorted((tmp_path / "more").iterdir())):
        for file in sorted(folder.iterdir()):
            target = source / f"extra{i}" / file.name.replace("scene", f"extra{i}")
            target.parent.mkdir(exist_ok=True)
            shutil.move(file, target)
    cores = sorted(os.sched_getaffinity(0))
    for ranks in (1, 2):  # with one thread each: sums depend on how many add them up
        on = ",".join(map(str, cores[:ranks]))
        command = ["taskset", "-c", on, sys.executable, "-m", "torch.distributed.run"]
        command += ["--nproc_per_node", str(ranks), ROOT / "cli.py", "predict", run, source, "--polygons"]
        done = subprocess.run(
            [*command, tmp_path / f"by{ranks}", "--probabilities", "uint8", "--confidence"],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "3 maps" in done.stderr
    one = {p.relative_to(tmp_path / "by1"): p for p in (tmp_path / "by1").rglob("*") if p.is_file()}
    two = {p.relative_to(tmp_path / "by2"): p for p in (tmp_path / "by2").rglob("*") if p.is_file()}
    assert one.keys() == two.keys()
    assert len(one) == 12
    for name, path in one.items():
        if path.suffix == ".gpkg":  # which says when it was made
            found, expected = (pyogrio.raw.read(file)[2:] for file in (path, two[name]))
            assert [list(column) for column in (found[0], *found[1])] == [
                list(column) for column in (expected[0], *expected[1])
            ]
        else:
            assert path.read_bytes() == two[name].read_bytes(), name


def test_pixels_without_data_may_be_given_a_class(run, mountains, tmp_path):
    plain = maps([run], mountains, tmp_path / "plain")
    filled = maps([run], mountains, tmp_path / "filled", fill="background")
    holes = 0
    for a, b in zip(plain, filled, strict=True):
        before, after = pixels(a), pixels(b)
        np.testing.assert_array_equal(after, np.where(before == 254, 0, before))
        holes += (before == 254).sum()
    assert holes > 0
    with pytest.raises(UsageError, match="--fill snow: no such class, expected one of background, glacier"):
        maps([run], mountains, tmp_path / "x", fill="snow")


def test_maps_that_stand_are_not_made_again_and_others_are_refused(call, run, other, mountains, tmp_path):
    source = shutil.copytree(mountains, tmp_path / "in")
    out = tmp_path / "maps"
    before = {path: path.read_bytes() for path in maps([run], source, out)}
    gone, *kept = before
    gone.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    result = call("predict", run, source, out)
    assert "9 maps, 8 of which stood there" in result.stderr
    assert gone.read_bytes() == before[gone]
    assert stamps == {path: path.stat().st_mtime_ns for path in kept}
    assert "9 of which" in call("predict", run, source, out).stderr
    assert "stands there and was not made by these runs" in one_line(call("predict", other, source, out))
    assert "was not made by these runs" in one_line(call("predict", run, source, out, "--tta"))
    next((source / "Band2").iterdir()).touch()  # fetched again, say
    assert "from this source" in one_line(call("predict", run, source, out))


def test_nothing_that_is_not_the_same_is_taken_for_made(call, run, mountains, tmp_path):
    """Files called `.tiff` keep their name; probabilities and outlines have tags of their own."""
    source, out = tmp_path / "in", tmp_path / "maps"
    for folder in sorted(path for path in mountains.iterdir() if path.name != "label"):
        for file in folder.glob("*_00_0?.tif"):
            (source / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, source / folder.name / f"{file.stem}.tiff")
    options = ["--probabilities", "uint8", "--polygons"]
    assert "3 maps;" in call("predict", run, source, out, *options).stderr
    assert "3 of which stood there" in call("predict", run, source, out, *options).stderr
    assert "not made by these runs" in one_line(call("predict", run, source, out, "--tta"))
    assert "not made by these" in one_line(call("predict", run, source, out, "--probabilities", "float16"))
    for map_ in out.glob("*.tiff"):
        map_.unlink()
    line = one_line(call("predict", run, source, out, "--tta", "--probabilities", "uint8"))
    assert "probabilities" in line
    shutil.rmtree(out / "probabilities")
    line = one_line(call("predict", run, source, out, "--tta"))  # asked for or not
    assert ".gpkg: stands there" in line


def test_sources_are_never_written_over(call, run, mountains, tmp_path):
    source = shutil.copytree(mountains, tmp_path / "in")
    before = {path: path.read_bytes() for path in source.rglob("*.tif")}
    for out in (source, source / "Band1", source / "maps", tmp_path / "in" / ".." / "in" / "Band2"):
        assert "whose files maps would be taken for" in one_line(call("predict", run, source, out), 2)
    (tmp_path / "link").symlink_to(source / "Band1")
    assert "taken for" in one_line(call("predict", run, source, tmp_path / "link"), 2)
    shutil.copytree(source / "Band1", tmp_path / "copies")
    assert "stands there" in one_line(call("predict", run, source, tmp_path / "copies"))
    assert {path: path.read_bytes() for path in source.rglob("*.tif")} == before


def test_places_that_are_no_folder_are_named(call, run, mountains, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "not a folder" in one_line(call("predict", run, mountains, tmp_path / "file"))
    result = call("predict", run, mountains, "s3://bucket/maps")
    assert result.exit_code == 2
    assert "s3://bucket/maps is an address, expected a folder" in result.stderr
    assert not (tmp_path / "s3:").exists()


def test_a_full_disk_is_told_and_left_as_it_was(call, run, mountains, disk):
    at = disk("size=16k")
    line = one_line(call("predict", run, mountains, at / "maps"))
    assert "make room" in line or "is the disk full?" in line
    assert not list((at / "maps").rglob("*"))
    disk("size=64m")
    assert "9 maps" in call("predict", run, mountains, at / "maps").stderr
    disk("ro,size=64m")
    assert "9 of which stood there" in call("predict", run, mountains, at / "maps").stderr


def test_a_window_may_be_given(call, run, mountains, tmp_path):
    assert call("predict", run, mountains, "maps", "--window", "128").exit_code == 0
    (path,) = maps([run], mountains, tmp_path / "again", window=128)[:1]
    np.testing.assert_array_equal(pixels(tmp_path / "maps" / path.name), pixels(path))
    assert "multiple of 32" in one_line(call("predict", run, mountains, "x", "--window", "100"), 2)


def strange(source, out, value):
    """A copy of a scene of floats with one pixel of `value` in its first band."""
    for path in source.rglob("*.tif"):
        with rasterio.open(path) as file:
            values = file.read().astype(np.float64)
            if "glcm" not in path.name.lower():
                values[0, 11, 13] = value
            target = out / path.relative_to(source)
            write_raster(target, values, crs=file.crs, transform=file.transform, nodata=file.nodata,
                         names=[name or "" for name in file.descriptions])  # fmt: skip
    return out


def test_what_single_precision_cannot_hold_is_no_data(run, wide, tmp_path):
    (found,) = maps([run], strange(wide, tmp_path / "huge", 1e300), tmp_path / "maps", window=320)
    (expected,) = maps([run], strange(wide, tmp_path / "gap", np.nan), tmp_path / "maps2", window=320)
    np.testing.assert_array_equal(pixels(found), pixels(expected))


def test_values_beyond_belief_are_warned_of(call, run, wide, tmp_path):
    """A no-data value that no file declares, in one pixel."""
    strange(wide, tmp_path / "in", -1e9)
    assert "blue is" in call("predict", run, tmp_path / "in", "maps").stderr


def test_a_network_that_gives_no_numbers_maps_nothing(call, run, wide, tmp_path):
    record = torch.load(run / "best.pt", weights_only=True)
    record["weights"] = {
        k: v * torch.nan if v.is_floating_point() else v for k, v in record["weights"].items()
    }
    (tmp_path / "broken").mkdir()
    torch.save(record, tmp_path / "broken" / "best.pt")
    assert "the network gives no numbers in rows 0 to" in one_line(call("predict", "broken", wide, "maps"))
    assert not list((tmp_path / "maps").rglob("*"))


def test_what_a_killed_prediction_left_is_no_map(call, run, mountains, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("rasterio.shutil.copy", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            maps([run], mountains, tmp_path / "maps")
    assert not list((tmp_path / "maps").glob("*.tif"))
    assert len(maps([run], mountains, tmp_path / "maps")) == 9
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {
        p.name for p in (mountains / "Band1").iterdir()
    }


@pytest.mark.parametrize("factor", [100, 1e-4])
def test_other_units_are_warned_of(call, run, mountains, tmp_path, factor):
    """Digital numbers for reflectance, and the other way round."""
    source = shutil.copytree(mountains, tmp_path / "in")
    for path in (source / "Band2").iterdir():
        with rasterio.open(path) as file:
            values, profile = file.read() * np.float32(factor), file.profile
        write_raster(path, values, crs=profile["crs"], transform=profile["transform"], nodata=0)
    found = call("predict", run, source, "maps").stderr
    assert "green is" in found
    assert "red is" not in found


def test_what_cannot_be_mapped_is_named(run, mountains, tmp_path):
    with pytest.raises(GlacierError, match="no such run"):
        maps([tmp_path / "nowhere"], mountains, tmp_path / "maps")
    with pytest.raises(UsageError, match="--window 100: expected a multiple of 32 px"):
        maps([run], mountains, tmp_path / "maps", window=100)
    write_raster(tmp_path / "in" / "s_red.tif", np.ones((64, 64), np.uint16))
    with pytest.raises(UsageError, match="scene s: no band blue"):
        maps([run], tmp_path / "in", tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_runs_of_other_classes_are_no_ensemble(run, other, mountains, tmp_path):
    record = torch.load(other / "best.pt", weights_only=True)
    record["classes"][1]["name"] = "snow"
    (tmp_path / "snow").mkdir()
    torch.save(record, tmp_path / "snow" / "best.pt")
    with pytest.raises(GlacierError, match="runs of different classes"):
        maps([run, tmp_path / "snow"], mountains, tmp_path / "maps")


def test_textures_may_lie_elsewhere(run, mountains, tmp_path):
    source = shutil.copytree(mountains, tmp_path / "in")
    for folder in list(source.glob("GLCM_*")):
        folder.rename(tmp_path / folder.name)
    with pytest.raises(UsageError, match="no band glcm_contrast"):
        maps([run], source, tmp_path / "maps")
    made = maps([run], source, tmp_path / "maps", glcm="../GLCM_*/*.tif")
    for path, beside in zip(made, maps([run], mountains, tmp_path / "maps2"), strict=True):
        np.testing.assert_array_equal(pixels(path), pixels(beside))


def test_a_band_is_not_taken_for_another_sensors(run, tmp_path):
    """The run's thermal band had the code B10; on Sentinel-2 that is cirrus."""
    for code in ("B02", "B03", "B04", "B11", "B10"):
        write_raster(tmp_path / "in" / f"S2A_x_{code}.tif", np.ones((64, 64), np.uint16))
    for texture in ("contrast", "homogeneity"):
        write_raster(tmp_path / "in" / f"S2A_x_glcm_{texture}.tif", np.ones((64, 64), np.float32))
    with pytest.raises(UsageError, match=r"no band thermal; it has .*B10 \(cirrus\)"):
        maps([run], tmp_path / "in", tmp_path / "maps")


def test_a_band_of_an_unknown_sensor_is_known_by_its_code(run, tmp_path):
    members = gather([load_run(run)])
    for band in members.bands[:5]:
        write_raster(tmp_path / "in" / f"x_{band.code}.tif", np.ones((64, 64), np.uint16))
    for band in members.bands[5:]:
        write_raster(tmp_path / "in" / f"x_{band.name}.tif", np.ones((64, 64), np.float32))
    (scene,) = find_scenes(tmp_path / "in", bands=members.selection)
    assert [band.name for band in scene.bands] == [band.name for band in members.bands]
    assert [band.path.stem for band in scene.bands][:2] == ["x_B2", "x_B3"]


def test_a_scene_without_a_place_on_earth_is_mapped_quietly(run, tmp_path):
    for band in load_run(run).bands:
        dtype = np.float32 if band.name.startswith("glcm") else np.uint16
        write_raster(tmp_path / "in" / f"x_{band.name}.tif", np.ones((70, 50), dtype), crs=None,
                     transform=Affine(1, 0, 0, 0, -1, 70))  # fmt: skip
    (path,) = maps([run], tmp_path / "in", tmp_path / "maps")
    with rasterio.open(path) as file:
        assert file.shape == (70, 50)
        assert file.crs is None
    with pytest.raises(UsageError, match="--polygons: scene x has no CRS that lies on the earth"):
        maps([run], tmp_path / "in", tmp_path / "outlines", polygons=True)


def test_where_a_scene_is_masked_there_is_no_data(tmp_path):
    """By a mask or an alpha band, of which 0 is no data; the window reaches beyond the scene."""
    held = np.random.default_rng(0).random((40, 50)) < 0.5
    values = np.random.default_rng(1).integers(1, 200, (40, 50)).astype(np.uint8)
    write_raster(tmp_path / "a" / "s_red.tif", np.stack((values, held * np.uint8(255))), alpha="yes")
    path = write_raster(tmp_path / "b" / "s_red.tif", values)
    with rasterio.open(path, "r+") as file:
        file.write_mask(held)
    sample = np.zeros(1, SAMPLE)
    for folder in "ab":
        scenes = find_scenes(tmp_path / folder, labelled=False)
        out, source = Buffer.empty(1, 64, 1, "float32"), SceneSource(scenes)
        with gdal_settings(scenes):
            source.read_into(sample, out)
            source.close()
        np.testing.assert_array_equal(out.label[0] == 0, np.pad(held, ((0, 24), (0, 14))))
        expected = np.where(held, values.astype(np.float32), np.nan)
        expected = np.pad(expected, ((0, 24), (0, 14)), constant_values=np.nan)
        np.testing.assert_array_equal(out.image[0, ..., 0], expected)
        mean, std = source.seen[0].mean_and_std()
        sampled = expected[::8, ::8]
        assert (mean[0], std[0]) == pytest.approx((np.nanmean(sampled), np.nanstd(sampled)), rel=1e-6)
