"""Augmentation, all of it drawn from the samples' keys: a matrix, a gain and a bias per sample.

A matrix (2, 3) takes a point of the output window to a point of what was read, (x, y) in px with pixel
centres at halves: the convention of DALI's `warp_affine`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from glacier.errors import UsageError

Preset = Literal["none", "d4", "affine"]

OWN = 0.2
"""Of brightness and contrast, the part that each band draws for itself."""
SYMMETRY, ROTATE, SCALE, SHIFT, GAIN, BIAS, BANDS = 0, 1, 2, 3, 5, 6, 7
"""Places in a sample's sequence of random numbers; shift takes two, and bands a gain and a bias each."""


@dataclass(frozen=True, slots=True)
class Augment:
    """What is done to windows, and how far it goes."""

    preset: Preset = "d4"
    """none; d4, the eight symmetries of a square; affine, these with rotation, scale and shift."""
    rotate: float = 45.0
    """Most rotation of affine, degrees either way."""
    scale: float = 0.2
    """Most change of affine in the side of what is seen, as a share of it."""
    shift: float = 0.1
    """Most shift of affine in either direction, as a share of the window's side."""
    brightness: float = 0.0
    """Most that is added to the optical bands, in their standard deviations; not with none."""
    contrast: float = 0.0
    """Most change of an optical band's distance from its mean, as a share of it; not with none."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: one is out of range.
        """
        if self.preset not in get_args(Preset):
            raise UsageError(
                f"data.augment: {self.preset!r}, expected one of {', '.join(get_args(Preset))}"
            )
        for name, most in (
            ("rotate", 180),
            ("scale", 0.9),
            ("shift", 1),
            ("brightness", 9),
            ("contrast", 0.9),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UsageError(f"data.{name}: {value}, expected 0 to {most}")

    @property
    def interpolates(self) -> bool:
        """Whether output pixels lie between those that were read."""
        return self.preset == "affine"

    @property
    def lights(self) -> bool:
        """Whether brightness or contrast change."""
        return self.preset != "none" and bool(self.brightness or self.contrast)


NOTHING, D4 = Augment("none"), Augment("d4")


def matrices(samples: NDArray[np.void], augment: Augment, patch: int) -> NDArray[np.float32] | None:
    """A matrix per sample (n, 2, 3); None where windows are taken as they are.

    It leads into the window that was read, of `patch` px; for an interpolating preset, into the whole tile.
    """
    if augment.preset == "none":
        return None
    drawn = _drawn(samples, SHIFT + 2)
    exact = d4(patch)[drawn[:, SYMMETRY] % 8]
    if not augment.interpolates:
        return exact
    signed = _signed(drawn)
    angle = np.deg2rad(augment.rotate) * signed[:, ROTATE]
    zoom = 1 + augment.scale * signed[:, SCALE]
    shift = augment.shift * patch * signed[:, SHIFT : SHIFT + 2]
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    turn = np.stack((cosine, -sine, sine, cosine), axis=1).reshape(-1, 2, 2)
    linear = turn @ exact[:, :, :2]
    half = np.full(2, patch / 2)
    corner = np.stack((samples["x"], samples["y"]), axis=1)
    offset = corner + half + shift - linear @ half
    return np.concatenate((linear, offset[:, :, None]), axis=2).astype(np.float32)


def lights(samples: NDArray[np.void], augment: Augment, optical: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Gain and bias of each band, for standardised values (n, 2, band); 1 and 0 where nothing changes.

    Optical bands share most of both, and draw the rest each for itself.
    """
    light = np.zeros((len(samples), 2, len(optical)))
    light[:, 0] = 1
    if augment.lights:
        signed = _signed(_drawn(samples, BANDS + 2 * len(optical)))
        common = signed[:, GAIN : BIAS + 1, None]
        own = signed[:, BANDS:].reshape(light.shape)
        most = np.array([augment.contrast, augment.brightness])[:, None]
        light += most * ((1 - OWN) * common + OWN * own) * optical
    return light.astype(np.float32)


def _drawn(samples: NDArray[np.void], count: int) -> NDArray[np.uint64]:
    """The first `count` random numbers of each sample (n, count), by Philox (Salmon et al., 2011)."""
    raw = [np.random.Philox(key=int(key)).random_raw(count) for key in samples["key"]]
    return np.array(raw, np.uint64).reshape(len(samples), count)


def _signed(drawn: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform numbers of [-1, 1) from random bits."""
    return np.asarray((drawn >> np.uint64(11)) * 2.0**-52 - 1, np.float64)


def seen_rows(augment: Augment, patch: int) -> NDArray[np.float64]:
    """Rows that an interpolating preset sees of a window at row 0, evenly drawn over all it may draw.

    Args:
        augment: the preset.
        patch: side of the window, px.

    Returns:
        Rows, px, each as likely as any other (n,).
    """
    draws, points = 1024, 16
    samples = np.zeros(draws, [("y", "i4"), ("x", "i4"), ("key", "u8")])
    samples["key"] = np.arange(draws)
    matrix = matrices(samples, augment, patch)
    at = (np.arange(points) + 0.5) * patch / points
    x, y = np.meshgrid(at, at)
    row = matrix[:, 1] @ np.stack((x.ravel(), y.ravel(), np.ones(x.size)))  # type: ignore[index]
    return np.asarray(row.ravel(), np.float64)


@cache
def d4(patch: int) -> NDArray[np.float32]:
    """The eight symmetries of a square of `patch` px (8, 2, 3).

    Number g mirrors columns if g & 1, then rows if g & 2, then swaps the two if g & 4. Do not write to it.
    """
    mirror_x, mirror_y = np.diag([-1.0, 1.0]), np.diag([1.0, -1.0])
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    table = np.empty((8, 2, 3), np.float32)
    centre = np.full(2, patch / 2)
    for g in range(8):
        linear = np.eye(2)
        for bit, step in enumerate((mirror_x, mirror_y, swap)):
            linear = step @ linear if g >> bit & 1 else linear
        table[g] = np.column_stack((linear, centre - linear @ centre))
    return table
