"""Which tiles a scene is cut into, and which of them are left out."""

import numpy as np
import pytest
import rasterio

from glacier.errors import GlacierError, UsageError
from glacier.ingest.plan import Options
from glacier.ingest.survey import MOST_TILES, grid_tiles
from glacier.scenes.scene import Grid
from glacier.store.footprints import touching
from tests.helpers import NORTH_UP, make_store, write_raster


@pytest.mark.parametrize(
    ("extent", "size", "stride", "corners"),
    [
        (1, 64, 64, [0]), (64, 64, 64, [0]), (65, 64, 64, [0, 64]), (128, 64, 64, [0, 64]),
        (64, 64, 1, [0]), (66, 64, 1, [0, 1, 2]), (100, 64, 32, [0, 32, 64]), (96, 64, 32, [0, 32]),
        (97, 64, 50, [0, 50]), (128, 64, 63, [0, 63, 126]),
    ],
)  # fmt: skip
def test_corners_go_on_until_the_edge_is_covered(extent, size, stride, corners):
    tiles = grid_tiles(Grid(extent, 3, NORTH_UP, ""), size, stride)
    assert [tile.row for tile in tiles] == corners
    assert all(tile.height == min(size, extent - tile.row) and tile.width == 3 for tile in tiles)


def test_more_tiles_than_memory_holds_are_refused():
    with pytest.raises(GlacierError, match=rf"1000000000 x 1000000000 px are .* at most {MOST_TILES}"):
        grid_tiles(Grid(10**9, 10**9, NORTH_UP, ""), 512, 512)


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"stride": 65}, {"min_valid": -0.1}, {"min_valid": 1.1}])
def test_options_out_of_range_are_usage_errors(wrong):
    with pytest.raises(UsageError, match=r"--(stride|min-valid)"):
        Options(tile_size=64, **wrong)


def test_tiles_that_overlap_touch(tmp_path):
    write_raster(tmp_path / "in" / "s_red.tif", np.ones((160, 64), np.uint8))
    write_raster(tmp_path / "in" / "s_label.tif", np.ones((160, 64), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, stride=32, classes="0=a,1=b")
    assert store.array("origin")[:, 0].tolist() == [0, 32, 64, 96]
    assert touching(store, np.array([0])).tolist() == [True, True, True, False]


@pytest.mark.parametrize("least", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("label", ["raster", "nodata", "nodata asked for", "mask"])
@pytest.mark.parametrize("rule", ["all", "any"])
def test_tiles_with_too_few_valid_pixels_are_left_out(tmp_path, least, label, rule):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 9, (2, 150, 200)).astype(np.uint8)
    coarse = rng.random((2, 10, 13)).repeat(16, 1).repeat(16, 2)[:, :150, :200]
    pixels[coarse < 0.12] = 0
    classes = (
        rng.choice([0, 1, 7, 9], (10, 13), p=[0.5, 0.2, 0.15, 0.15])
        .repeat(16, 0)
        .repeat(16, 1)[:150, :200]
        .astype(np.uint8)
    )
    held = pixels.astype(bool).any(axis=0) if rule == "all" else pixels.astype(bool).all(axis=0)
    nodata = 9 if "nodata" in label else None
    write_raster(tmp_path / "in" / "s.tif", pixels, nodata=0, names=("red", "nir"))
    path = write_raster(tmp_path / "in" / "s_label.tif", classes, nodata=nodata)
    if label == "mask":
        with rasterio.open(path, "r+") as file:
            file.write_mask(classes != 1)
    meant = {"raster": [0, 1, 9], "nodata": [0, 1], "nodata asked for": [0, 1, 9], "mask": [0, 9]}[label]
    asked = "0=a,1=b,7=ignore" + ("" if label == "nodata" else ",9=c")
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, stride=48, classes=asked,
                       folds=2, min_valid=least, nodata=rule)  # fmt: skip
    good = held & np.isin(classes, meant)
    expected = [
        [row, column]
        for row in range(0, 150 - 64 + 48, 48)
        for column in range(0, 200 - 64 + 48, 48)
        if (good if least else held)[row : row + 64, column : column + 64].sum() >= max(1, least * 64**2)
    ]
    assert store.array("origin").tolist() == expected
    assert len(expected) == 12 or least
    if least:
        np.testing.assert_array_less(least * 64**2 - 1, store.histogram.sum(axis=(1, 2, 3), dtype=int))


def test_no_tile_with_enough_is_an_error(tmp_path):
    write_raster(tmp_path / "in" / "s_red.tif", np.ones((32, 32), np.uint8))
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((32, 32), np.uint8))
    with pytest.raises(GlacierError, match="no tile of 1 scenes has data and a class in 0.5 of its pixels"):
        make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", min_valid=0.5)
