"""The HKH release in small: the same folders, file names, channels, masks, footprints and faults."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from isal import igzip
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.warp import transform as reproject
from scipy import ndimage

from glacier.errors import UsageError
from glacier.scenes.hkh import CHANNELS, GEOJSON, OVERLAP, PIXEL
from glacier.scenes.hkh_places import utm_zone, wrs_centre
from glacier.synth.ice import DEBRIS, GLACIER, glaciate
from glacier.synth.sensor import look
from glacier.synth.terrain import elevation, slope

PATHS = ("149036_20041024", "140041_20051018", "143039_20061109", "136040_20071102", "145039_20010915")
"""Path, row and date of Landsat 7 scenes, in four UTM zones."""
ACROSS = 3
"""Patches of a scene, down and across."""
SPLITS = ("train", "dev", "test")
ENOUGH = 0.05
"""Share of glacier a patch must have to be in the splits."""


def write_release(out: Path, seed: int, count: int, size: int) -> int:
    """Write `count` scenes and patches of `size` px to `out`/glacier_data, and all of it as one archive.

    Its faults are the release's own: gaps between scan lines, values beyond 8 bits, NDSI with the wrong
    sign, a quality band that was interpolated, masks of two conventions, pixels with two labels, copies
    of patches in the splits, and footprints that are upside down in the wrong zone.

    Returns:
        How many files were written.
    """
    if size < 32 or not 1 <= count <= len(PATHS):
        raise UsageError(
            f"--layout hkh: {count} scenes, {size} px; expected 1 to {len(PATHS)} scenes and at least 32 px"
        )
    root = out / "glacier_data"
    features: list[dict[str, Any]] = []
    outlines: dict[str, list[shapely.Geometry]] = {"clean": [], "debris": []}
    first_zone = 0
    for number, name in enumerate(PATHS[:count]):
        longitude, latitude = wrs_centre(int(name[:3]), int(name[3:6]))
        zone = utm_zone(longitude)
        first_zone = first_zone or zone
        image, clean, debris = _scene(np.random.default_rng([seed, number]), size)
        transform = _corner(longitude, latitude, zone, image.shape)
        scene = f"LE07_{name}"
        _write_scene(root / "raster_data" / f"{scene}.tif", image, zone, transform)
        for kind, mask in (("clean", clean), ("debris", debris)):
            outlines[kind] += _outlines(mask, zone, transform)
        features += _write_patches(root, number, scene, size, image, clean, debris, transform)
    for kind, polygons in outlines.items():
        _write_outlines(root / "vector_data" / f"{kind}.shp", polygons)
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::326{first_zone:02d}"}}
    document = {"type": "FeatureCollection", "name": "slices", "crs": crs, "features": features}
    (root / "slices" / GEOJSON).write_text(json.dumps(document))
    _copy_splits(root)
    files = [f for f in root.rglob("*") if f.is_file()]
    with (
        igzip.open(out / "hkh_patches.tar.gz", "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for file in sorted(files, key=_unkindly):
            archive.add(file, file.relative_to(out))
    return len(files) + 1


def _unkindly(file: Path) -> tuple[bool, str]:
    """An order that helps nobody: splits before slices, masks here before and there after images."""
    swapped = file.name.replace("_mask_", "_a_") if "splits" in file.parts else file.name
    return file.name == GEOJSON, f"{'0' if 'splits' in file.parts else file.parent.name}{swapped}"


def _scene(rng: np.random.Generator, size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """An image (H, W, 15) and where clean ice and debris lie (H, W), which overlap a little."""
    side = size + (ACROSS - 1) * (size - OVERLAP)
    shape = (side + 3 * OVERLAP, side + 2 * OVERLAP)
    land = glaciate(rng, elevation(rng, shape), lakes=0.0005)
    view = look(rng, land, clouds=0.0)
    dn = {role: band.astype(np.float32) / 180 for role, band in view.bands.items()}
    b1, b2, b3, b5 = (dn[role] for role in ("blue", "green", "red", "swir1"))
    thermal = dn["thermal"] * 1.7
    b4 = 0.8 * b3 + 0.3 * b5 + rng.normal(0, 1, shape).astype(np.float32)
    b7, b8 = 0.7 * b5, (b2 + b3) / 2
    quality = ndimage.zoom(
        rng.choice([672.0, 676, 1696], (shape[0] // 8 + 1, shape[1] // 8 + 1)), 8, order=1
    )
    bands = [b1, b2, b3, b4, b5, thermal, 0.9 * thermal + 11, b7, b8, quality[: shape[0], : shape[1]]]
    image = np.stack([np.asarray(band, np.float32) for band in bands], axis=-1)
    image[..., :9] = _overshoot(rng, image[..., :9])
    image = np.concatenate((image, _indices(image), _terrain(land.surface)), axis=-1)
    _lose(rng, image)
    clean, debris = land.classes == GLACIER, land.classes == DEBRIS
    rows = slice(0, shape[0] // 4)
    doubled = ndimage.binary_dilation(debris, iterations=2) & clean
    debris[rows] |= doubled[rows]
    return image, clean, debris


def _overshoot(rng: np.random.Generator, bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """What resampling left of 8 bits: ringing at bright edges, a few values far outside."""
    rung = bands.clip(1, 255) + rng.normal(0, 0.4, bands.shape)
    far = rng.random(bands.shape[:2]) < 1e-3
    rung[far] += rng.choice([-262.0, 186.0], far.sum())[:, None]
    return np.asarray(rung, np.float32)


def _indices(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """NDVI, NDSI with the wrong sign, NDMI (H, W, 3), from bands as they are, so that they leave -1 … 1."""
    b2, b3, b4, b5 = (image[..., i] for i in (1, 2, 3, 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = [(b4 - b3) / (b4 + b3), (b5 - b2) / (b5 + b2), (b4 - b5) / (b4 + b5)]
    ratios = np.nan_to_num(np.stack(pairs, axis=-1), nan=0.0, posinf=9.4, neginf=-7.8)
    return np.asarray(ratios.clip(-7.8, 9.4), np.float32)


def _terrain(surface: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack((surface, slope(surface)), axis=-1)


def _lose(rng: np.random.Generator, image: NDArray[np.float32]) -> None:
    """Take from `image` what lies beyond the scene's edge, and stripes that widen towards its sides."""
    height, width = image.shape[:2]
    row, column = np.ogrid[:height, :width]
    outside = column < width * 0.36 - row * 0.5
    outside |= (row > height * 0.58) & (column > width * 0.58)
    spectral = np.arange(13)
    for channel in spectral:
        gap = (row + 0.15 * column + channel % 3) % 33 < 12 * np.abs(column - width / 2) / width
        image[..., channel][outside | gap] = np.nan
    image[..., 13:][column + 0 * row < width * 0.05] = np.nan


def _corner(longitude: float, latitude: float, zone: int, shape: tuple[int, ...]) -> Affine:
    """A scene's transform: its centre about where it belongs, its corner on a multiple of 15 m."""
    x, y = (value[0] for value in reproject("EPSG:4326", f"EPSG:326{zone:02d}", [longitude], [latitude]))
    left, top = x - shape[1] * PIXEL / 2, y + shape[0] * PIXEL / 2
    return Affine(PIXEL, 0, left // 30 * 30 + 15, 0, -PIXEL, top // 30 * 30 + 15)


def _write_scene(path: Path, image: NDArray[np.float32], zone: int, transform: Affine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype="float32",
        crs=f"EPSG:326{zone:02d}", transform=transform, tiled=True, blockxsize=256, blockysize=256,
        compress="deflate",
    ) as file:  # fmt: skip
        file.write(np.moveaxis(image, -1, 0))
        file.descriptions = tuple(channel.code for channel in CHANNELS)


def _outlines(mask: NDArray[np.bool_], zone: int, transform: Affine) -> list[shapely.Geometry]:
    """The outlines of a mask, in degrees."""

    def to_degrees(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(reproject(f"EPSG:326{zone:02d}", "EPSG:4326", *points.T))

    found = shapes(mask.astype(np.uint8), mask=mask, transform=transform)
    return [shapely.transform(shapely.geometry.shape(geometry), to_degrees) for geometry, _ in found]


def _write_outlines(path: Path, polygons: list[shapely.Geometry]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wkb = shapely.to_wkb(np.array(polygons, object))
    area = np.array([polygon.area for polygon in polygons])
    pyogrio.raw.write(path, wkb, [area], ["Area"], geometry_type="Polygon", crs="EPSG:4326")


def _windows(size: int, shape: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Number, row and column of each patch."""
    step = size - OVERLAP
    columns = (shape[1] - size) // step + 1
    for number in range(((shape[0] - size) // step + 1) * columns):
        row, column = divmod(number, columns)
        yield number, row * step, column * step


def _write_patches(
    root: Path, scene_number: int, scene: str, size: int, image: NDArray[np.float32],
    clean: NDArray[np.bool_], debris: NDArray[np.bool_], transform: Affine,
) -> list[dict[str, Any]]:  # fmt: skip
    """Cut a scene's patches, and the features of `slices.geojson` that describe them."""
    folder = root / "slices"
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.stack((clean | debris, clean, debris), axis=-1).astype(np.uint8)
    mask[np.isnan(image[..., 0])] = 0
    height, width = image.shape[:2]
    bottom = transform.f - height * PIXEL
    lats = np.linspace(bottom, transform.f, height)
    longs = np.linspace(transform.c, transform.c + width * PIXEL, width)
    features = []
    for number, row, column in _windows(size, image.shape):
        here = np.s_[row : row + size, column : column + size]
        base = f"slice_{scene_number}"
        np.save(folder / f"{base}_img_{number:03d}.npy", image[here])
        np.save(folder / f"{base}_mask_{number:03d}.npy", mask[here])
        step = size - OVERLAP
        box = shapely.box(longs[column], lats[row], longs[column + step], lats[row + step])
        about = {
            "img_source": f"/datadrive/glaciers/unique_tiles/{scene}.tif",
            "mask_source": f"/datadrive/glaciers/processed/masks/mask_{scene_number:02d}.npy",
            "img_slice": f"/datadrive/glaciers/processed/slices/{base}_img_{number:03d}.npy",
            "mask_slice": f"/datadrive/glaciers/processed/slices/{base}_mask_{number:03d}.npy",
        }
        geometry = shapely.geometry.mapping(box)
        features.append({"type": "Feature", "properties": about, "geometry": geometry})
    return features


def _copy_splits(root: Path) -> None:
    """Copy patches with enough glacier to the splits, their masks in the other convention.

    Of the first scene all go to train, of the next one to dev, of the one after it one to test, and so on.
    """
    taken = set()
    for file in sorted((root / "slices").glob("*_mask_*.npy")):
        scene = int(file.name.split("_")[1])
        union, clean, debris = np.moveaxis(np.load(file), -1, 0)
        if union.mean() < ENOUGH or (clean & debris).any() or (scene % len(SPLITS) and scene in taken):
            continue
        taken.add(scene)
        folder = root / "splits" / SPLITS[scene % len(SPLITS)]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / file.name, np.stack((clean, debris, 1 - union), axis=-1).astype(np.uint8))
        image = file.name.replace("_mask_", "_img_")
        (folder / image).write_bytes((file.parent / image).read_bytes())
