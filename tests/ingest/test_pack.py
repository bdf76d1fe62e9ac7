"""Every value of every source comes back from its raw code: exactly, or within the bound recorded."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glacier.errors import GlacierError
from glacier.ingest.pack import needs, pack_bands
from glacier.ingest.survey import CODES, Range
from glacier.scenes.scene import SourceBand
from glacier.store.bands import Band


def source(dtype: str, nodata: float | None) -> SourceBand:
    return SourceBand("red", "B4", Path("s.tif"), 1, dtype, nodata)


def packed(
    values: np.ndarray, valid: np.ndarray, dtype: str, nodata: float | None
) -> tuple[Band, np.ndarray]:
    """Pack as an ingest does: survey where needed, choose, write."""
    column = [source(dtype, nodata)]
    (need,) = needs([column], "auto")
    found = Range(taken=np.zeros(CODES, bool) if need.taken else None)
    if need.range or need.taken:
        found.add(values[valid])
    (band,) = pack_bands([column], [found], "auto")
    raw = np.empty(values.shape, band.dtype)
    assert band.pack(values, valid, raw) == 0
    return band, raw


def exact(values):
    """Whether 16 bits hold these values, in rising order, as they are."""
    return not values.size or (np.all(values == np.rint(values)) and values[-1] - values[0] <= 65534)


def far(values):
    """Whether the lowest or highest of these values stands far from all others."""
    if len(values) < 4:
        return False
    return max(values[1] - values[0], values[-1] - values[-2]) > 10 * (values[-2] - values[1]) > 0


@given(st.data(), st.sampled_from(["uint8", "uint16", "int16", "float32", "float64", "int32"]))
def test_packing_keeps_every_valid_value(data, dtype):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        elements = st.one_of(
            st.floats(-1e4, 1e4, width=32), st.integers(-30000, 30000).map(float), st.just(float("nan"))
        )
        nodata = data.draw(st.sampled_from([None, float("nan"), -9999.0]))
    else:
        info = np.iinfo(kind)
        elements = st.integers(max(info.min, -40000), min(info.max, 65535))
        nodata = data.draw(st.none() | st.integers(max(info.min, -40000), min(info.max, 65535)).map(float))
    values = data.draw(hnp.arrays(kind, (5, 7), elements=elements))
    valid = np.isfinite(values) & (values != nodata if nodata is not None else True)
    lone = np.unique(values[valid].astype(np.float64))
    if dtype not in ("uint8", "uint16", "int16") and not exact(lone) and far(lone):
        with pytest.raises(GlacierError, match="stands far from all others"):
            packed(values, valid, dtype, nodata)
        return
    band, raw = packed(values, valid, dtype, nodata)
    back = band.unpack(raw)
    np.testing.assert_array_equal(np.isnan(back), ~valid)
    error = np.abs(back[valid] - values[valid].astype(np.float64))
    assert error.max(initial=0) <= band.bound * (1 + 1e-9)


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint8", 0, ("uint8", 0, 0)),
        ("uint8", 255, ("uint8", 255, 0)),
        ("uint8", None, ("int16", -32768, 0)),
        ("uint8", -1, ("int16", -32768, 0)),
        ("uint16", 0, ("int16", -32768, 32768)),
        ("uint16", 65535, ("int16", 32767, 32768)),
        ("int16", -9999, ("int16", -9999, 0)),
        ("int16", 0, ("int16", 0, 0)),
    ],
)
def test_integers_pack_by_their_dtype(dtype, nodata, expected):
    (need,) = needs([[source(dtype, nodata)]], "auto")
    assert not need.range
    assert not need.taken
    (band,) = pack_bands([[source(dtype, nodata)]], [Range()], "auto")
    assert (band.dtype, band.nodata, band.offset) == expected
    assert (band.scale, band.bound) == (1, 0)


def test_uint8_becomes_int16_beside_a_wider_band():
    columns = [[source("uint8", 0)], [source("int16", 0)]]
    assert [b.dtype for b in pack_bands(columns, [Range(), Range()], "auto")] == ["int16", "int16"]


def test_scenes_that_disagree_on_no_data_are_searched_for_a_free_code():
    column = [source("uint16", 0), source("uint16", 7)]
    (need,) = needs([column], "auto")
    assert need.taken
    found = Range(taken=np.zeros(CODES, bool))
    found.add(np.arange(65535, dtype=np.uint16))
    (band,) = pack_bands([column], [found], "auto")
    assert band.unpack(np.array([band.nodata], np.int16) - 1) == 65534
    assert band.nodata == 65535 - 32768


def test_a_band_that_uses_every_value_is_refused():
    found = Range(taken=np.ones(CODES, bool))
    with pytest.raises(GlacierError, match="all 65536 values of uint16 occur.*--dtype float32"):
        pack_bands([[source("uint16", None)]], [found], "auto")


def test_floats_that_are_whole_numbers_are_kept_exactly():
    found = Range()
    found.add(np.array([0, 65455], np.float32))
    (band,) = pack_bands([[source("float32", None)]], [found], "auto")
    assert (band.dtype, band.scale, band.bound) == ("int16", 1, 0)
    values = np.arange(65456, dtype=np.float32)
    raw = np.empty(values.shape, np.int16)
    assert band.pack(values, None, raw) == 0
    np.testing.assert_array_equal(band.unpack(raw), values)


def test_float32_keeps_all():
    (band,) = pack_bands([[source("float32", None)]], [Range()], "float32")
    values = np.array([1.25, np.nan, -3e30], np.float32)
    raw = np.empty(3, np.float32)
    band.pack(values, np.isfinite(values), raw)
    np.testing.assert_array_equal(band.unpack(raw), values.astype(np.float64))


@pytest.mark.parametrize("nodata", [-32768, 0, 32767])
def test_values_beyond_the_range_are_clipped_and_counted_and_never_become_no_data(nodata):
    band = Band(name="b", role="other", code="b", dtype="int16", nodata=nodata)
    values = np.array([-40000, -32768, 0, 32767, 40000])
    raw = np.empty(5, np.int16)
    clipped = band.pack(values, None, raw)
    assert not band.missing(raw).any()
    assert clipped == 2 + 1
    inside = (values >= -32768) & (values <= 32767) & (values != nodata)
    np.testing.assert_array_equal(raw[inside], values[inside])
