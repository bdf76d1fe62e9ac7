"""What a sensor makes of a landscape: digital numbers per band, clouds, texture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from glacier.scenes.glcm import grey_levels, texture
from glacier.synth.ice import BACKGROUND, DEBRIS, LAKE, Land
from glacier.synth.terrain import Field, fractal, illumination, noise

OPTICAL = ("blue", "green", "red", "swir1")

REFLECTANCE = {
    "snow": (0.86, 0.85, 0.83, 0.09),
    "ice": (0.52, 0.50, 0.44, 0.05),
    "rock": (0.12, 0.135, 0.15, 0.21),
    "schist": (0.17, 0.19, 0.22, 0.27),
    "meadow": (0.05, 0.085, 0.07, 0.20),
    "milky water": (0.19, 0.24, 0.17, 0.03),
    "clear water": (0.07, 0.06, 0.03, 0.01),
}
"""Surface reflectance in `OPTICAL`; typical values, chosen so that debris is rock to the eye."""

NODATA = 0
"""Digital number of pixels without data."""

GLCM = ("glcm_contrast", "glcm_homogeneity")


@dataclass(frozen=True, slots=True)
class View:
    """One acquisition of a landscape."""

    bands: dict[str, NDArray[np.uint16]]
    """Role -> (H, W) digital numbers, `NODATA` under clouds."""
    glcm: dict[str, Field]
    """Texture name -> (H, W), NaN without data."""


def look(rng: np.random.Generator, land: Land, clouds: float) -> View:
    """Photograph `land` with `clouds` (share of pixels) blotted out."""
    hummocks = np.where(land.classes == DEBRIS, 9.0, 1.2) * noise(rng, land.surface.shape, 5)
    light = illumination(land.surface + hummocks.astype(np.float32), azimuth=135, altitude=42)
    light = 0.16 + 0.94 * light
    reflectance = _reflectance(rng, land)
    bands = {
        name: _digital(rng, 900 + 42000 * reflectance[..., b] * light, grain=110)
        for b, name in enumerate(OPTICAL)
    }
    bands["thermal"] = _digital(rng, _thermal(rng, land, light), grain=60)
    blotted = _clouds(rng, land.surface.shape, clouds)
    grey = grey_levels(bands["red"].astype(np.float32), 0, 40000, 32)
    features = texture(grey, ("contrast", "homogeneity"), levels=32, window=7)
    for band in bands.values():
        band[blotted] = NODATA
    for feature in features.values():
        feature[blotted] = np.nan
    return View(bands, {f"glcm_{name}": field for name, field in features.items()})


def _reflectance(rng: np.random.Generator, land: Land) -> Field:
    """Surface reflectance (H, W, 4), mixed at the edges as a 30 m pixel mixes it."""
    shape = land.surface.shape
    colour = {name: np.array(value, np.float32) for name, value in REFLECTANCE.items()}
    lithology = _share(fractal(rng, shape, 90, 3))
    stone = colour["rock"] + lithology * (colour["schist"] - colour["rock"])
    stone = stone * (1 + 0.10 * noise(rng, shape, 4))[..., None]
    green = _share((land.snowline - 520 - land.surface) / 90 + fractal(rng, shape, 40, 3))
    ground = stone + green * (colour["meadow"] - stone)
    drift = _share(3 * fractal(rng, shape, 30, 3) + (land.surface - land.snowline - 330) / 90)
    ground = ground + 0.8 * drift * (colour["snow"] - ground)
    snow = _share((land.surface - land.snowline) / 70 + 0.4 * land.streaks)
    ice = colour["ice"] * (1 + 0.14 * land.streaks)[..., None]
    ice = ice + snow * (colour["snow"] - ice)
    dirt = _share(1.5 * land.streaks - 1.2)
    ice = ice + 0.75 * dirt * (stone - ice)
    milk = _share(2 * noise(rng, shape, 60))
    water = colour["clear water"] + milk * (colour["milky water"] - colour["clear water"])
    debris = stone * (1 + 0.08 * noise(rng, shape, 3))[..., None]
    stack = np.stack([ground, ice, debris, water])
    chosen = np.take_along_axis(stack, land.classes[None, ..., None].astype(np.intp), 0)[0]
    return np.asarray(ndimage.gaussian_filter(chosen, (0.55, 0.55, 0)), np.float32)


def _share(field: NDArray[np.floating]) -> Field:
    """A logistic share (H, W, 1) in 0..1."""
    return np.asarray(expit(2 * field), np.float32)[..., None]


def _thermal(rng: np.random.Generator, land: Land, light: Field) -> Field:
    """Digital numbers of a thermal band (H, W): 100 per kelvin over 200 K."""
    lapse = 291 - 0.0065 * (land.surface - 3800)
    kelvin = lapse + 15 * (light - 0.6) + 2.2 * fractal(rng, land.surface.shape, 60, 3)
    cooled = kelvin - 4.5 + 1.8 * fractal(rng, land.surface.shape, 30, 2)
    kelvin = np.select(
        [land.classes == BACKGROUND, land.classes == DEBRIS, land.classes == LAKE],
        [kelvin, cooled, np.float32(277.5)],
        np.minimum(kelvin - 12, 273.2),
    )
    return np.asarray(100 * (ndimage.gaussian_filter(kelvin, 1.6) - 200), np.float32)


def _digital(rng: np.random.Generator, value: Field, grain: float) -> NDArray[np.uint16]:
    noisy = value + grain * rng.standard_normal(value.shape, np.float32)
    return noisy.round().clip(NODATA + 1, 65535).astype(np.uint16)


def _clouds(rng: np.random.Generator, shape: tuple[int, int], share: float) -> NDArray[np.bool_]:
    field = fractal(rng, shape, 200, 4)
    return np.asarray(field > np.quantile(field, 1 - share))
