"""What bands are called: the names each sensor gives them, and what kind of thing they measure."""

import re
from collections.abc import Mapping
from typing import Literal

from glacier.errors import UsageError

Role = Literal["optical", "thermal", "terrain", "texture", "other"]

OPTICAL = (
    *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3"),
    *("nir", "nir_narrow", "pan", "watervapour", "cirrus", "swir1", "swir2"),
)
THERMAL = ("thermal", "thermal2")
TERRAIN = ("elevation", "slope", "aspect")

_LANDSAT7 = {
    "B1": "blue",
    "B2": "green",
    "B3": "red",
    "B4": "nir",
    "B5": "swir1",
    "B6": "thermal",
    "B6_VCID_1": "thermal",
    "B6_VCID_2": "thermal2",
    "B7": "swir2",
    "B8": "pan",
}
_LANDSAT8 = {
    "B1": "coastal",
    "B2": "blue",
    "B3": "green",
    "B4": "red",
    "B5": "nir",
    "B6": "swir1",
    "B7": "swir2",
    "B8": "pan",
    "B9": "cirrus",
    "B10": "thermal",
    "B11": "thermal2",
}
_SENTINEL2 = {
    "B1": "coastal",
    "B2": "blue",
    "B3": "green",
    "B4": "red",
    "B5": "rededge1",
    "B6": "rededge2",
    "B7": "rededge3",
    "B8": "nir",
    "B8A": "nir_narrow",
    "B9": "watervapour",
    "B10": "cirrus",
    "B11": "swir1",
    "B12": "swir2",
}

SENSORS = (
    (re.compile(r"(^|_)L[ET]0?[4-7](?=\d|_|$)", re.I), _LANDSAT7),
    (re.compile(r"(^|_)L[COE]0?[89](?=\d|_|$)", re.I), _LANDSAT8),
    (re.compile(r"(^|_)(S2[A-D](?=_|$)|S2Hand|T\d\d[A-Z]{3}_)", re.I), _SENTINEL2),
)
"""A pattern in file names -> what that sensor's band codes measure. B4 is not the same on all."""

CODE = re.compile(r"B(\d{1,2})(A?)((?:_VCID_\d)?)", re.I)
"""A band code such as B4, B04, B8A, B6_VCID_1."""


def role(name: str) -> Role:
    """What kind of thing a band of this name measures."""
    if name in OPTICAL:
        return "optical"
    if name in THERMAL:
        return "thermal"
    if name in TERRAIN:
        return "terrain"
    return "texture" if name.startswith("glcm") else "other"


def canonical(code: str) -> str:
    """A band code in its short form: `b04` -> `B4`."""
    match = CODE.fullmatch(code)
    if not match:
        return code
    return f"B{int(match[1])}{match[2].upper()}{match[3].upper()}"


def measured(code: str, stem: str) -> str:
    """The name of what band `code` measures, if the file name `stem` tells the sensor; else `code`."""
    for pattern, table in SENSORS:
        if pattern.search(stem):
            return table.get(canonical(code), canonical(code))
    return canonical(code)


def spectral_order(name: str) -> tuple[int, str]:
    """A sort key: wavelength, then thermal, terrain, unknown (as they come), texture by name."""
    known = (*OPTICAL, *THERMAL, *TERRAIN)
    if name in known:
        return known.index(name), ""
    return (len(known) + 1, name) if role(name) == "texture" else (len(known), "")


Selection = Mapping[str, tuple[str, ...]]
"""New name of each band to take, in order -> what the source may call it, by code or name.

The first is taken wherever it is found; another only for a band that nothing says what it measures,
since B10 is thermal on one sensor and cirrus on another.
"""


def parse_selection(text: str) -> Selection:
    """`B2=blue,B6` -> {"blue": ("B2",), "B6": ("B6",)}: which bands to take, and their names.

    Raises:
        UsageError: an empty item, or one band or name given twice.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for item in text.split(",") if text else ():
        source, _, name = (part.strip() for part in item.partition("="))
        if not source or (name or source) in chosen or (source,) in chosen.values():
            raise UsageError(f"--bands: {item!r} is empty or stands twice; expected e.g. B2=blue,B6=swir1")
        chosen[name or source] = (source,)
    return chosen
