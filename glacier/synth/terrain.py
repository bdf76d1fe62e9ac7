"""Mountains: an elevation model, the way water and ice leave it, and the light on it."""

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PIXEL = 30.0
"""Ground size of a pixel, m."""

COARSE = 4
"""Water and ice are routed on a grid this many times coarser than the scene."""

Field = NDArray[np.float32]


def noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> Field:
    """Band-limited noise (H, W), mean 0, deviation 1, features about `wavelength` px across.

    White noise shaped in the frequency domain by a log-normal ring, periodic at the borders.
    """
    fy = np.fft.fftfreq(shape[0])[:, None]
    fx = np.fft.rfftfreq(shape[1])[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    ring = np.exp(-0.5 * (np.log(radius * wavelength) / 0.55) ** 2)
    ring[0, 0] = 0.0
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * ring
    field = np.fft.irfft2(spectrum, s=shape)
    return np.asarray(field / field.std(), np.float32)


def fractal(rng: np.random.Generator, shape: tuple[int, int], wavelength: float, octaves: int) -> Field:
    """A sum of `octaves` noises (H, W), each half the wavelength and 0.55 the height of the last."""
    octave = [0.55**k * noise(rng, shape, wavelength / 2**k) for k in range(octaves)]
    total = np.sum(octave, axis=0)
    return np.asarray(total / total.std(), np.float32)


def elevation(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Mountains cut by rivers (H, W), m above the sea: branching valleys between sharp crests.

    Slopes follow the stream-power law, slope = k·area^-0.45, up to the angle at which rock falls,
    along a drainage that is drawn anew from each landscape it has cut.
    """
    margin = 24
    size = (-(-shape[0] // COARSE) + 2 * margin, -(-shape[1] // COARSE) + 2 * margin)
    uplift = np.asarray(1 + 0.35 * fractal(rng, size, 90, 2).clip(-1.5, 1.5), np.float32)
    height: Field = 40 * fractal(rng, size, 30, 4)
    for _ in range(4):
        height = _cut(height, uplift, rng)
    height = ndimage.gaussian_filter(height, 0.8)
    height = height - 0.8 * ndimage.gaussian_filter(height, 45, mode="nearest")
    height = height[margin:-margin, margin:-margin]
    ground = enlarge(height, shape)
    steep = (slope(ground) / 30).clip(0.15, 1.2)
    ground = ground + steep * (5 * fractal(rng, shape, 20, 4) + 12 * noise(rng, shape, 40))
    return np.asarray(ground + 4300 - np.percentile(ground, 1), np.float32)


def _cut(height: Field, uplift: Field, rng: np.random.Generator) -> Field:
    """One landscape at rest (H, W), m, on the drainage of `height`."""
    downstream, order = drainage(height)
    area = np.full(height.size, (COARSE * PIXEL) ** 2).tolist()
    down = downstream.tolist()
    for cell in order[::-1].tolist():
        if down[cell] != cell:
            area[down[cell]] += area[cell]
    rate = uplift.ravel() * 52 * np.array(area) ** -0.38
    fall = np.minimum(rate, np.tan(np.radians(33))) * COARSE * PIXEL
    fall = (fall * rng.uniform(0.8, 1.25, fall.shape)).tolist()
    columns = height.shape[1]
    level = [0.0] * height.size
    for cell in order.tolist():
        if down[cell] != cell:
            diagonal = abs(cell - down[cell]) not in (1, columns)
            level[cell] = level[down[cell]] + fall[cell] * (1.41 if diagonal else 1.0)
    return np.array(level, np.float32).reshape(height.shape)


def enlarge(coarse: Field, shape: tuple[int, int]) -> Field:
    """A coarse field drawn smoothly on `shape` px."""
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    return np.asarray(ndimage.zoom(coarse, zoom, order=3, mode="nearest"), np.float32)


def drainage(height: Field) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each cell drains to, and an order from outlets to crests.

    Priority-flood (Barnes, Lehman and Mulla, 2014): cells are reached from the border, lowest
    first, so that hollows overflow instead of ending the flow.

    Args:
        height: (H, W), m.

    Returns:
        `downstream` (H·W,), the cell each cell drains to (itself at the border), and `order` (H·W,).
    """
    rows, columns = height.shape
    level = height.ravel().tolist()
    downstream = np.full(rows * columns, -1, np.int64)
    border = np.ones(height.shape, bool)
    border[1:-1, 1:-1] = False
    heap = [(level[cell], cell) for cell in np.flatnonzero(border).tolist()]
    downstream[border.ravel()] = np.flatnonzero(border)
    heapq.heapify(heap)
    order = []
    steps = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    while heap:
        reached, cell = heapq.heappop(heap)
        order.append(cell)
        row, column = divmod(cell, columns)
        for dy, dx in steps:
            y, x = row + dy, column + dx
            if 0 <= y < rows and 0 <= x < columns:
                neighbour = y * columns + x
                if downstream[neighbour] < 0:
                    downstream[neighbour] = cell
                    heapq.heappush(heap, (max(reached, level[neighbour]), neighbour))
    return downstream, np.array(order)


def illumination(height: Field, azimuth: float, altitude: float) -> Field:
    """Cosine of the sun's incidence on each pixel (H, W), 0 where another slope casts its shadow.

    Args:
        height: (H, W), m.
        azimuth: direction to the sun, degrees clockwise from north.
        altitude: height of the sun over the horizon, degrees.
    """
    down, right = np.gradient(height, PIXEL)
    normal = np.sqrt(1 + down**2 + right**2)
    a, h = np.radians(azimuth), np.radians(altitude)
    east, north = np.sin(a), np.cos(a)
    lit = (np.sin(h) + np.cos(h) * (-right * east + down * north)) / normal
    shadow = np.zeros(height.shape, np.float32)
    for step in range(2, 48, 2):
        shift = (step * north, -step * east)
        blocker = ndimage.shift(height, shift, order=1, mode="nearest")
        over = blocker - height - step * PIXEL * np.tan(h)
        np.maximum(shadow, (over / 60).clip(0, 1), out=shadow)
    return np.asarray(lit.clip(0) * (1 - ndimage.gaussian_filter(shadow, 0.7)), np.float32)


def slope(height: Field) -> Field:
    """Slope (H, W), degrees."""
    down, right = np.gradient(height, PIXEL)
    return np.asarray(np.degrees(np.arctan(np.hypot(down, right))), np.float32)
