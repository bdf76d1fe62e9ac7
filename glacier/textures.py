"""`glacier glcm`: texture rasters of every scene of a source, where `glacier ingest` finds them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from rasterio.errors import RasterioError

from glacier.console import Track, silence
from glacier.errors import GlacierError, UsageError
from glacier.ingest.work import executor, spread
from glacier.scenes.files import open_raster, read_name
from glacier.scenes.scene import Scene
from glacier.scenes.scene_files import all_rasters
from glacier.texture_rasters import Settings, Tags, sample, write_rasters

SAMPLE = 2**22
"""About how many pixels of a source tell its range."""
PERCENTILES = (1, 99)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done."""

    written: int
    """rasters"""
    kept: int
    """Rasters that stood there."""
    range: tuple[float, float]
    """What is cut into grey levels, in the band's unit."""


def parse_range(text: str) -> tuple[float, float]:
    """`LOW,HIGH`.

    Raises:
        UsageError: it is not that.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = np.nan
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UsageError(f"--range: {text!r}, expected LOW,HIGH such as 0,10000")
    return low, high


def see_no_other_textures(source: Path, scenes: Sequence[Scene], out: Path, settings: Settings) -> None:
    """See to it that the source has no such textures but those that are to stand in `out`.

    Raises:
        GlacierError: it has; a scene would have two bands of one name.
    """
    own = {path.resolve() for scene in scenes for path in _paths(scene, out, settings)}
    top = source.resolve() if source.is_dir() else source.resolve().parent
    for named in (read_name(file, top) for file in all_rasters(source.resolve())):
        if named.kind == "glcm" and named.code in settings.features and named.path.resolve() not in own:
            raise GlacierError(
                f"{named.path}: is a texture glcm_{named.code} of the source already; choose other "
                "--features, or move it away"
            )


def write_textures(
    scenes: Sequence[Scene],
    out: Path,
    settings: Settings,
    *,
    bounds: tuple[float, float] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    track: Track = silence,
) -> Report:
    """Write a float32 GeoTIFF `OUT/GLCM_<feature>/<scene>.tif` per scene and feature, NaN for no data.

    The tags say what each was made of and how. Rasters that stand there and say the same are kept.

    Args:
        scenes: each with the one band to take.
        out: a folder, made if need be.
        settings: what to compute.
        bounds: the range that is cut into grey levels, the same for all scenes, or a texture would
            mean something else in each. By default that of the rasters that stand there, else the 1st
            to the 99th percentile of the source's valid pixels: a few glints or shadows at either end
            would leave most levels empty.
        workers: processes, each at a scene.
        overwrite: replace rasters that say something else.
        track: shows progress.

    Raises:
        GlacierError: bad input, or a raster that says something else stands there; nothing is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".glcm.lock", timeout=0), executor(workers) as pool:
            standing = {path: _standing(path) for scene in scenes for path in _paths(scene, out, settings)}
            bounds = bounds or (None if overwrite else _range_of(standing))
            bounds = bounds or _percentiles(scenes, pool, track)
            todo = []
            for scene in scenes:
                tags = _tags(scene, settings, bounds)
                paths = zip(_paths(scene, out, settings), tags, strict=True)
                left = {path: said for path, said in paths if standing[path] != said}
                for path, said in left.items() if not overwrite else ():
                    _refuse(path, standing[path], said)
                if left:
                    todo.append((scene, left, settings, bounds))
            with track("glcm", len(todo)) as done:
                spread(pool, write_rasters, todo, done)
    except Timeout as error:
        raise GlacierError(f"{out}: another glacier glcm writes here; wait until it ends") from error
    written = sum(len(left) for _, left, _, _ in todo)
    return Report(written, len(standing) - written, bounds)


def _paths(scene: Scene, out: Path, settings: Settings) -> list[Path]:
    """A scene's rasters, by feature."""
    return [out / f"GLCM_{feature}" / f"{scene.name}.tif" for feature in settings.features]


def _tags(scene: Scene, settings: Settings, bounds: tuple[float, float]) -> list[Tags]:
    """What a scene's rasters say of themselves, by feature."""
    (band,) = scene.bands
    status = band.path.stat()
    common = {
        "BAND": band.name,
        "SOURCE": f"{band.path.name}, band {band.index}, {status.st_size} bytes, {status.st_mtime_ns}",
        "RANGE": ",".join(map(repr, bounds)),
        "LEVELS": str(settings.levels),
        "WINDOW": str(settings.window),
        "DISTANCE": "1",
        "ANGLES": "mean of 0, 45, 90, 135 degrees",
    }
    return [
        {f"GLCM_{key}": value for key, value in {**common, "FEATURE": feature}.items()}
        for feature in settings.features
    ]


def _standing(path: Path) -> Tags | None:
    """What the raster at `path` says of itself; None if there is none."""
    if not path.exists():
        return None
    try:
        with open_raster(path) as raster:
            return {key: value for key, value in raster.tags().items() if key.startswith("GLCM_")}
    except RasterioError:
        return {}


def _range_of(standing: Mapping[Path, Tags | None]) -> tuple[float, float] | None:
    """The range of a raster that stands there."""
    said = (tags["GLCM_RANGE"] for tags in standing.values() if tags and "GLCM_RANGE" in tags)
    return next(map(parse_range, said), None)


def _refuse(path: Path, found: Tags | None, expected: Tags) -> None:
    if found is not None:
        key = next(key for key in expected if found.get(key) != expected[key])
        raise GlacierError(
            f"{path}: {key} {found.get(key, 'not told')}, expected {expected[key]}; give --overwrite to "
            "replace it, or another OUT"
        )


def _percentiles(scenes: Sequence[Scene], pool: Executor, track: Track) -> tuple[float, float]:
    """The range of the whole source: percentiles of a sample, evenly spread over it."""
    step = max(1, sum(scene.grid.height * scene.grid.width for scene in scenes) // SAMPLE)
    with track("range", len(scenes)) as done:
        samples = spread(pool, sample, [(scene, step) for scene in scenes], done)
    pixels = np.concatenate(samples)
    name = scenes[0].bands[0].name
    if not pixels.size:
        raise GlacierError(f"band {name}: no pixel of {len(scenes)} scenes holds data")
    low, high = map(float, np.percentile(pixels, PERCENTILES))
    if low == high:
        raise GlacierError(
            f"band {name}: nearly all pixels are {low:g}; say with --range LOW,HIGH what to cut"
        )
    return low, high
