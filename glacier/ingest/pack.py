"""How bands are packed: the store's dtype, and per band a scale, an offset and a no-data code."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from glacier.errors import GlacierError
from glacier.ingest.survey import Need, Range
from glacier.scenes.scene import SourceBand
from glacier.store.bands import Band

Dtype = Literal["auto", "int16", "float32"]

LOWEST = -32768
LEVELS = 65534
"""Steps between -32767 and 32767: what is left of 16 bits beside the no-data code."""


_BY_DTYPE = frozenset({"uint8", "int8", "uint16", "int16"})


def needs(columns: Sequence[Sequence[SourceBand]], dtype: Dtype) -> list[Need]:
    """By band: what the survey must read to decide its packing; mostly nothing, for integers.

    Args:
        columns: per band, that band in every scene.
        dtype: as for `pack_bands`.
    """
    if dtype == "float32":
        return [Need(range=not _fits_float32(column), taken=False) for column in columns]
    return [_need(column) for column in columns]


def _fits_float32(column: Sequence[SourceBand]) -> bool:
    """Whether float32 holds every value of a band's dtypes."""
    return {band.dtype for band in column} <= {*_BY_DTYPE, "float32"}


def _need(column: Sequence[SourceBand]) -> Need:
    source = _one_dtype(column)
    if source not in _BY_DTYPE:
        return Need(range=True, taken=False)
    return Need(range=False, taken=source in ("uint16", "int16") and _declared(column) is None)


def pack_bands(
    columns: Sequence[Sequence[SourceBand]], ranges: Sequence[Range], dtype: Dtype
) -> list[Band]:
    """The packing of each band of a store.

    Args:
        columns: per band, that band in every scene.
        ranges: per band, what the survey found where it had to look.
        dtype: `auto` (uint8 where every band fits, else int16), `int16`, or `float32`.

    Raises:
        GlacierError: a 16-bit band that uses all 65536 values and so leaves no no-data code, or a band
            whose lowest or highest value looks like an undeclared no-data value.
    """
    if dtype == "float32":
        return [_as_float32(column, found) for column, found in zip(columns, ranges, strict=True)]
    codes = [_declared(column) if _one_dtype(column) == "uint8" else None for column in columns]
    narrow = [code for code in codes if code is not None]
    if dtype == "auto" and len(narrow) == len(columns):
        return [_band(c[0], "uint8", nodata=code) for c, code in zip(columns, narrow, strict=True)]
    return [_sixteen_bits(column, found) for column, found in zip(columns, ranges, strict=True)]


def _one_dtype(column: Sequence[SourceBand]) -> str | None:
    """The dtype of a band, if it is the same in every scene."""
    dtypes = {band.dtype for band in column}
    return dtypes.pop() if len(dtypes) == 1 else None


def _declared(column: Sequence[SourceBand]) -> int | None:
    """The no-data value that every scene declares for an integer band, if a pixel can take it."""
    values = {band.nodata for band in column}
    value = values.pop() if len(values) == 1 else None
    if value is None or not float(value).is_integer() or _one_dtype(column) not in _BY_DTYPE:
        return None
    info = np.iinfo(column[0].dtype)
    return int(value) if info.min <= value <= info.max else None


def _sixteen_bits(column: Sequence[SourceBand], found: Range) -> Band:
    band, source = column[0], _one_dtype(column)
    if source in ("uint8", "int8"):
        return _band(band, "int16", nodata=LOWEST)
    if source in ("uint16", "int16"):
        lowest = int(np.iinfo(source).min)
        offset = lowest - LOWEST
        code = _declared(column)
        code = _free(column, found, lowest) if code is None else code
        return _band(band, "int16", nodata=code - offset, offset=offset)
    return _from_range(band, found)


def _free(column: Sequence[SourceBand], found: Range, lowest: int) -> int:
    """A 16-bit source value that no valid pixel takes: the highest free one."""
    assert found.taken is not None, "the survey was asked for it"
    free = np.flatnonzero(~found.taken)
    if not free.size:
        raise GlacierError(
            f"band {column[0].name}: all 65536 values of {column[0].dtype} occur, expected one free "
            "for no data; use --dtype float32"
        )
    return lowest + int(free[-1])


def _from_range(band: SourceBand, found: Range) -> Band:
    """Whole numbers without loss if they span 16 bits, else 65535 levels over the range found."""
    low, high = (found.low, found.high) if found.low <= found.high else (0.0, 0.0)
    if found.integral and high - low <= LEVELS:
        fits = low >= -32767 and high <= 32767
        return _band(band, "int16", nodata=LOWEST, offset=0.0 if fits else low + 32767)
    _no_sentinel(band, found)
    scale = (high - low) / LEVELS or 1.0
    return _band(
        band,
        "int16",
        nodata=LOWEST,
        scale=scale,
        offset=(low + high) / 2,
        bound=scale / 2 if high > low else 0.0,
    )


def _no_sentinel(band: SourceBand, found: Range) -> None:
    """Refuse to spread 16 bits over a gap between real values and one that stands far away.

    A no-data value that the file does not declare, -9999 or -3.4e38, would leave the real values a
    few levels or none.
    """
    gaps = {found.low: found.inner_low - found.low, found.high: found.high - found.inner_high}
    inner = found.inner_high - found.inner_low
    for value, gap in gaps.items():
        if gap > 10 * inner > 0:
            raise GlacierError(
                f"band {band.name}: value {value:g} stands far from all others, {found.inner_low:g} to "
                f"{found.inner_high:g}; if it means no data, declare it "
                f"(gdal_edit.py -a_nodata {value:g}), else use --dtype float32"
            )


def _as_float32(column: Sequence[SourceBand], found: Range) -> Band:
    """float32 as it is; for wider sources, half a unit in the last place of the largest value."""
    if _fits_float32(column) or found.low > found.high:
        return _band(column[0], "float32", nodata=math.nan)
    largest = max((found.low, found.high), key=abs)
    if abs(largest) > np.finfo(np.float32).max:
        raise GlacierError(
            f"band {column[0].name}: value {largest:g} is beyond float32; if it means no data, declare it "
            f"(gdal_edit.py -a_nodata {largest:g})"
        )
    bound = float(np.spacing(np.float32(abs(largest)))) / 2
    return _band(column[0], "float32", nodata=math.nan, bound=bound)


def _band(
    band: SourceBand,
    dtype: str,
    *,
    nodata: float,
    offset: float = 0.0,
    scale: float = 1.0,
    bound: float = 0.0,
) -> Band:
    return Band(
        name=band.name,
        role=band.role,
        code=band.code,
        dtype=dtype,
        scale=scale,
        offset=offset,
        nodata=nodata,
        bound=bound,
    )
