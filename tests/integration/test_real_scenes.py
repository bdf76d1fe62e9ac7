"""Real scenes of two sensors: a Landsat-7 scene with outlines, a Sentinel-2 chip with a hand label."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
import xarray as xr
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from rasterio.windows import Window

from glacier.config import Config, shipped
from glacier.maps.command import MapRequest, predict_all
from glacier.pipeline.split import split
from glacier.store.footprints import centres
from glacier.store.reader import Store
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from tests.helpers import make_store
from tests.store.test_footprints import centres_by_rasterio


@pytest.fixture(scope="module")
def everest(shared, tmp_path_factory) -> tuple:
    source = shared("everest_landsat7")
    return source, make_store(source, tmp_path_factory.mktemp("e") / "e.zarr", tile_size=128, folds=3)


def tiles_equal_rasterio(store: Store, files: list[tuple], nodata: float | None) -> None:
    """Every band of every tile is `rasterio.read(window)`, padded with no data."""
    opened = [(rasterio.open(path), number) for path, number in files]
    height, width = opened[0][0].shape
    size = store.meta.tile_size
    for tile, (row, column) in enumerate(store.array("origin").tolist()):
        window = Window(column, row, min(size, width - column), min(size, height - row))
        raw = store.image(tile)
        for b, (file, number) in enumerate(opened):
            expected = np.full((size, size), np.nan)
            values = file.read(number, window=window).astype(float)
            values[values == nodata] = np.nan
            expected[: values.shape[0], : values.shape[1]] = values
            np.testing.assert_array_equal(store.meta.bands[b].unpack(raw[..., b]), expected)
    for file, _ in opened:
        file.close()


def test_everest_is_one_scene_of_four_bands(everest):
    source, store = everest
    assert store.scene_names == ["LE71400412000304SGS00"]
    assert store.meta.band_names == ["blue", "green", "red", "nir"]
    assert store.meta.class_names == ["background", "glacier"]
    assert len(store) == 6 * 7
    stem = source / store.scene_names[0]
    files = [(f"{stem}_RGB.tif", n) for n in (3, 2, 1)] + [(f"{stem}_B4.tif", 1)]
    tiles_equal_rasterio(store, files, None)


def test_everests_labels_equal_an_independent_rasterisation(everest):
    """The outlines one by one through GDAL's own reprojection, burnt on the whole scene at once."""
    source, store = everest
    with rasterio.open(next(source.glob("*_B4.tif"))) as file:
        shape, transform, crs = file.shape, file.transform, file.crs
    binary = pyogrio.raw.read(next(source.glob("*.gpkg")), columns=[])[2]
    there = [transform_geom("EPSG:4326", crs, g.__geo_interface__) for g in shapely.from_wkb(binary)]
    whole = rasterize(there, shape, transform=transform)
    agree = total = 0
    for tile, (row, column) in enumerate(store.array("origin").tolist()):
        part = whole[row : row + 128, column : column + 128]
        mine = store.label(tile)[: part.shape[0], : part.shape[1]]
        agree, total = agree + (mine == part).sum(), total + part.size
    assert total == shape[0] * shape[1]
    assert agree / total > 0.9999
    share = store.histogram.sum(axis=(0, 1, 2))
    assert share[1] / share.sum() == pytest.approx(0.54, abs=0.005)


def test_everest_opens_in_xarray(everest):
    _, store = everest
    seen = xr.open_zarr(store.path)
    assert seen["image"].dims == ("tile", "y", "x", "band")
    np.testing.assert_array_equal(seen["image"][7].to_numpy(), store.image(7))


def test_everests_tiles_lie_where_rasterio_says(everest):
    source, store = everest
    found = centres(store)
    files = dict.fromkeys(store.scene_names, next(source.glob("*_B4.tif")))
    np.testing.assert_allclose(found, centres_by_rasterio(store, files), atol=1e-9)
    assert np.abs(found - (86.925, 27.988)).max() < 0.3, "the summit's"


def test_an_everest_map_lies_on_the_scenes_grid(everest, tmp_path):
    source, store = everest
    settings = ["data.patch=64", "train.epochs=1", "train.samples_per_epoch=32"]
    config = Config.load(shipped("demo"), settings)
    train(config, store, tmp_path / "run", Ranks(0, 1, torch.device("cpu")))
    (path,) = predict_all(MapRequest(runs=[tmp_path / "run"], source=source, out=tmp_path / "maps"))
    with rasterio.open(path) as made, rasterio.open(next(source.glob("*_B4.tif"))) as scene:
        assert (made.shape, made.transform, made.crs) == (scene.shape, scene.transform, scene.crs)
        assert set(np.unique(made.read(1))) <= {0, 1}
        assert made.nodata == 255


def test_three_spatial_folds_leave_enough_to_train_on(everest):
    _, store = everest
    for fold in range(3):
        parts = split(store, fold)
        assert len(parts.val) == 14
        assert len(parts.train) >= 15


def test_sentinel_2_has_13_bands_and_a_label_with_no_data(shared, tmp_path):
    source = shared("spain_sentinel2")
    store = make_store(source, tmp_path / "s.zarr", tile_size=128, classes="-1=ignore,0=land,1=water")
    assert len(store.meta.bands) == 13
    assert [band.code for band in store.meta.bands[7:9]] == ["B8", "B8A"]
    assert (len(store), store.meta.dtype) == (16, "int16")
    tiles_equal_rasterio(store, [(source / "Spain_7370579_S2Hand.tif", n) for n in range(1, 14)], 0)
    with rasterio.open(source / "Spain_7370579_LabelHand.tif") as file:
        label = file.read(1)
    counts = store.histogram.sum(axis=(0, 1, 2)).tolist()
    with rasterio.open(source / "Spain_7370579_S2Hand.tif") as file:
        held = (file.read() != 0).any(axis=0)
    assert counts == [int((held & (label == value)).sum()) for value in (0, 1)]
