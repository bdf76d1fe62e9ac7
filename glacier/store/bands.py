"""A stored band: how its physical values are packed into raw ones, and what they are like."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[np.uint8] | NDArray[np.int16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of a band's valid pixels, in physical units; NaN in a band without any."""

    mean: float
    std: float
    minimum: float
    maximum: float
    p2: float
    """2nd percentile"""
    p98: float
    """98th percentile"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One channel of a store: `physical = raw * scale + offset`, but for the no-data code."""

    name: str
    role: str
    """optical, thermal, terrain, texture or other"""
    code: str
    """What the source called it, e.g. B4."""
    dtype: str
    """The store's raw dtype: uint8, int16 or float32."""
    scale: float = 1.0
    offset: float = 0.0
    nodata: float
    """Raw no-data code, which no valid pixel takes; NaN in float32."""
    bound: float = 0.0
    """Largest error of packing a value in range, physical units; 0 where packing is exact."""
    statistics: Statistics | None = None
    """None until the store is complete."""

    def limits(self) -> tuple[float, float]:
        """Lowest and highest raw value that a valid pixel may take."""
        if self.dtype == "float32":
            return -math.inf, math.inf
        info = np.iinfo(self.dtype)
        return (
            float(info.min + (self.nodata == info.min)),
            float(info.max - (self.nodata == info.max)),
        )

    def pack(self, values: NDArray[np.generic], valid: NDArray[np.bool_] | None, out: Raw) -> int:
        """Write the raw codes of `values` (h, w) into `out` (h, w).

        Args:
            values: physical values, any real dtype.
            valid: where they are data; None if everywhere.
            out: raw codes, of this band's dtype.

        Returns:
            How many valid pixels were outside the packing's range (or on its no-data code) and took
            the nearest raw value instead. Never any where the packing was made for these values.
        """
        if self.dtype == "float32":
            out[...] = values
            clipped = 0
        elif values.dtype.kind in "ui" and self.scale == 1.0:
            clipped = self._pack_exact(values.astype(np.int64) - int(self.offset), valid, out)
        else:
            shifted = (values.astype(np.float64) - self.offset) / self.scale
            raw = np.rint(np.where(valid, shifted, 0.0) if valid is not None else shifted)
            clipped = self._pack_exact(raw, valid, out)
        if valid is not None:
            out[~valid] = self.nodata
        return clipped

    def _pack_exact(
        self,
        raw: NDArray[np.int64] | NDArray[np.float64],
        valid: NDArray[np.bool_] | None,
        out: Raw,
    ) -> int:
        low, high = self.limits()
        outside = (raw < low) | (raw > high)
        on_code = raw == self.nodata
        strange = outside | on_code
        if valid is not None:
            strange &= valid
        if strange.any():
            raw = np.where(on_code, raw + (1 if self.nodata < high else -1), raw).clip(low, high)
        out[...] = raw
        return int(strange.sum())

    def missing(self, raw: Raw) -> NDArray[np.bool_]:
        """Where raw codes are no data."""
        return np.isnan(raw) if math.isnan(self.nodata) else np.asarray(raw == self.nodata)

    def unpack(self, raw: Raw) -> NDArray[np.float64]:
        """Physical values, NaN where there is no data."""
        values = raw.astype(np.float64) * self.scale + self.offset
        return np.where(self.missing(raw), np.nan, values)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the store's attributes; a NaN code is written as null."""
        record = asdict(self)
        record.pop("dtype")
        statistics = record.pop("statistics") or {}
        record = {**record, **statistics}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}

    @classmethod
    def from_json(cls, record: dict[str, Any], dtype: str) -> Self:
        """The inverse of `to_json`; `dtype` is that of the store's image.

        Raises:
            KeyError, TypeError, ValueError: no record of a band.
        """
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in record.items()}
        inner = {f.name: known.pop(f.name) for f in fields(Statistics)}
        numbers = [known[name] for name in ("scale", "offset", "nodata", "bound")] + list(inner.values())
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError(f"band {known['name']}: {numbers}, expected numbers")
        if dtype != "float32" and not np.iinfo(dtype).min <= known["nodata"] <= np.iinfo(dtype).max:
            raise ValueError(
                f"band {known['name']}: no-data code {known['nodata']}, expected one of {dtype}"
            )
        return cls(**known, dtype=dtype, statistics=Statistics(**inner))
