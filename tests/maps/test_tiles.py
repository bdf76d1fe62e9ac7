"""Tiles read without GDAL are what the package reads, or are refused."""

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from glacier.errors import GlacierError
from glacier.maps.tiles import find_tiles, read_header, read_pixels
from glacier.scenes.band_folders import band_files
from glacier.scenes.files import read_bands
from tests.helpers import write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("img001.tif", "001"),
        ("img7_2020.tif", "7"),
        ("x_IMG0012_02_07.tif", "0012"),
        ("B2_B2_masked_02_07.tif", "02_07"),
        ("B10_12_03.tif", "12_03"),
        ("Landsat_2019_02_07.tif", "02_07"),
        ("02_07_masked.TIF", "02_07"),
        ("B2_B2_masked_02_07_2020.tif", "02_07"),
        ("B2_B2_masked_102_07.tif", "102_07"),
        ("B2_B2_masked_02_071.tif", "02_071"),
    ],
)
def test_ids_of_tiles(tmp_path, name, tile):
    write_raster(tmp_path / "Band1" / name, np.ones((4, 4), np.uint16))
    (tmp_path / "Band1" / f"._{name}").write_bytes(b"macOS's own")
    code = name.split("_")[0] if name.startswith("B") else "Band1"
    (found,) = find_tiles(tmp_path, {"x": (code,)})
    assert (found.name, found.file) == (tile, name)


TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
KINDS = [
    (dtype, {**({"compress": compress} if compress else {}), **layout, **predictor})
    for dtype in ("uint8", "int16", "uint16", "int32", "float32")
    for compress in (None, "lzw", "deflate", "packbits")
    for layout in ({}, TILED)
    for predictor in ({}, {"predictor": 3 if dtype == "float32" else 2})
    if not predictor or compress in ("lzw", "deflate")
]


@pytest.mark.parametrize(("dtype", "options"), KINDS)
def test_files_are_read_as_the_package_reads_them(tmp_path, dtype, options):
    rng = np.random.default_rng(0)
    low = -40 if dtype[0] != "u" else 0
    pixels = rng.integers(low, 200 if dtype == "uint8" else 30_000, (40, 50)).astype(dtype)
    pixels[:5] = 7
    path = write_raster(tmp_path / "Band3" / "x_01_02.tif", pixels, nodata=7, names=["swir1"], **options)
    (named,) = band_files(path.parent, "Band3")
    _, (expected,) = read_bands(named)
    assert read_header(named) == expected
    read = read_pixels(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(("nodata", "filled"), [(7, 7), (None, 0)])
def test_blocks_that_are_left_out_hold_what_they_do_to_gdal(tmp_path, nodata, filled):
    path = write_raster(
        tmp_path / "x.tif", np.full((32, 32), filled, np.uint16), nodata=nodata, sparse_ok=True, **TILED
    )
    with rasterio.open(path, "r+") as file:
        file.write(np.full((16, 16), 9, np.uint16), 1, window=Window(16, 0, 16, 16))
        size = path.stat().st_size
        expected = file.read(1)
    assert size < 32 * 32 * 2
    np.testing.assert_array_equal(read_pixels(path), expected)
    assert set(np.unique(expected)) == {filled, 9}


def test_two_tiles_of_one_id_are_refused(tmp_path):
    for name in ("a_02_07_1.tif", "b_02_07_2.tif"):
        write_raster(tmp_path / "Band1" / name, np.ones((4, 4), np.uint16))
    with pytest.raises(GlacierError, match=r"2 tiles of the id 02_07 \(a_02_07_1.tif, b_02_07_2.tif\)"):
        find_tiles(tmp_path, {"x": ("Band1",)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nbits": 12}, "holds 12 bits per value"),
        ({"photometric": "miniswhite"}, "holds white as 0"),
        ({}, "holds an internal mask"),
    ],
)
def test_what_gdal_reads_otherwise_is_refused(tmp_path, options, words):
    path = tmp_path / "Band1" / "x_01_02.tif"
    write_raster(path, np.ones((8, 8), np.uint16), **options)
    if not options:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(np.eye(8, dtype=bool))
    with pytest.raises(GlacierError, match=rf"x_01_02.tif: {words}, expected a plain GeoTIFF"):
        find_tiles(tmp_path, {"x": ("Band1",)})


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd"])
def test_a_damaged_file_or_an_unknown_codec_is_one_error(tmp_path, compress):
    pixels = np.random.default_rng(0).integers(0, 30_000, (64, 64)).astype(np.uint16)
    path = write_raster(tmp_path / "x.tif", pixels, compress=compress, blockysize=16)
    with path.open("r+b") as file:
        file.seek(3000)
        file.write(b"\xff" * 500)
    with pytest.raises(GlacierError, match=r"x.tif: cannot be read by tifffile .* nor by OpenCV"):
        read_pixels(path)
