"""Glaciers on a terrain: where ice lies, how it flows, what covers it, and the lakes beside it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glacier.synth.terrain import COARSE, Field, drainage, enlarge, fractal, noise, slope

BACKGROUND, GLACIER, DEBRIS, LAKE = range(4)


@dataclass(frozen=True, slots=True)
class Land:
    """A landscape: everything a sensor could see, before it sees it."""

    surface: Field
    """Elevation of the surface (H, W), m: ice where there is ice, ground elsewhere."""
    classes: NDArray[np.uint8]
    """(H, W): 0 background, 1 glacier, 2 debris, 3 lake."""
    snowline: float
    """Equilibrium line, m: above it ice is snow."""
    streaks: Field
    """Noise drawn out along the flow of the ice (H, W), deviation 1."""


def glaciate(rng: np.random.Generator, ground: Field, lakes: float) -> Land:
    """Put ice, debris and lakes on `ground` (H, W), m; `lakes` is their share of all pixels."""
    snowline = float(np.percentile(ground, 70))
    surface, ice = _ice(rng, ground, snowline)
    streaks = _streaks(rng, surface)
    classes = np.where(ice, GLACIER, BACKGROUND).astype(np.uint8)
    classes[ice & _debris(rng, surface, ice, streaks, snowline)] = DEBRIS
    classes[_lakes(rng, surface, classes, snowline, lakes)] = LAKE
    return Land(surface, classes, snowline, streaks)


def _ice(rng: np.random.Generator, ground: Field, snowline: float) -> tuple[Field, NDArray[np.bool_]]:
    """Ice surface (H, W), m, and where ice is: mass balance routed downhill, then levelled across."""
    rough = snowline + 130 * fractal(rng, ground.shape, 240, 2)
    coarse = ndimage.zoom(ndimage.gaussian_filter(ground, COARSE / 2), 1 / COARSE, order=1)
    balance = coarse - ndimage.zoom(rough, 1 / COARSE, order=1)
    balance = np.where(balance > 0, balance, 6.0 * balance).ravel()
    downstream, order = drainage(coarse)
    flux = balance.copy()
    for cell in order[::-1].tolist():
        if flux[cell] > 0 and downstream[cell] != cell:
            flux[downstream[cell]] += flux[cell]
    thick = np.where(flux > 2500, 12 * (flux - 2500).clip(0) ** 0.235, 0).reshape(coarse.shape)
    level = np.where(thick > 0, coarse + thick, 0).astype(np.float32)
    for _ in range(7):
        spread = ndimage.maximum_filter(level, footprint=ndimage.generate_binary_structure(2, 1))
        level = np.maximum(level, np.where(spread - 16 > coarse, spread - 16, level))
    level = np.where(level > 0, level, coarse - 60)
    top = ndimage.gaussian_filter(enlarge(level, ground.shape), COARSE)
    ice = (top + 5 * fractal(rng, ground.shape, 30, 3) > ground) & (slope(ground) < 48)
    ice = ndimage.binary_opening(ice, iterations=1)
    patches, count = ndimage.label(ice)
    area = np.bincount(patches.ravel(), minlength=count + 1)
    ice &= (area > 60)[patches]
    return np.where(ice, np.maximum(top, ground), ground).astype(np.float32), ice


def _streaks(rng: np.random.Generator, surface: Field, length: int = 14) -> Field:
    """Line integral convolution of noise along the fall line (Cabral and Leedom, 1993)."""
    smooth = ndimage.gaussian_filter(surface, 9)
    down, right = np.gradient(smooth)
    size = np.hypot(down, right) + 1e-6
    flow = -down / size, -right / size
    grain = noise(rng, surface.shape, 9)
    at = list(np.indices(surface.shape, np.float32))
    total = grain.copy()
    for _ in range(length):
        step = [ndimage.map_coordinates(f, at, order=1, mode="nearest") for f in flow]
        at = [a + 2.5 * s for a, s in zip(at, step, strict=True)]
        total += ndimage.map_coordinates(grain, at, order=1, mode="nearest")
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def _debris(
    rng: np.random.Generator,
    surface: Field,
    ice: NDArray[np.bool_],
    streaks: Field,
    snowline: float,
) -> NDArray[np.bool_]:
    """Where debris hides the ice: low on the tongues, along their margins, in moraine streaks."""
    below = (snowline - 40 - surface) / 260
    margin = np.exp(-ndimage.distance_transform_edt(ice) / 4)
    cover = below + 0.55 * margin + 0.38 * streaks + 0.3 * fractal(rng, surface.shape, 60, 3)
    bare = ndimage.gaussian_filter(cover.astype(np.float32), 1.0)
    return np.asarray((bare > 0.75) & (surface < snowline + 60))


def _lakes(
    rng: np.random.Generator,
    surface: Field,
    classes: NDArray[np.uint8],
    snowline: float,
    share: float,
) -> NDArray[np.bool_]:
    """Small round-ish lakes on flat ground at and below the tongues, until `share` is reached."""
    lakes = np.zeros(surface.shape, bool)
    flat = slope(ndimage.gaussian_filter(surface, 2)) < 14
    near = ndimage.distance_transform_edt(classes == BACKGROUND) < 12
    near &= ndimage.distance_transform_edt(classes != DEBRIS) < 30
    places = np.flatnonzero(flat & near & (surface < snowline))
    shape_noise = fractal(rng, surface.shape, 14, 2)
    rng.shuffle(places)
    for place in places.tolist():
        if lakes.mean() >= share:
            break
        row, column = divmod(place, surface.shape[1])
        radius = rng.uniform(2.5, 7.5)
        box = tuple(slice(max(0, c - 14), c + 15) for c in (row, column))
        y, x = (np.arange(surface.shape[0])[box[0], None], np.arange(surface.shape[1])[box[1]])
        distance = np.hypot(y - row, x - column) + 1.2 * shape_noise[box]
        lakes[box] |= (distance < radius) & (slope(surface[box]) < 22)
    return lakes
