"""What goes into a store is what rasterio reads: values, no data, labels, padding, in every tile."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from glacier.classes import IGNORE
from glacier.errors import GlacierError
from glacier.store.reader import Store
from tests.helpers import NORTH_UP, make_store, write_raster

NAMES = ("blue", "red", "thermal")
VALUES = {0: 0, 85: 1, 170: 2, 255: 3}


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "whole float32", "float64")
LAYOUTS = (
    {},
    {"compress": "lzw", "predictor": 2},
    {"compress": "deflate", "interleave": "band"},
    {"compress": "zstd", "tiled": True, "blockxsize": 16, "blockysize": 32},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "endianness": "big"},
    {"endianness": "big", "bigtiff": "yes"},
    {"driver": "COG", "compress": "deflate"},
)


@dataclass(frozen=True)
class Made:
    """A scene to be written."""

    pixels: np.ndarray
    """(3, H, W)"""
    held: np.ndarray
    """Where a mask or alpha band is to say that there is data (H, W)."""
    label: np.ndarray
    style: str
    label_style: str
    nodata: float | None
    files: str
    layout: dict
    transform: Affine


@st.composite
def sources(draw):
    """A scene of any dtype, size, layout and way to say where it has no data."""
    dtype = draw(st.sampled_from(DTYPES))
    kind = np.dtype(dtype.split()[-1])
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype in ("float32", "float64"):
        low, high = -9999.0, 1e30
        pixels = rng.uniform(-50, 50, (3, height, width)).astype(kind)
    else:
        low, high = (0, 65455) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
        pixels = rng.integers(low, high, (3, height, width), endpoint=True).astype(kind)
    style = draw(st.sampled_from(["none", "value", "internal mask", "mask file", "alpha", "nan"]))
    style = "value" if style == "nan" and kind.kind != "f" else style
    nodata = draw(st.sampled_from([float(low), float(high)])) if style == "value" else None
    held = rng.random((height, width)) < draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    held[0, 0] = True
    if style in ("value", "nan"):
        gap = rng.random(pixels.shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))
        gap[:2] |= ~held
        pixels[gap] = np.nan if style == "nan" else nodata
        pixels[:, 0, 0] = 7
    label = rng.choice(list(VALUES), (height, width)).astype(np.uint8)
    label[0, 0] = 85
    return Made(
        pixels, held, label, style, draw(st.sampled_from(["none", "value", "mask", "alpha"])), nodata,
        draw(st.sampled_from(["stack", "files", "folders"])), draw(st.sampled_from(LAYOUTS)),
        NORTH_UP @ Affine.rotation(draw(st.sampled_from([0, 30, 200]))),
    )  # fmt: skip


@settings(max_examples=500)
@given(
    sources(), st.sampled_from([32, 64]), st.sampled_from([1.0, 0.5, 0.7]),
    st.sampled_from(["all", "any"]), st.sampled_from(["auto", "int16", "float32"]),
)  # fmt: skip
def test_every_tile_equals_rasterios_window(made, tile, part, rule, dtype):
    stride = int(tile * part)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        files, label = write(source, made)
        bands = ",".join(f"Band{i}={n}" for i, n in enumerate(NAMES, 1)) if made.files == "folders" else ""
        try:
            store = make_store(source, Path(folder) / "s.zarr", tile_size=tile, stride=stride, bands=bands,
                               nodata=rule, folds=2, dtype=dtype)  # fmt: skip
        except GlacierError as error:
            assume("stands far from all others" not in str(error))
            raise
        check(store, files, label, rule, stride, made.transform)


def write(source, made):
    """The scene's files; for each band, its file and number; and the label's file."""
    folders = made.files == "folders"
    label = source / ("label/Y_01_01.tif" if folders else "s_label.tif")
    nodata = 255 if made.label_style == "value" else None
    write_file(label, made.label[None], made.held, made.label_style, made, [], nodata)
    if made.files == "stack":
        write_file(source / "s.tif", made.pixels, made.held, made.style, made, NAMES, made.nodata)
        return [(source / "s.tif", i) for i in (1, 2, 3)], label
    names = [f"Band{i}/B_01_01.tif" for i in (1, 2, 3)] if folders else [f"s_{name}.tif" for name in NAMES]
    for name, band, turns in zip(names, made.pixels, range(3), strict=True):
        held = np.roll(made.held, turns, axis=1)
        held[0, 0] = True
        write_file(source / name, band[None], held, made.style, made, [], made.nodata)
    return [(source / name, 1) for name in names], label


def write_file(path, pixels, held, style, made, names, nodata):
    """One GeoTIFF of (B, H, W) that says by a value, a mask or an alpha band what it holds."""
    layout = dict(made.layout)
    cog = layout.pop("driver", None)
    if pixels.dtype.kind == "f" and "predictor" in layout:
        layout["predictor"] = 3
    if style == "alpha":
        names = [*names, ""] if names else []
        most = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        pixels = np.concatenate((pixels, (held[None] * most).astype(pixels.dtype)))
    plain = path.with_suffix(".plain") if cog else path
    write_raster(plain, pixels, nodata=nodata, names=names, transform=made.transform, **layout)
    if style == "alpha":
        with rasterio.open(plain, "r+") as file:
            file.colorinterp = [ColorInterp.gray] * (len(pixels) - 1) + [ColorInterp.alpha]
    if "mask" in style:
        internal = style != "mask file"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(plain, "r+") as file:
            file.write_mask(held)
    if cog:
        rasterio.shutil.copy(plain, path, driver=cog, **layout)
        plain.unlink()


def check(store: Store, files, label_file, rule, stride, transform) -> None:
    size, bands = store.meta.tile_size, store.meta.bands
    assert store.meta.band_names == list(NAMES)
    read = np.ma.stack([masked(path, number) for path, number in files])
    held = ~np.ma.getmaskarray(read)
    optical = held[0] | held[1] if rule == "all" else held[0] & held[1]
    label = masked(label_file, 1)
    classes = np.vectorize(VALUES.get)(label.filled(0)).astype(np.uint8)
    classes[np.ma.getmaskarray(label) | ~optical] = IGNORE
    expected = {}
    for row in starts(label.shape[0], size, stride):
        for column in starts(label.shape[1], size, stride):
            if optical[row : row + size, column : column + size].any():
                expected[row, column] = None
    origins = [tuple(origin) for origin in store.array("origin").tolist()]
    assert origins == list(expected)
    for tile, (row, column) in enumerate(origins):
        here = (slice(row, row + size), slice(column, column + size))
        raw = store.image(tile)
        for b, band in enumerate(bands):
            values = band.unpack(raw[..., b])
            data = padded(held[b][here], size, False)
            np.testing.assert_array_equal(np.isnan(values), ~data)
            error = np.abs(values - padded(read[b].filled(0)[here], size, 0))[data]
            assert error.max(initial=0) <= band.bound * (1 + 1e-6)
        there = padded(classes[here], size, IGNORE)
        np.testing.assert_array_equal(store.label(tile), there)
        check_histogram(store.histogram[tile], there)
        corner = transform @ Affine.translation(column, row)
        np.testing.assert_allclose(store.array("transform")[tile], tuple(corner)[:6], rtol=1e-9)


def starts(extent, size, stride):
    """Corners along one side: one after the other until the end is covered."""
    found = [0]
    while found[-1] + size < extent:
        found.append(found[-1] + stride)
    return found


def padded(part, size, fill):
    """A window (h, w) in a tile (S, S)."""
    return np.pad(part, [(0, size - n) for n in part.shape], constant_values=fill)


def masked(path, number):
    """A band as rasterio masks it; what is not finite is no data either, nor where alpha is 0.

    Of an alpha band rasterio takes notice where it holds bytes or uint16.
    """
    with rasterio.open(path) as file:
        values = np.ma.masked_invalid(file.read(number, masked=True).astype(np.float64))
        if ColorInterp.alpha in file.colorinterp:
            values = np.ma.masked_where(file.read(file.count) == 0, values)
    return values


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
