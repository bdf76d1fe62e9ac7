"""Classes: what a label's values mean, in which order and colour they stand."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from glacier.errors import UsageError

IGNORE = 255
"""Label of a pixel that counts nowhere: no label, or no data."""

COLOURS = {
    "background": "#4a4038",
    "land": "#8a7a5c",
    "glacier": "#9fdcf5",
    "debris": "#c8742f",
    "lake": "#2b50d8",
    "water": "#2b50d8",
    "snow": "#f4f7fa",
}
"""Colours of classes by name; other names take from `SPARE_COLOURS` in turn."""

SPARE_COLOURS = ("#7b9e3a", "#d8b23a", "#a04fb0", "#3fb09a", "#d8506e", "#7f7f7f")


_WHOLE = re.compile("-?[0-9]+")


@dataclass(frozen=True, slots=True)
class Class:
    """One class; its index is its place in the tuple it stands in."""

    name: str
    value: int
    """The value it has in label rasters, and gets in maps."""
    colour: str
    """#rrggbb"""


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Classes, and which source value means which."""

    classes: tuple[Class, ...]
    index_of: dict[int, int]
    """Source value -> class index, or `IGNORE`."""
    value_of: dict[str, int] = field(default_factory=dict)
    """`attribute_key` of an outline's attribute -> source value."""

    @classmethod
    def parse(cls, text: str) -> "ClassMap":
        """Read `0=background,85=glacier,-1=ignore`; several values may share one name.

        A value may be a text, for outlines that say what they are in words: `Clean Ice=glacier`. Each
        such gets the lowest positive source value that is free.

        Raises:
            UsageError: an item that is not VALUE=NAME, a value given twice, or fewer than two classes.
        """
        items = [item.partition("=") for item in text.split(",")]
        whole = {int(v) for v, _, _ in items if _WHOLE.fullmatch(v.strip())}
        free = (value for value in count(1) if value not in whole)
        values: dict[str, int] = {}
        pairs: dict[int, str] = {}
        for item, (before, _, after) in zip(text.split(","), items, strict=True):
            key, name = attribute_key(before), after.strip()
            if not before.strip() or not name or key in values:
                raise UsageError(
                    f"--classes: {item!r} is not VALUE=NAME with a new value; expected e.g. "
                    "0=background,85=glacier,-1=ignore"
                )
            values[key] = int(key) if _WHOLE.fullmatch(key) else next(free)
            pairs[values[key]] = name
        names = list(dict.fromkeys(name for name in pairs.values() if name != "ignore"))
        if not 2 <= len(names) < IGNORE:
            raise UsageError(f"--classes: {len(names)} classes in {text!r}, expected 2 to {IGNORE - 1}")
        value_of = {name: value for value, name in reversed(pairs.items())}
        index = {v: names.index(n) if n != "ignore" else IGNORE for v, n in pairs.items()}
        return cls(coloured((name, value_of[name]) for name in names), index, values)


def attribute_key(value: object) -> str:
    """An attribute as `value_of` holds it: in lower case, a whole number in its shortest form."""
    if value is None or value != value:
        return "none"
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    text = str(value).strip().casefold()
    return str(int(text)) if _WHOLE.fullmatch(text) else text or "none"


def coloured(named: Iterable[tuple[str, int]]) -> tuple[Class, ...]:
    """Classes from (name, value), each with its colour."""
    spare = iter(SPARE_COLOURS * 50)
    return tuple(Class(name, value, COLOURS.get(name) or next(spare)) for name, value in named)


COMPETITION = ClassMap.parse("0=background,85=glacier,170=debris,255=lake")
"""The glacier mapping competition's values."""

OUTLINES = ClassMap.parse("0=background,1=glacier")
"""What vector outlines without a class attribute are rasterised to."""


def recognise(values: Iterable[int]) -> ClassMap:
    """The class map that the values of label rasters speak for.

    255 is a lake in one set and ice in another, so only the competition's own 85 or 170 will do.

    Raises:
        UsageError: other values; they are listed and `--classes` is asked for.
    """
    found = sorted(values)
    if not found:
        raise UsageError("labels hold no value but no data; expected classes in them, check --labels")
    if {85, 170} & set(found):
        return COMPETITION
    shown = ", ".join(map(str, found[:12])) + (", …" if len(found) > 12 else "")
    raise UsageError(
        f"labels hold the values {shown}; say what they mean with --classes, "
        "e.g. --classes 0=background,1=glacier,-1=ignore"
    )
