import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import geometry_mask
from rasterio.warp import transform, transform_geom

from glacier.errors import GlacierError
from glacier.scenes.outlines import read_outlines
from glacier.scenes.scene import Grid, Outline, VectorLabel, Window
from tests.helpers import NORTH_UP

CRS = "EPSG:32645"
GRID = Grid(64, 80, NORTH_UP, rasterio.crs.CRS.from_user_input(CRS).to_wkt())


def label(*paths):
    return VectorLabel(tuple(Outline(path, 1) for path in paths))


def write_outlines(path, polygons, crs):
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(polygons, object)), [], [], geometry_type="Polygon", crs=crs
    )
    return path


def test_outlines_in_degrees_burn_like_an_independent_rasterisation(tmp_path):
    there = [shapely.Point(500900, 3099300).buffer(400), shapely.box(501500, 3098600, 501833, 3098911)]
    degrees = [shapely.geometry.shape(transform_geom(CRS, "EPSG:4326", p.__geo_interface__)) for p in there]
    path = write_outlines(tmp_path / "o.gpkg", degrees, "EPSG:4326")
    burnt = read_outlines(label(path), GRID).burn(NORTH_UP, Window(0, 0, 64, 80))
    expected = geometry_mask(there, (64, 80), NORTH_UP, invert=True)
    np.testing.assert_array_equal(burnt, expected)
    assert 0 < burnt.sum() < burnt.size


def test_windows_burn_as_the_whole(tmp_path):
    path = write_outlines(tmp_path / "o.gpkg", [shapely.Point(501000, 3099000).buffer(700)], CRS)
    outlines = read_outlines(label(path), GRID)
    whole = outlines.burn(NORTH_UP, Window(0, 0, 64, 64))
    for row in range(0, 64, 16):
        for column in range(0, 64, 32):
            part = outlines.burn(NORTH_UP, Window(row, column, 16, 32))
            np.testing.assert_array_equal(part, whole[row : row + 16, column : column + 32])


def test_a_window_away_from_every_outline_is_background(tmp_path):
    path = write_outlines(tmp_path / "o.gpkg", [shapely.box(0, 0, 1, 1)], CRS)
    assert not read_outlines(label(path), GRID).burn(NORTH_UP, Window(0, 0, 8, 8)).any()


@pytest.mark.parametrize(
    ("polygons", "crs", "scene", "words"),
    [
        ([shapely.Point(0, 0)], CRS, GRID, "holds no polygon"),
        ([shapely.box(0, 0, 1, 1)], CRS, Grid(64, 80, NORTH_UP, ""), "the scene names no CRS"),
    ],
)
def test_what_cannot_be_burnt_is_named(tmp_path, polygons, crs, scene, words):
    path = tmp_path / "o.geojson"
    kind = polygons[0].geom_type
    pyogrio.raw.write(path, shapely.to_wkb(np.array(polygons, object)), [], [], geometry_type=kind, crs=crs)
    with pytest.raises(GlacierError, match=words):
        read_outlines(label(path), scene)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "o.gpkg"
    path.write_bytes(b"nothing")
    with pytest.raises(GlacierError, match=r"o.gpkg: cannot be read as outlines"):
        read_outlines(label(path), GRID)


def test_outlines_elsewhere_on_earth_are_no_concern(tmp_path):
    """A projection need not hold them: here one on the equator half-way round, before and after."""
    there = shapely.Point(500900, 3099300).buffer(400)
    here = shapely.geometry.shape(transform_geom(CRS, "EPSG:4326", there.__geo_interface__))
    far = [shapely.box(-93.5, -0.5, -93, 0.5), shapely.box(177, -1, 178, 89.9)]
    for number, polygons in enumerate(([here], [*far, here], [here, *far])):
        path = write_outlines(tmp_path / f"{number}.gpkg", polygons, "EPSG:4326")
        burnt = read_outlines(label(path), GRID).burn(NORTH_UP, Window(0, 0, 64, 80))
        np.testing.assert_array_equal(burnt, geometry_mask([there], (64, 80), NORTH_UP, invert=True))


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "o.gpkg"
    for polygon in (shapely.Point(501000, 3099000).buffer(300), shapely.box(0, 0, 1e6, 4e6)):
        write_outlines(path, [polygon], CRS)
        burnt = read_outlines(label(path), GRID).burn(NORTH_UP, Window(0, 0, 64, 80))
        assert burnt.all() == (polygon.area > 1e10)


def test_a_file_of_several_layers_is_named(tmp_path):
    polygon = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)], object))
    for layer, append in (("borders", False), ("glaciers", True)):
        pyogrio.raw.write(tmp_path / "o.gpkg", polygon, [], [], geometry_type="Polygon", crs=CRS,
                          layer=layer, append=append)  # fmt: skip
    with pytest.raises(GlacierError, match="holds 2 layers"):
        read_outlines(label(tmp_path / "o.gpkg"), GRID)


def test_outlines_on_both_sides_of_180_degrees_are_burnt(tmp_path):
    """A scene across it lies, in degrees, at both ends of the earth."""
    (x,), (y,) = transform("EPSG:4326", "EPSG:32601", [180], [65])
    place = rasterio.Affine(30, 0, x - 40 * 30, 0, -30, y + 32 * 30)
    grid = Grid(64, 80, place, rasterio.crs.CRS.from_epsg(32601).to_wkt())
    boxes = [shapely.box(179.9, 64.9, 180, 65.1), shapely.box(-180, 64.9, -179.9, 65.1)]
    path = write_outlines(tmp_path / "o.gpkg", boxes, "EPSG:4326")
    assert read_outlines(label(path), grid).burn(place, Window(0, 0, 64, 80)).mean() > 0.98
