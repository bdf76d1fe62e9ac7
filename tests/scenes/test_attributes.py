"""Outlines whose class stands in an attribute, from files of any kind, against points in polygons."""

import zipfile

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.warp import transform as reproject

from glacier.classes import IGNORE
from glacier.errors import GlacierError, UsageError
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.layouts import find_scenes
from glacier.scenes.outlines import read_outlines
from glacier.scenes.scene import Grid, Outline, VectorLabel, Window
from glacier.store.reader import Store
from tests.helpers import NORTH_UP, write_raster, write_scene

CRS = "EPSG:32645"
SHAPE = (70, 80)
GRID = Grid(*SHAPE, NORTH_UP, rasterio.crs.CRS.from_user_input(CRS).to_wkt())
WORDS = ("Clean Ice", "debris", "Lake É")
NAMES = "0=background,Clean Ice=glacier,debris=debris,lake é=lake"


def write_layer(path, polygons, column, *, name="kind", crs="EPSG:4326", layer=None, **options):
    """A vector file of polygons with one column."""
    column = np.array(column)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(polygons, object)), [column], [name], crs=crs, layer=layer,
        geometry_type="Polygon", encoding="utf-8", **options,
    )  # fmt: skip
    return path


def random_polygons(rng, count):
    """Stars, some with a hole, in degrees about the grid."""
    made = []
    for _ in range(count):
        angles = np.linspace(0, 2 * np.pi, 9, endpoint=False) + rng.uniform(0, 0.6, 9)
        far = rng.uniform(200, 900, 9)
        x, y = rng.uniform(0, 80 * 30) + 500000, 3100000 - rng.uniform(0, 70 * 30)
        star = shapely.Polygon(np.column_stack((x + far * np.cos(angles), y + far * np.sin(angles))))
        star = star.difference(shapely.Point(x, y).buffer(rng.uniform(0, 150)))
        star = max(shapely.get_parts(star), key=shapely.area)
        made.append(shapely.transform(star, lambda p: np.column_stack(reproject(CRS, "EPSG:4326", *p.T))))
    return made


def burnt_by_points(polygons, classes, crs="EPSG:4326", shape=SHAPE):
    """Class of each pixel's centre (h, w), a higher one on top; and which centres lie clear of any edge."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y = NORTH_UP @ (columns.ravel(), rows.ravel())
    x, y = np.array(reproject(CRS, crs, x, y))
    found, clear = np.zeros(x.size, int), np.ones(x.size, bool)
    for polygon, index in sorted(zip(polygons, classes, strict=True), key=lambda pair: pair[1]):
        found[shapely.contains_xy(polygon, x, y)] = index
        clear &= shapely.distance(polygon.boundary, shapely.points(x, y)) > (1e-6 if "4326" in crs else 0.1)
    return found.reshape(shape), clear.reshape(shape)


def ingested(tmp_path, labels, attribute, classes):
    """The label of the one tile that a scene of the grid is."""
    if not (tmp_path / "in").exists():
        write_raster(tmp_path / "in" / "s_red.tif", np.ones(SHAPE, np.uint8))
    scenes = find_scenes(tmp_path / "in", labels=labels, attribute=attribute)
    options = Options(tile_size=96, classes=classes, folds=2)
    ingest(tmp_path / "in", scenes, tmp_path / "s.zarr", options)
    store = Store(tmp_path / "s.zarr")
    return store.label(0)[: SHAPE[0], : SHAPE[1]], store


FORMATS = ("gpkg", "shp", "geojson", "json", "fgb", "kml", "gml", "zip")


@pytest.mark.parametrize("end", FORMATS)
def test_words_in_any_format_burn_like_points_in_polygons(tmp_path, end):
    rng = np.random.default_rng(FORMATS.index(end))
    polygons, classes = random_polygons(rng, 12), rng.integers(1, 4, 12)
    words = [WORDS[index - 1] for index in classes]
    path = tmp_path / f"o.{end}"
    if end == "zip":
        inside = write_layer(tmp_path / "o.shp", polygons, words)
        with zipfile.ZipFile(path, "w") as archive:
            for file in inside.parent.glob("o.*"):
                if file != path:
                    archive.write(file, file.name)
    else:
        driver = {"kml": "LIBKML", "json": "GeoJSON"}.get(end)
        write_layer(path, polygons, words, **({"driver": driver} if driver else {}))
    label, store = ingested(tmp_path, path, "kind", NAMES)
    expected, clear = burnt_by_points(polygons, classes)
    assert clear.mean() > 0.98
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(label[clear], expected[clear])
    assert store.meta.class_names == ["background", "glacier", "debris", "lake"]
    assert [c.value for c in store.meta.classes] == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(8))
def test_numbers_are_source_values_in_any_crs(tmp_path, seed):
    rng = np.random.default_rng(seed)
    crs = ("EPSG:4326", CRS, "EPSG:32644", "EPSG:3857")[seed % 4]
    polygons = [
        shapely.transform(p, lambda q: np.column_stack(reproject("EPSG:4326", crs, *q.T)))
        for p in random_polygons(rng, 9)
    ]
    classes = rng.integers(1, 4, 9)
    values = np.array([0, 300, -7, 12])[classes].astype("int32" if seed < 4 else "float64")
    path = write_layer(tmp_path / "o.gpkg", polygons, values, crs=crs)
    label, _ = ingested(tmp_path, path, "kind", "0=background,300=glacier,-7=debris,12=ignore")
    expected, clear = burnt_by_points(polygons, classes, crs)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(label[clear], np.where(expected == 3, IGNORE, expected)[clear])


def test_a_long_edge_in_degrees_bends(tmp_path):
    """Straight in degrees over 2 degrees of longitude, it is some ten pixels from straight in UTM."""
    (x,), (y,) = reproject(CRS, "EPSG:4326", [501200], [3098900])
    box = shapely.box(x - 1.5, y - 1, x + 0.5, y)
    path = write_layer(tmp_path / "o.gpkg", [box], [1])
    burnt = read_outlines(VectorLabel((Outline(path, 1),)), GRID).burn(NORTH_UP, Window(0, 0, *SHAPE))
    expected, _ = burnt_by_points([box], [1])
    np.testing.assert_array_equal(burnt, expected)
    straight = shapely.transform(box, lambda p: np.column_stack(reproject("EPSG:4326", CRS, *p.T)))
    assert (burnt_by_points([straight], [1], CRS)[0] != expected).mean() > 0.05


def test_shapes_of_every_kind_are_burnt(tmp_path):
    """A hole, several parts, a collection, a third dimension, a bow-tie, an empty one, a line."""
    x, y = 500000, 3100000
    hole = shapely.box(x + 30, y - 300, x + 300, y - 30).difference(
        shapely.box(x + 90, y - 240, x + 240, y - 90)
    )
    parts = shapely.MultiPolygon([shapely.box(x + 600, y - 300, x + 660, y - 30),
                                  shapely.box(x + 720, y - 300, x + 780, y - 30)])  # fmt: skip
    mixed = shapely.GeometryCollection(
        [shapely.Point(x, y), shapely.box(x + 900, y - 300, x + 990, y - 30)]
    )
    flat = shapely.box(x + 1200, y - 300, x + 1290, y - 30)
    high = shapely.force_3d(flat, 4000.0)
    tie = shapely.Polygon(
        [(x + 1500, y - 300), (x + 1800, y - 30), (x + 1800, y - 300), (x + 1500, y - 30)]
    )
    kinds = [
        hole,
        parts,
        mixed,
        high,
        tie,
        shapely.Polygon(),
        shapely.LineString([(x, y), (x + 2400, y - 900)]),
    ]
    path = tmp_path / "o.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(kinds, object)), [], [], geometry_type="Unknown", crs=CRS
    )
    burnt = read_outlines(VectorLabel((Outline(path, 1),)), GRID).burn(NORTH_UP, Window(0, 0, *SHAPE))
    expected, clear = burnt_by_points([hole, *parts.geoms, mixed.geoms[1], flat], [1] * 5, CRS)
    there = np.zeros(SHAPE, bool)
    there[:, 50:60] = True
    np.testing.assert_array_equal(burnt[clear & ~there], expected[clear & ~there])
    assert 20 < burnt[there].sum() < 60


def test_later_layers_lie_on_top_of_earlier_ones(tmp_path):
    whole, part = (
        shapely.box(500000, 3098000, 502000, 3100000),
        shapely.box(500300, 3099400, 500900, 3099700),
    )
    first = write_layer(tmp_path / "a.gpkg", [part], ["x"], crs=CRS)
    second = write_layer(tmp_path / "b.gpkg", [whole], ["x"], crs=CRS)
    window = Window(0, 0, *SHAPE)
    for layers, seen in (((first, second), {0, 9}), ((second, first), {0, 4, 9})):
        values = dict(zip((first, second), (4, 9), strict=True))
        label = VectorLabel(tuple(Outline(path, values[path]) for path in layers))
        assert set(np.unique(read_outlines(label, GRID).burn(NORTH_UP, window))) == seen


def test_a_polygon_without_a_word_is_called_none(tmp_path):
    boxes = [shapely.box(500000, 3099000, 500600, 3100000), shapely.box(501200, 3099000, 501800, 3100000)]
    path = write_layer(tmp_path / "o.gpkg", boxes, np.array(["ice", None], object), crs=CRS)
    with pytest.raises(GlacierError, match="kind holds none without a class"):
        ingested(tmp_path, path, "kind", "0=background,ice=glacier")
    label, _ = ingested(tmp_path, path, "kind", "0=background,ice=glacier,none=ignore")
    assert (label[10, 10], label[10, 30], label[10, 50]) == (1, 0, IGNORE)


@pytest.mark.parametrize(
    ("attribute", "classes", "kind", "words"),
    [
        ("kind", "0=background,ice=glacier", GlacierError,
         r"o.gpkg: kind holds debris, lake without a class; expected 0, ice; .*VALUE=ignore"),
        ("kind", "", UsageError, r"kind holds debris, ice, lake; say what they mean with --classes"),
        ("Kind", "0=background,ice=glacier", GlacierError, "no attribute Kind; it has kind; .*--attribute"),
        ("kind", "ice=glacier,debris=debris,lake=lake", GlacierError,
         "label value 0 .0 lies outside all outlines. has no class"),
        ("", "0=background,ice=glacier", UsageError, "'ice' is no number; words are for .*--attribute"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_named_and_nothing_written(tmp_path, attribute, classes, kind, words):
    boxes = [shapely.box(i, 0, i + 1, 1) for i in range(3)]
    path = write_layer(tmp_path / "o.gpkg", boxes, ["ice", "debris", "lake"], crs=CRS)
    with pytest.raises(kind, match=words):
        ingested(tmp_path, path, attribute, classes)
    assert not (tmp_path / "s.zarr").exists()


def test_another_attribute_or_a_changed_table_is_another_source(tmp_path):
    box = [shapely.box(500000, 3098000, 501000, 3100000)]
    path = write_layer(tmp_path / "o.shp", box, [1], crs=CRS)
    ingested(tmp_path, path, "kind", "0=a,1=b")
    ingested(tmp_path, path, "kind", "0=a,1=b")
    with pytest.raises(GlacierError, match="another source"):
        ingested(tmp_path, path, "", "0=a,1=b")
    table = path.with_suffix(".dbf")
    table.write_bytes(table.read_bytes() + b"\0")
    with pytest.raises(GlacierError, match="another source"):
        ingested(tmp_path, path, "kind", "0=a,1=b")


def test_an_attribute_of_rasters_is_refused(tmp_path):
    source = write_scene(tmp_path / "in", "s", size=32)
    with pytest.raises(UsageError, match="--attribute: kind is a column of outlines"):
        find_scenes(source, attribute="kind")


def test_a_table_that_changes_under_way_is_named(tmp_path):
    path = write_layer(
        tmp_path / "o.gpkg", [shapely.box(500000, 3099000, 500600, 3100000)], ["ice"], crs=CRS
    )
    layer = Outline(path, None, "kind", (("debris", 2),))
    with pytest.raises(GlacierError, match=r"o.gpkg: changed while it was ingested"):
        read_outlines(VectorLabel((layer,)), GRID)
