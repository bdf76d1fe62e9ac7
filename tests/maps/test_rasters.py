"""Maps as files: their values, colours and no data, cloud-optimised, whole or not there."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from glacier.classes import COMPETITION, IGNORE, coloured
from glacier.errors import GlacierError
from glacier.maps.rasters import class_kind, shares_kind, stored, write_raster
from glacier.scenes.scene import Grid, Scene, SourceBand
from tests.helpers import NORTH_UP

MADE = ("GLACIER_MADE_FROM", "x")
ROTATED = NORTH_UP @ Affine.rotation(20)


def scene(nodata, dtype="uint8", grid=None):
    band = SourceBand("red", "B4", Path("s.tif"), 1, dtype, nodata)
    return Scene("s", grid or Grid(2, 3, ROTATED, "EPSG:32645"), (band,), None, "s.tif")


def write(path, classes, of, names):
    kind, table = class_kind(of, names, MADE)
    write_raster(path, [table[classes][None]], of.grid, kind, path.parent)
    return path


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
    with rasterio.open(write(tmp_path / "m.tif", found, scene(own), classes)) as file:
        assert (file.dtypes[0], file.nodata) == (dtype, nodata)
        expected = np.array([[values[0], values[1], nodata], [values[1], values[0], values[0]]])
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.transform.almost_equals(ROTATED)
        assert file.tags()["CLASSES"] == ",".join(f"{v}=c{v}" for v in values)
    assert [f.name for f in tmp_path.iterdir()] == ["m.tif"]


GRIDS = {
    "a window": Grid(70, 50, NORTH_UP, "EPSG:32645"),
    "large": Grid(1300, 1100, NORTH_UP, "EPSG:32645"),
    "rotated": Grid(600, 700, ROTATED, "EPSG:32645"),
    "south up": Grid(600, 700, Affine(30, 0, 5e5, 0, 30, 3e6), "EPSG:32645"),
    "degrees": Grid(600, 700, Affine(1e-3, 0, 86, 0, -1e-3, 28), "EPSG:4326"),
    "nowhere": Grid(600, 700, Affine.identity(), ""),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("strip", [64, 1300])
def test_maps_are_cloud_optimised_on_the_scenes_grid(tmp_path, name, strip):
    grid = GRIDS[name]
    found = np.random.default_rng(0).integers(0, 4, (grid.height, grid.width)).astype(np.uint8)
    kind, table = class_kind(scene(0.0, grid=grid), COMPETITION.classes, MADE)
    pixels = table[found][None]
    strips = [pixels[:, top : top + strip] for top in range(0, grid.height, strip)]
    write_raster(tmp_path / "m.tif", strips, grid, kind, tmp_path)
    valid, errors, warned = cog_validate(tmp_path / "m.tif", strict=True, quiet=True)
    assert (valid, errors, warned) == (True, [], [])
    with rasterio.open(tmp_path / "m.tif") as file:
        np.testing.assert_array_equal(file.read(), pixels)
        assert tuple(file.transform) == pytest.approx(tuple(grid.transform), abs=1e-9)
        assert (file.crs.to_wkt() if file.crs else "") == (
            rasterio.CRS.from_user_input(grid.crs).to_wkt() if grid.crs else ""
        )
        assert file.colormap(1)[85][:3] == (0x9F, 0xDC, 0xF5)
        assert (len(file.overviews(1)) > 0) == (max(file.shape) > 512)


@pytest.mark.parametrize("how", ["uint8", "float16"])
def test_probabilities_are_stored_as_said(tmp_path, how):
    shares = np.random.default_rng(0).dirichlet(np.ones(4), (60, 70)).astype(np.float32).transpose(2, 0, 1)
    shares[:, :5, :7] = np.nan
    kind = shares_kind(how, ("background", "glacier", "debris", "lake"), MADE)
    grid = Grid(60, 70, NORTH_UP, "EPSG:32645")
    write_raster(tmp_path / "p.tif", [stored(shares, how)], grid, kind, tmp_path)
    with rasterio.open(tmp_path / "p.tif") as file:
        assert file.descriptions == ("background", "glacier", "debris", "lake")
        read = file.read(masked=True).astype(np.float64) * np.array(file.scales)[:, None, None]
        assert cog_validate(tmp_path / "p.tif", quiet=True)[0]
        halves = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == "16" or file.dtypes[0] == "float16"
        assert halves == (how == "float16")
    gone = np.isnan(shares)
    np.testing.assert_array_equal(np.ma.getmaskarray(read) | np.isnan(read.filled(np.nan)), gone)
    np.testing.assert_allclose(read.data[~gone], shares[~gone], atol={"uint8": 0.002, "float16": 5e-4}[how])


def test_an_interrupted_map_leaves_no_file_of_its_name(tmp_path):
    def strips():
        yield np.zeros((1, 1, 3), np.uint8)
        raise KeyboardInterrupt

    kind, _ = class_kind(scene(None), COMPETITION.classes, MADE)
    with pytest.raises(KeyboardInterrupt):
        write_raster(tmp_path / "m.tif", strips(), scene(None).grid, kind, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", [64, 1100, 1700])
def test_a_full_disk_is_one_line_and_leaves_nothing(disk, room):
    """Full while the rows are written, and while they are made into the map."""
    at = disk(f"size={room}k")
    grid = Grid(1000, 1000, NORTH_UP, "EPSG:32645")
    pixels = np.random.default_rng(0).integers(0, 255, (1, 1000, 1000)).astype(np.uint8)
    kind, _ = class_kind(scene(None, grid=grid), COMPETITION.classes, MADE)
    with pytest.raises(GlacierError, match="m.tif: could not be written whole .*; is the disk full"):
        write_raster(at / "m.tif", [pixels], grid, kind, at)
    assert not list(at.iterdir())
