"""Alpha and mask bands, and files whose bands differ in dtype; each value is held to rasterio elsewhere."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp

from glacier.errors import GlacierError
from glacier.scenes.layouts import find_scenes
from tests.helpers import make_store, write_raster

OPTIONS = {"tile_size": 32, "classes": "0=a,1=b", "folds": 2}


def names(source):
    return [band.name for band in find_scenes(source)[0].bands]


def test_a_fourth_band_of_bytes_is_alpha_unless_it_is_described(tmp_path):
    """Whatever writes a TIFF of four bytes calls the fourth alpha."""
    pixels = np.ones((4, 8, 8), np.uint8)
    for described, found in (
        (("blue", "green", "red", "nir"), ["blue", "green", "red", "nir"]),
        (("blue", "green", "red", "alpha"), ["blue", "green", "red"]),
        ((), ["band_1", "band_2", "band_3"]),
    ):
        pixels[3] = 1 if described else np.eye(8) * 255
        path = write_raster(tmp_path / "s.tif", pixels, names=described)
        with rasterio.open(path) as file:
            assert file.colorinterp[3] is ColorInterp.alpha
        assert names(path) == found
        assert [band.masked for band in find_scenes(path)[0].bands] == [len(found) == 3] * len(found)


def test_a_fourth_band_of_bytes_that_looks_like_a_band_is_asked_about(tmp_path):
    """Red, green, blue and near infrared without descriptions: nothing is lost unasked."""
    path = write_raster(tmp_path / "s.tif", np.full((4, 8, 8), 77, np.uint8))
    with pytest.raises(
        GlacierError, match=r"calls band 4 alpha, but .*gdal_edit.py -colorinterp_4 undefined"
    ):
        names(path)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (*file.colorinterp[:3], ColorInterp.undefined)
    assert names(path) == ["band_1", "band_2", "band_3", "band_4"]


def test_alpha_and_a_no_data_value_both_count(tmp_path):
    pixels = np.full((2, 32, 32), 5, np.uint16)
    pixels[0, :8], pixels[1, :, :8] = 0, 0
    path = write_raster(tmp_path / "in" / "s.tif", pixels, nodata=0, alpha="yes")
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((32, 32), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", **OPTIONS)
    assert names(path) == ["band"]
    assert store.histogram.sum() == 24 * 24


def test_an_alpha_band_alone_is_no_scene(tmp_path):
    path = write_raster(tmp_path / "s.tif", np.ones((2, 8, 8), np.uint8), alpha="yes")
    rasterio.shutil.copy(path, tmp_path / "t.vrt", driver="VRT")
    text = (tmp_path / "t.vrt").read_text()
    first = text[text.index("  <VRTRasterBand") : text.index("</VRTRasterBand>") + 17]
    (tmp_path / "t.vrt").write_text(text.replace(first, "").replace('band="2"', 'band="1"'))
    with pytest.raises(GlacierError, match="t.vrt: holds an alpha band and nothing else"):
        find_scenes(tmp_path / "t.vrt")


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_bands_of_several_dtypes_in_one_file(tmp_path, order):
    rng = np.random.default_rng(0)
    bands = [
        rng.integers(1, 250, (40, 50)).astype(np.uint8),
        rng.integers(1, 250, (40, 50)).astype(np.uint8),
        rng.uniform(0, 1, (40, 50)).astype(np.float32),
    ]
    bands[2][:9] = np.nan
    (tmp_path / "in").mkdir()
    written = []
    for place, which in enumerate(order):
        path = write_raster(tmp_path / "parts" / f"{place}.tif", bands[which])
        written.append(
            f'<VRTRasterBand dataType="{"Float32" if which == 2 else "Byte"}" band="{place + 1}">'
            f"<Description>{('blue', 'red', 'slope')[which]}</Description><SimpleSource>"
            f"<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand>"
            "</SimpleSource></VRTRasterBand>"
        )
    (tmp_path / "in" / "s.vrt").write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><SRS>EPSG:32645</SRS>'
        f"<GeoTransform>500000,30,0,3100000,0,-30</GeoTransform>{''.join(written)}</VRTDataset>"
    )
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((40, 50), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", **{**OPTIONS, "tile_size": 64})
    assert store.meta.band_names == ["blue", "red", "slope"]
    for i, band in enumerate(store.meta.bands):
        values = band.unpack(store.image(0)[:40, :50, i])
        np.testing.assert_allclose(values, bands[i], atol=band.bound * 1.001, rtol=0)


@pytest.mark.parametrize("alpha", [False, True])
def test_a_tile_that_is_wholly_masked_is_left_out(tmp_path, alpha):
    """Bytes without a no-data value, of which the survey need not read a pixel but for the mask."""
    held = np.zeros((32, 96), np.uint8)
    held[5, 40] = 255
    pixels = np.stack((held + 7, held)) if alpha else held + 7
    path = write_raster(tmp_path / "in" / "s_red.tif", pixels, **({"alpha": "yes"} if alpha else {}))
    if not alpha:
        with rasterio.open(path, "r+") as file:
            file.write_mask(held)
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((32, 96), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", **OPTIONS)
    assert store.array("origin").tolist() == [[0, 32]]
    assert store.histogram.sum() == 1
