"""Outlines hold a map's very pixels, and their areas are those on the ground."""

import math

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

from glacier.classes import COMPETITION, Class
from glacier.errors import GlacierError
from glacier.maps import polygons
from glacier.maps.polygons import write_polygons
from tests.helpers import NORTH_UP, write_raster

NODATA = 254


def noise(height: int, width: int) -> np.ndarray:
    """Single pixels, diagonals and holes of each class and of no data, and a large area with holes."""
    rng = np.random.default_rng(height)
    found = rng.choice([0, 85, 170, 255, NODATA], (height, width)).astype(np.uint8)
    found[height // 4 : -height // 4, width // 4 : -width // 4] = 85
    found[height // 2, width // 2 : width // 2 + 4] = (170, 0, NODATA, 255)
    return found


def read(path):
    about, _, geometry, fields = pyogrio.raw.read(path, layer="outlines")
    return about, shapely.from_wkb(geometry), dict(zip(about["fields"], fields, strict=True))


GRIDS = {
    "utm": (NORTH_UP, "EPSG:32645"),
    "turned": (NORTH_UP @ Affine.rotation(33), "EPSG:32645"),
    "south polar": (Affine(500, 0, -1.5e6, 0, -500, 8e5), "EPSG:3031"),
    "geographic": (Affine(2e-4, 0, 86.8, 0, -2e-4, 28.1), "EPSG:4326"),
    "coarse": (Affine(0.05, 0, 60.0, 0, -0.05, 68.0), "EPSG:4326"),
}


@pytest.mark.parametrize("where", GRIDS)
def test_outlines_burnt_again_are_the_map(where, tmp_path, monkeypatch):
    monkeypatch.setattr(polygons, "BATCH", 100)
    transform, crs = GRIDS[where]
    found = noise(60, 90)
    path = write_raster(tmp_path / "m.tif", found, transform=transform, crs=crs, nodata=NODATA)
    count = write_polygons(path, COMPETITION.classes, tmp_path / "m.gpkg", tmp_path, ("MADE", "x"))
    about, outlines, fields = read(tmp_path / "m.gpkg")
    assert len(outlines) == count > 1000
    assert shapely.is_valid(outlines).all()
    assert set(shapely.get_type_id(outlines)) == {3}
    assert rasterio.crs.CRS.from_user_input(about["crs"]) == rasterio.crs.CRS.from_user_input(crs)
    names = dict(zip(fields["value"].tolist(), fields["class"].tolist(), strict=True))
    assert names == {85: "glacier", 170: "debris", 255: "lake"}
    burnt = rasterize(
        zip(outlines, fields["value"].tolist(), strict=True), found.shape, transform=transform
    )
    np.testing.assert_array_equal(burnt, np.where(found == NODATA, 0, found))


def cell(row: int, transform: Affine) -> float:
    """Area in m² of a geographic pixel on WGS84, by the closed form of the area between two parallels."""
    eccentricity = math.sqrt(0.00669437999014)

    def below(latitude: float) -> float:
        s = eccentricity * math.sin(math.radians(latitude))
        return (s / (1 - s * s) + math.atanh(s)) / eccentricity

    top, bottom = transform.f + row * transform.e, transform.f + (row + 1) * transform.e
    minor = 6378137.0**2 * (1 - eccentricity**2)
    return math.radians(transform.a) * minor / 2 * (below(top) - below(bottom))


@pytest.mark.parametrize(("where", "tolerance"), [("utm", 1e-2), ("geographic", 1e-6), ("coarse", 1e-4)])
def test_areas_are_those_of_the_pixels(where, tolerance, tmp_path):
    transform, crs = GRIDS[where]
    found = noise(60, 90)
    path = write_raster(tmp_path / "m.tif", found, transform=transform, crs=crs, nodata=NODATA)
    write_polygons(path, COMPETITION.classes, tmp_path / "m.gpkg", tmp_path, ("MADE", "x"))
    _, _, fields = read(tmp_path / "m.gpkg")
    rows = [900.0 if where == "utm" else cell(row, transform) for row in range(60)]
    for value in (85, 170, 255):
        expected = ((found == value).sum(axis=1) * rows).sum()
        assert fields["area_m2"][fields["value"] == value].sum() == pytest.approx(expected, rel=tolerance)


def test_the_layer_says_how_areas_are_measured(tmp_path):
    path = write_raster(tmp_path / "m.tif", noise(40, 40))
    write_polygons(path, COMPETITION.classes, tmp_path / "m.gpkg", tmp_path, ("MADE", "x"))
    about = pyogrio.read_info(tmp_path / "m.gpkg", layer="outlines")
    assert "equal-area" in about["layer_metadata"]["DESCRIPTION"]


def test_a_map_without_anything_has_an_empty_layer(tmp_path):
    path = write_raster(tmp_path / "m.tif", np.zeros((40, 50), np.uint8))
    assert write_polygons(path, COMPETITION.classes, tmp_path / "m.gpkg", tmp_path, ("MADE", "x")) == 0
    about = pyogrio.read_info(tmp_path / "m.gpkg", layer="outlines")
    assert about["features"] == 0
    assert list(about["fields"]) == ["class", "value", "area_m2"]
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["m.gpkg", "m.tif"]


def test_values_beyond_a_byte_are_kept(tmp_path):
    path = write_raster(tmp_path / "m.tif", np.full((4, 5), 70_000, np.int32))
    assert (
        write_polygons(
            path, [Class("ice", 70_000, "#ffffff")], tmp_path / "m.gpkg", tmp_path, ("MADE", "x")
        )
        == 1
    )
    assert read(tmp_path / "m.gpkg")[2]["value"].tolist() == [70_000]


def test_what_has_no_area_is_refused_and_the_old_file_stays(tmp_path):
    path = write_raster(tmp_path / "m.tif", noise(40, 40), crs=None)
    (tmp_path / "m.gpkg").write_text("old")
    with pytest.raises(GlacierError, match=r"m.tif: names no CRS, expected one to measure areas in"):
        write_polygons(path, COMPETITION.classes, tmp_path / "m.gpkg", tmp_path, ("MADE", "x"))
    path.write_bytes(write_raster(tmp_path / "n.tif", noise(400, 400)).read_bytes()[:90_000])
    with pytest.raises(GlacierError, match=r"outlines of .*m.tif cannot be made"):
        write_polygons(path, COMPETITION.classes, tmp_path / "m.gpkg", tmp_path, ("MADE", "x"))
    assert (tmp_path / "m.gpkg").read_text() == "old"
    assert [f.name for f in sorted(tmp_path.iterdir())] == ["m.gpkg", "m.tif", "n.tif"]
