"""The small numbers of a tile, and what a survey gathers, against the plainest way to count them."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier.errors import GlacierError
from glacier.ingest.survey import Range
from glacier.store.bands import Band
from glacier.store.compiled import compiled_count
from glacier.store.measures import moments
from tests.helpers import make_store, write_raster


@given(st.integers(0, 2**32), st.sampled_from(["uint8", "int16", "float32"]), st.sampled_from([0, 0.3, 1]))
def test_moments_equal_numpys(seed, dtype, gap):
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    limits = (0, 255) if dtype == "uint8" else (-32768, 32767)
    low, high = sorted(rng.integers(*limits, 2).tolist())
    image = rng.integers(low, high, (64, 64, 3), endpoint=True).astype(kind)
    code = float("nan") if dtype == "float32" else float(rng.choice([low, high, limits[0]]))
    image[rng.random(image.shape) < gap] = code
    bands = [
        Band(name="b", role="other", code="b", dtype=dtype, nodata=code, scale=s, offset=o)
        for s, o in ((1.0, 0.0), (1.0, 32768.0), (0.013, -7.0))
    ]
    found = moments(image, bands)
    np.testing.assert_array_equal(moments(image, bands, compiled_count()), found)
    for row, band, raw in zip(found, bands, np.moveaxis(image, -1, 0), strict=True):
        values = band.unpack(raw)
        values = values[np.isfinite(values)]
        if not values.size:
            assert not row.any()
            continue
        assert row[0] == values.size
        assert (row[3], row[4]) == (values.min(), values.max())
        np.testing.assert_allclose(row[1], values.mean(), rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(row[2], np.square(values - values.mean()).sum(), rtol=1e-9, atol=1e-6)


def test_squared_deviations_do_not_drown_in_a_large_mean():
    image = np.full((64, 64, 1), 32000, np.int16)
    image[0, 0] = 32001
    band = Band(name="b", role="other", code="b", dtype="int16", nodata=-32768)
    n = 64 * 64
    assert moments(image, [band])[0, 2] == (n - 1) / n


@given(st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=8), st.booleans())
def test_a_range_of_parts_is_that_of_the_whole(parts, halves):
    scale = 0.5 if halves else 1.0
    found, whole = Range(), Range()
    for part in parts:
        found.add(np.array(part, np.float32) * scale)
    every = sorted({value * scale for part in parts for value in part})
    whole.add(np.array(every, np.float32))
    assert (found.low, found.high) == (whole.low, whole.high)
    assert (found.inner_low, found.inner_high) == (whole.inner_low, whole.inner_high)
    assert found.integral == whole.integral
    if len(every) > 1:
        assert (found.low, found.inner_low, found.inner_high, found.high) == (
            every[0],
            every[1],
            every[-2],
            every[-1],
        )


@pytest.mark.parametrize("layout", [{}, {"interleave": "band"}, {"tiled": True, "compress": "deflate"}])
def test_a_source_that_lacks_its_end_writes_nothing(tmp_path, layout):
    """Found out when it is opened, before its missing pixels are read."""
    pixels = np.random.default_rng(0).integers(1, 5000, (2, 300, 300)).astype(np.uint16)
    path = write_raster(tmp_path / "in" / "s.tif", pixels, nodata=0, **layout)
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((300, 300), np.uint8))
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(GlacierError, match=r"s.tif: unreadable at row 32, column 32 .*bytes, expected"):
        make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", folds=2)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("rule", ["all", "any"])
def test_data_beside_the_middle_of_a_tile_is_found(tmp_path, rule):
    pixels = np.zeros((2, 64, 128), np.uint16)
    pixels[:, 5, 70] = 9
    write_raster(tmp_path / "in" / "s.tif", pixels, nodata=0, names=("red", "nir"))
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((64, 128), np.uint8))
    store = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", nodata=rule)
    assert store.array("origin").tolist() == [[0, 64]]
    assert store.histogram.sum() == 1
