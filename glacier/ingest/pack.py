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
        return [Need(range=False, taken=False) for _ in columns]
    return [_need(column) for column in columns]


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
        GlacierError: a 16-bit band that uses all 65536 values and so leaves no no-data code.
    """
    if dtype == "float32":
        return [_band(column[0], "float32", nodata=math.nan) for column in columns]
    codes = [_declared(column) for column in columns]
    narrow = all(_one_dtype(c) == "uint8" and n is not None for c, n in zip(columns, codes, strict=True))
    if dtype == "auto" and narrow:
        return [_band(c[0], "uint8", nodata=n or 0) for c, n in zip(columns, codes, strict=True)]
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
    free = np.flatnonzero(~found.taken) if found.taken is not None else np.array([0])
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
    scale = (high - low) / LEVELS or 1.0
    return _band(
        band,
        "int16",
        nodata=LOWEST,
        scale=scale,
        offset=(low + high) / 2,
        bound=scale / 2 if high > low else 0.0,
    )


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
