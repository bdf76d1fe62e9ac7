"""What goes into a store is what rasterio reads: values, no data, labels, padding, in every tile."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from glacier.classes import IGNORE
from glacier.store.reader import Store
from tests.helpers import make_store, write_raster

NAMES = ("blue", "red", "thermal")
VALUES = {0: 0, 85: 1, 170: 2, 255: 3}


@st.composite
def sources(draw):
    """A scene: its size, the bands' dtype and no-data value, how they lie in files, a tile size."""
    dtype = draw(st.sampled_from(["uint8", "uint16", "int16", "float32", "whole float32"]))
    height, width = draw(st.integers(1, 140)), draw(st.integers(1, 140))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = np.dtype(dtype.split()[-1])
    if dtype == "float32":
        pixels = rng.normal(0, 50, (3, height, width)).astype(kind)
        nodata = draw(st.sampled_from([None, np.nan, -9999.0]))
    else:
        low, high = (0, 65455) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
        pixels = rng.integers(low, high, (3, height, width), endpoint=True).astype(kind)
        nodata = draw(st.sampled_from([None, float(low), float(high)]))
    if nodata is not None:
        gap = rng.random(pixels.shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))
        gap[:2] |= rng.random((height, width)) < 0.2
        pixels[gap] = nodata
        pixels[:, 0, 0] = 7
    label = rng.choice(list(VALUES), (height, width)).astype(np.uint8)
    label[0, 0] = 85
    stacked, tile = draw(st.booleans()), draw(st.sampled_from([32, 64]))
    rule = draw(st.sampled_from(["all", "any"]))
    layout = draw(
        st.sampled_from([{}, {"compress": "lzw"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
    )
    return pixels, label, nodata, stacked, tile, rule, layout


@settings(max_examples=60)
@given(sources())
def test_every_tile_equals_rasterios_window(made):
    pixels, label, nodata, stacked, tile, rule, layout = made
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        files = write(source, pixels, label, nodata, stacked, layout)
        store = make_store(source, Path(folder) / "s.zarr", tile_size=tile, nodata=rule, folds=2)
        check(store, files, source / "s_label.tif", rule)


def write(source, pixels, label, nodata, stacked, layout):
    """The scene's files; for each band, its file and number."""
    write_raster(source / "s_label.tif", label)
    if stacked:
        path = write_raster(source / "s.tif", pixels, nodata=nodata, names=NAMES, **layout)
        return [(path, i) for i in (1, 2, 3)]
    return [
        (write_raster(source / f"s_{name}.tif", band, nodata=nodata, **layout), 1)
        for name, band in zip(NAMES, pixels, strict=True)
    ]


def check(store: Store, files, label_file, rule) -> None:
    size, bands = store.meta.tile_size, store.meta.bands
    assert store.meta.band_names == list(NAMES)
    origins = store.array("origin")
    with rasterio.open(label_file) as file:
        shape, label = file.shape, file.read(1)
    stored = {tuple(origin) for origin in origins.tolist()}
    for row in range(0, shape[0], size):
        for column in range(0, shape[1], size):
            window = Window(column, row, min(size, shape[1] - column), min(size, shape[0] - row))
            read, valid = zip(*(masked(path, number, window) for path, number in files), strict=True)
            optical = valid[0] | valid[1] if rule == "all" else valid[0] & valid[1]
            assert ((row, column) in stored) == bool(optical.any())
            if not optical.any():
                continue
            tile = next(i for i, o in enumerate(origins.tolist()) if tuple(o) == (row, column))
            inside = (slice(0, window.height), slice(0, window.width))
            raw = store.image(tile)
            for b, band in enumerate(bands):
                values = band.unpack(raw[..., b])
                assert np.isnan(values[window.height :]).all()
                assert np.isnan(values[:, window.width :]).all()
                np.testing.assert_array_equal(np.isnan(values[inside]), ~valid[b])
                error = np.abs(values[inside] - read[b])[valid[b]]
                assert error.max(initial=0) <= band.bound * (1 + 1e-6)
            expected = np.full((size, size), IGNORE, np.uint8)
            classes = np.vectorize(VALUES.get)(
                label[row : row + window.height, column : column + window.width]
            )
            expected[inside] = np.where(optical, classes, IGNORE)
            np.testing.assert_array_equal(store.label(tile), expected)
            check_histogram(store.histogram[tile], expected)
            transform = store.array("transform")[tile]
            assert tuple(transform[:2]) == (30, 0)
            assert tuple(transform[[2, 5]]) == (500000 + 30 * column, 3100000 - 30 * row)


def masked(path, number, window):
    """Values and validity by rasterio's own mask."""
    with rasterio.open(path) as file:
        values = file.read(number, window=window)
        mask = file.read_masks(number, window=window) != 0
    return values.astype(np.float64), mask & np.isfinite(values)


def check_histogram(histogram, label):
    for by in range(histogram.shape[0]):
        for bx in range(histogram.shape[1]):
            block = label[32 * by : 32 * by + 32, 32 * bx : 32 * bx + 32]
            for index, count in enumerate(histogram[by, bx]):
                assert count == np.count_nonzero(block == index)


def test_25_tiles_of_whole_float32_are_int16_and_come_back_exactly(tmp_path):
    """The competition's tiles: float32 in the file, integers 0 to 65455 in truth."""
    rng = np.random.default_rng(1)
    for row in range(5):
        for column in range(5):
            name = f"{row:02d}_{column:02d}"
            for b in range(1, 6):
                pixels = rng.integers(0, 65456, (64, 64)).astype(np.float32)
                pixels[0, :2] = 0, 65455
                write_raster(tmp_path / "in" / f"Band{b}" / f"B{b + 1}_masked_{name}.tif", pixels)
            label = rng.choice(list(VALUES), (64, 64)).astype(np.uint8)
            write_raster(tmp_path / "in" / "label" / f"Y_output_resized_{name}.tif", label)
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64)
    assert (len(store), store.meta.dtype) == (25, "int16")
    scene = store.array("scene")
    for tile in range(25):
        raw = store.image(tile)
        for b, band in enumerate(store.meta.bands):
            name = store.scene_names[scene[tile]]
            with rasterio.open(tmp_path / "in" / f"Band{b + 1}" / f"B{b + 2}_masked_{name}.tif") as file:
                np.testing.assert_array_equal(band.unpack(raw[..., b]), file.read(1))


def test_statistics_equal_numpys_over_valid_pixels(tmp_path):
    rng = np.random.default_rng(2)
    pixels = rng.integers(1, 9000, (2, 100, 90)).astype(np.uint16)
    pixels[0, :30] = 0
    write_raster(tmp_path / "in" / "s.tif", pixels, nodata=0, names=("red", "nir"))
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((100, 90), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=32, classes="0=a,1=b", folds=2)
    for band, values in zip(store.meta.bands, pixels, strict=True):
        held = values[values > 0].astype(np.float64)
        s = band.statistics
        assert (s.minimum, s.maximum) == (held.min(), held.max())
        np.testing.assert_allclose([s.mean, s.std], [held.mean(), held.std()], rtol=1e-12)
        assert 0.01 < (held < s.p2).mean() < 0.03
        assert 0.01 < (held > s.p98).mean() < 0.03


def test_label_no_data_is_ignored_unless_it_has_a_class(tmp_path):
    label = np.array([[0, 1], [9, 1]], np.uint8).repeat(16, 0).repeat(16, 1)
    for name, nodata in (("a", 9), ("b", 0)):
        write_raster(tmp_path / name / "s_red.tif", np.ones((32, 32), np.uint8), nodata=0)
        write_raster(tmp_path / name / "s_label.tif", label, nodata=nodata)
    store = make_store(tmp_path / "a", tmp_path / "a.zarr", tile_size=32, classes="0=x,1=y", folds=2)
    assert store.histogram.sum(axis=(0, 1, 2)).tolist() == [256, 512]
    store = make_store(
        tmp_path / "b", tmp_path / "b.zarr", tile_size=32, classes="0=x,1=y,9=ignore", folds=2
    )
    assert store.histogram.sum(axis=(0, 1, 2)).tolist() == [256, 512]


def test_json_attributes_are_strict_json(store):
    text = (store.path / "zarr.json").read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


@pytest.mark.parametrize(
    "names", [("nir", "red", "blue"), ("red", "nir", "blue"), ("swir1", "nir", "blue")]
)
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 32}])
def test_bands_in_any_order_in_their_file(tmp_path, names, layout):
    """Stored by wavelength; read from a mapped file of interleaved pixels, and of all its bands."""
    pixels = np.random.default_rng(0).integers(1, 5000, (3, 64, 64)).astype(np.uint16)
    write_raster(tmp_path / "in" / "s.tif", pixels, nodata=0, names=names, interleave="pixel", **layout)
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((64, 64), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", folds=2)
    for i, band in enumerate(store.meta.bands):
        np.testing.assert_array_equal(band.unpack(store.image(0)[..., i]), pixels[names.index(band.name)])


@pytest.mark.parametrize("bands", ["blue,green,nir", "green,blue,red", "red,blue,green", "blue,nir"])
def test_bands_of_a_stack_beside_those_of_another_file(tmp_path, bands):
    rng = np.random.default_rng(0)
    pixels = dict(
        zip(
            ("blue", "red", "nir", "green"),
            rng.integers(1, 5000, (4, 64, 64)).astype(np.uint16),
            strict=True,
        )
    )
    stack = np.stack([pixels[name] for name in ("blue", "red", "nir")])
    write_raster(
        tmp_path / "in" / "s.tif", stack, names=("blue", "red", "nir"), nodata=0, interleave="pixel"
    )
    write_raster(tmp_path / "in" / "s_green.tif", pixels["green"], nodata=0)
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((64, 64), np.uint8))
    store = make_store(
        tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", folds=2, bands=bands
    )
    assert ",".join(store.meta.band_names) == bands
    for i, band in enumerate(store.meta.bands):
        np.testing.assert_array_equal(band.unpack(store.image(0)[..., i]), pixels[band.name])
