"""Pictures a person looks at: tiles in false colour, labels in their classes' colours, sheets of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glacier.classes import Class

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB"""

PAPER, INK, FAINT, NOTHING = (20, 23, 28), (236, 239, 243), (150, 158, 168), (44, 48, 55)
GAP, PAD = 6, 28
GAMMA, MUTE = 0.7, 0.3
"""Curve of the bands, and the share of grey mixed in: bare rock is glaring red without it."""

COMPOSITES = (
    ("swir1", "nir", "red"),
    ("swir1", "red", "blue"),
    ("nir", "red", "green"),
    ("red", "green", "blue"),
)
"""Bands shown as red, green and blue, the first that a store has: ice comes out cyan where it can."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A band's place in the image, and the physical values shown as black and as full colour."""

    band: int
    low: float
    high: float


def composite(names: Sequence[str]) -> list[int]:
    """Places of the three bands to show; the same one thrice where there are fewer than three."""
    for wanted in COMPOSITES:
        if set(wanted) <= set(names):
            return [names.index(name) for name in wanted]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]


def false_colour(pixels: NDArray[np.floating], stretches: Sequence[Stretch]) -> Picture:
    """Physical values (H, W, B), NaN without data, as RGB (H, W, 3)."""
    picture = np.empty((*pixels.shape[:2], 3), np.float64)
    for channel, s in enumerate(stretches):
        picture[..., channel] = (pixels[..., s.band] - s.low) / max(s.high - s.low, 1e-9)
    missing = np.isnan(picture).any(axis=-1)
    shown = 255 * np.nan_to_num(picture).clip(0, 1) ** GAMMA
    shown += MUTE * (shown.mean(axis=-1, keepdims=True) - shown)
    shown[missing] = NOTHING
    return shown.astype(np.uint8)


def class_colours(label: NDArray[np.uint8], classes: Sequence[Class]) -> Picture:
    """Class indices (H, W) in their colours (H, W, 3); what has no class is dark."""
    table = np.empty((256, 3), np.uint8)
    table[:] = NOTHING
    table[: len(classes)] = [list(bytes.fromhex(c.colour.lstrip("#"))) for c in classes]
    return table[label]


def enlarged(picture: Picture, side: int) -> Picture:
    """A picture scaled to be `side` px high, without smoothing."""
    height, width = picture.shape[:2]
    size = (max(1, round(width * side / height)), side)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


def mix_bars(mixes: Mapping[str, NDArray[np.float64]], classes: Sequence[Class], width: int) -> Picture:
    """Mixes of pixels (class,) by name, each as a bar across `width` px in the classes' colours."""
    font, height, left = ImageFont.load_default(16), 30, 90
    canvas = Image.new("RGB", (width, len(mixes) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, (name, mix) in enumerate(mixes.items()):
        y = row * (height + GAP)
        draw.text((0, y + 5), name, FAINT, font)
        edges = left + np.concatenate(([0], np.cumsum(mix))) * (width - left)
        for cls, start, stop, share in zip(classes, edges, edges[1:], mix, strict=False):
            draw.rectangle((start, y, max(start, stop - 1), y + height), cls.colour)
            words = f"{100 * share:.1f} %"
            if font.getlength(words) + 12 < stop - start:
                light = sum(bytes.fromhex(cls.colour.lstrip("#"))) > 390
                draw.text((start + 6, y + 5), words, PAPER if light else INK, font)
    return np.asarray(canvas)


def sheet(
    path: Path,
    rows: Sequence[Sequence[Picture]],
    *,
    title: str,
    lines: Sequence[str] = (),
    legend: Sequence[tuple[Class, str]] = (),
    heads: Sequence[str] = (),
    banner: Picture | None = None,
) -> None:
    """Write pictures of one height per row as a PNG, under a title, lines of text and a legend.

    Args:
        path: the PNG.
        rows: pictures, all of one size.
        title: the largest line.
        lines: smaller ones under it.
        legend: classes, each with what is to be said of it.
        heads: a word over each column.
        banner: a picture above the rows, across them.
    """
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    big, small = ImageFont.load_default(26), ImageFont.load_default(16)
    top = PAD + 40 + 24 * len(lines) + (34 if legend else 0) + (28 if heads else 8)
    if banner is not None:
        above, top = top, top + len(banner) + 2 * GAP
    entries = [f"{cls.name} {words}".strip() for cls, words in legend]
    key_width = sum(52 + small.getlength(entry) for entry in entries)
    words_width = max([big.getlength(title), key_width, *map(small.getlength, lines)])
    inside = max(columns * (width + GAP) - GAP, int(words_width))
    canvas = Image.new("RGB", (inside + 2 * PAD, top + len(rows) * (height + GAP) - GAP + PAD), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((PAD, PAD - 6), title, INK, big)
    at = PAD + 34
    for line in lines:
        draw.text((PAD, at), line, FAINT, small)
        at += 24
    left = PAD
    for (cls, _), entry in zip(legend, entries, strict=True):
        draw.rounded_rectangle((left, at + 6, left + 18, at + 22), 4, cls.colour, FAINT)
        draw.text((left + 26, at + 4), entry, INK, small)
        left += 52 + int(small.getlength(entry))
    for column, head in enumerate(heads):
        draw.text((PAD + column * (width + GAP), top - 26), head, FAINT, small)
    if banner is not None:
        canvas.paste(Image.fromarray(banner), (PAD, above))
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            place = (PAD + c * (width + GAP), top + r * (height + GAP))
            canvas.paste(Image.fromarray(picture), place)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="png")
