"""Maps lie on their scene's grid, hold the labels' own values, and come from the run's network."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from glacier.classes import IGNORE, Class, coloured
from glacier.config import Config, shipped
from glacier.errors import GlacierError, UsageError
from glacier.maps.command import predict_all
from glacier.maps.predict import SceneSource, predict_scene, selection, window_grid, write_map
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.order import SAMPLE
from glacier.scenes.layouts import find_scenes
from glacier.scenes.read import SceneReader
from glacier.scenes.scene import Grid, Scene, SourceBand
from glacier.store.bands import Band
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from tests.helpers import NORTH_UP, write_raster


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = ["data.patch=64", "train.epochs=1", "train.batch=4", "train.samples_per_epoch=16"]
    train(Config.load(shipped("demo"), settings), store, out, Ranks(0, 1, torch.device("cpu")))
    return out


@pytest.mark.parametrize(("height", "width"), [(1, 1), (48, 48), (49, 200), (130, 47)])
def test_the_middles_of_windows_cover_a_scene_once(height, width):
    covered = np.zeros((height, width), int)
    for sample in window_grid(height, width, 64, 8):
        top, left = int(sample["y"]) + 8, int(sample["x"]) + 8
        covered[top : top + 48, left : left + 48] += 1
    assert (covered == 1).all()


def test_maps_lie_on_their_scenes_grids(run, mountains, tmp_path):
    written = predict_all(run, mountains, tmp_path / "maps")
    assert sorted(p.name for p in written) == [f"{r:02d}_{c:02d}.tif" for r in range(3) for c in range(3)]
    for path in written:
        band = next((mountains / "Band1").glob(f"*_{path.stem}.tif"))
        with rasterio.open(path) as made, rasterio.open(band) as source:
            assert (made.shape, made.transform, made.crs) == (source.shape, source.transform, source.crs)
            values, nodata = made.read(1), made.nodata
            assert nodata == 254
            assert set(np.unique(values)) <= {0, 85, 170, 255, nodata}
            assert made.colormap(1)[85][:3] == (0x9F, 0xDC, 0xF5)
            # a cloud over all optical bands, and only that, is no data
            optical = [
                rasterio.open(next((mountains / f"Band{b}").glob(f"*_{path.stem}.tif")))
                for b in range(1, 5)
            ]
            gone = np.all([f.read(1) == 0 for f in optical], axis=0)
            np.testing.assert_array_equal(values == nodata, gone)
            for file in optical:
                file.close()


def test_the_middle_of_a_window_is_the_networks_own_answer(run, mountains):
    """Pixels read by rasterio, packed, and shown to the network directly give the same classes."""
    trained = load_run(run)
    segmenter = trained.segmenter()
    scene = find_scenes(mountains, bands=selection(trained))[4]
    classes, clipped = predict_scene(trained, segmenter, scene, torch.device("cpu"))
    assert clipped == 0
    raw = np.empty((64, 64, 7), np.int16)
    for i, (band, source) in enumerate(zip(trained.bands, scene.bands, strict=True)):
        with rasterio.open(source.path) as file:
            values = file.read(source.index)[40:104, 40:104]
            band.pack(values, file.read_masks(source.index)[40:104, 40:104] != 0, raw[..., i])
    with torch.inference_mode():
        direct = segmenter(torch.from_numpy(raw).permute(2, 0, 1)[None]).argmax(dim=1)[0].numpy()
    middle, direct = classes[48:96, 48:96], direct[8:56, 8:56]
    held = middle != IGNORE
    assert held.mean() > 0.5
    assert (middle == direct)[held].mean() > 0.999


def scene(nodata, dtype="uint8"):
    from pathlib import Path

    band = SourceBand("red", "B4", Path("s.tif"), 1, dtype, nodata)
    return Scene("s", Grid(2, 3, NORTH_UP @ Affine.rotation(20), "EPSG:32645"), (band,), None)


@pytest.mark.parametrize(
    ("values", "own", "dtype", "nodata"),
    [
        ([0, 85, 170, 255], None, "uint8", 254),
        ([0, 85, 170, 255], 0.0, "uint8", 254),
        ([0, 1], None, "uint8", 255),
        ([1, 2], 0.0, "uint8", 0),
        ([0, 1], float("nan"), "uint8", 255),
        ([0, 1], -9999.0, "uint8", 255),
        ([0, 300], None, "int32", 2**31 - 1),
    ],
)
def test_no_data_is_a_value_that_no_class_has(tmp_path, values, own, dtype, nodata):
    classes = coloured((f"c{v}", v) for v in values)
    found = np.array([[0, 1, IGNORE], [1, 0, 0]], np.uint8)
    write_map(tmp_path / "m.tif", found, scene(own), classes)
    with rasterio.open(tmp_path / "m.tif") as file:
        assert (file.dtypes[0], file.nodata) == (dtype, nodata)
        expected = np.array([[values[0], values[1], nodata], [values[1], values[0], values[0]]])
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.transform.almost_equals(scene(own).grid.transform)
    assert [f.name for f in tmp_path.iterdir()] == ["m.tif"]


def test_an_interrupted_map_leaves_no_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda a, b: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_map(tmp_path / "m.tif", np.zeros((2, 3), np.uint8), scene(None), [Class("a", 0, "#000000")])
    assert not (tmp_path / "m.tif").exists()


def test_what_cannot_be_mapped_is_named(run, mountains, tmp_path):
    with pytest.raises(GlacierError, match="no such run"):
        predict_all(tmp_path / "nowhere", mountains, tmp_path / "maps")
    with pytest.raises(GlacierError, match="exists and is not empty"):
        predict_all(run, mountains, mountains)
    write_raster(tmp_path / "in" / "s_red.tif", np.ones((64, 64), np.uint16))
    with pytest.raises(UsageError, match="scene s: no band blue"):
        predict_all(run, tmp_path / "in", tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_textures_may_lie_elsewhere(run, mountains, tmp_path):
    source = shutil.copytree(mountains, tmp_path / "in")
    for folder in list(source.glob("GLCM_*")):
        folder.rename(tmp_path / folder.name)
    with pytest.raises(UsageError, match="no band glcm_contrast"):
        predict_all(run, source, tmp_path / "maps")
    maps = predict_all(run, source, tmp_path / "maps", glcm="../GLCM_*/*.tif")
    for path, beside in zip(maps, predict_all(run, mountains, tmp_path / "maps2"), strict=True):
        assert path.read_bytes() == beside.read_bytes()


def test_a_band_is_not_taken_for_another_sensors(run, tmp_path):
    """The run's thermal band had the code B10; on Sentinel-2 that is cirrus."""
    for code in ("B02", "B03", "B04", "B11", "B10"):
        write_raster(tmp_path / "in" / f"S2A_x_{code}.tif", np.ones((64, 64), np.uint16))
    for texture in ("contrast", "homogeneity"):
        write_raster(tmp_path / "in" / f"S2A_x_glcm_{texture}.tif", np.ones((64, 64), np.float32))
    with pytest.raises(UsageError, match=r"no band thermal; it has .*B10 \(cirrus\)"):
        predict_all(run, tmp_path / "in", tmp_path / "maps")


def test_a_band_of_an_unknown_sensor_is_known_by_its_code(run, mountains, tmp_path):
    trained = load_run(run)
    for band in trained.bands[:5]:
        write_raster(tmp_path / "in" / f"x_{band.code}.tif", np.ones((64, 64), np.uint16))
    for band in trained.bands[5:]:
        write_raster(tmp_path / "in" / f"x_{band.name}.tif", np.ones((64, 64), np.float32))
    (scene,) = find_scenes(tmp_path / "in", bands=selection(trained))
    assert [band.name for band in scene.bands] == [band.name for band in trained.bands]
    assert [band.path.stem for band in scene.bands][:2] == ["x_B2", "x_B3"]


def test_a_scene_without_a_place_on_earth_is_mapped_quietly(run, tmp_path):
    for band in load_run(run).bands:
        dtype = np.float32 if band.name.startswith("glcm") else np.uint16
        write_raster(tmp_path / "in" / f"x_{band.name}.tif", np.ones((70, 50), dtype), crs=None,
                     transform=Affine(1, 0, 0, 0, -1, 70))  # fmt: skip
    (path,) = predict_all(run, tmp_path / "in", tmp_path / "maps")
    with rasterio.open(path) as file:
        assert file.shape == (70, 50)
        assert file.crs is None


def test_where_a_scene_is_masked_there_is_no_map(tmp_path):
    """By a mask or an alpha band, of which 0 is no data; the window reaches beyond the scene."""
    held = np.random.default_rng(0).random((40, 50)) < 0.5
    pixels = np.random.default_rng(1).integers(1, 200, (40, 50)).astype(np.uint8)
    write_raster(tmp_path / "a" / "s_red.tif", np.stack((pixels, held * np.uint8(255))), alpha="yes")
    path = write_raster(tmp_path / "b" / "s_red.tif", pixels)
    with rasterio.open(path, "r+") as file:
        file.write_mask(held)
    trained = SimpleNamespace(
        bands=[Band(name="red", role="optical", code="red", dtype="int16", nodata=-32768)]
    )
    sample = np.zeros(1, SAMPLE)
    sample["y"] = sample["x"] = -8
    for folder in "ab":
        out = Buffer(np.empty((1, 64, 64, 1), np.int16), np.empty((1, 64, 64), np.uint8))
        with SceneReader(find_scenes(tmp_path / folder, labelled=False)[0]) as reader:
            SceneSource(reader, trained).read_into(sample, out)
        np.testing.assert_array_equal(out.label[0] == 0, np.pad(held, ((8, 16), (8, 6))))
        np.testing.assert_array_equal(
            out.image[0, ..., 0],
            np.pad(
                np.where(held, pixels.astype(np.int16), -32768), ((8, 16), (8, 6)), constant_values=-32768
            ),
        )
