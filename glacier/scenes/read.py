"""Pixels and labels of a scene, window by window."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from glacier.errors import GlacierError
from glacier.scenes.files import open_raster
from glacier.scenes.outlines import read_outlines
from glacier.scenes.scene import RasterLabel, Scene, SourceBand, Window

Nodata = Literal["all", "any"]
"""A pixel lacks data where `all` its optical bands do, or where `any` does."""


def bounded_cache() -> rasterio.Env:
    """A context in which GDAL keeps 256 MiB of decoded blocks: a row of tiles of a wide scene.

    Left to itself it keeps a twentieth of the machine's memory, in every worker.
    """
    return rasterio.Env(GDAL_CACHEMAX=256 * 2**20)


class SceneReader:
    """An opened scene. Use it as a context manager; any thread may read, one at a time."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()
        self._outlines = (
            read_outlines(scene.label.path, scene.grid)
            if scene.label and not isinstance(scene.label, RasterLabel)
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def bands(self, window: Window) -> Iterator[tuple[int, NDArray[np.generic], NDArray[np.bool_] | None]]:
        """Each band of a window, file by file.

        Yields:
            Index of the band in the scene, its values (h, w) as the file holds them, and where they
            are data (h, w), or None where all are.

        Raises:
            GlacierError: a file that cannot be read here, e.g. because it ends early.
        """
        by_file: dict[str, list[int]] = defaultdict(list)
        for index, band in enumerate(self.scene.bands):
            by_file[str(band.path)].append(index)
        for path, indexes in by_file.items():
            numbers = [self.scene.bands[i].index for i in indexes]
            for i, values in zip(indexes, self._read(path, numbers, window), strict=True):
                yield i, values, valid(values, self.scene.bands[i])

    def label(self, window: Window) -> tuple[NDArray[np.integer], NDArray[np.bool_] | None]:
        """Source label values of a window (h, w), and where they are labels, None if everywhere.

        Raises:
            GlacierError: no labels, a file that cannot be read here, or one that holds fractions.
        """
        label = self.scene.label
        if self._outlines:
            return self._outlines.burn(self.scene.grid.transform, window), None
        if not isinstance(label, RasterLabel):
            raise GlacierError(unlabelled(self.scene))
        values = self._read(str(label.path), [1], window)[0]
        held = valid(values, label)
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            whole = np.rint(np.where(finite, values, 0))
            if not np.array_equal(whole[finite], values[finite]):
                raise GlacierError(f"{label.path}: holds fractions; expected integer class values")
            values = np.where(finite, whole.astype(np.int64), np.iinfo(np.int64).min)
        return np.asarray(values), held

    def _read(self, path: str, numbers: list[int], window: Window) -> NDArray[np.generic]:
        here = rasterio.windows.Window(window.column, window.row, window.width, window.height)
        try:
            if path not in self._files:
                self._files[path] = open_raster(Path(path))
                self._stack.callback(self._files[path].close)
            pixels: NDArray[np.generic] = self._files[path].read(numbers, window=here)
        except RasterioError as error:
            raise GlacierError(
                f"{path}: unreadable at row {window.row}, column {window.column} ({error}); "
                "is the file complete?"
            ) from error
        return pixels


def unlabelled(scene: Scene) -> str:
    """What is said of a scene without labels."""
    return (
        f"scene {scene.name}: no labels; expected a label raster or outlines beside the bands, or "
        "--labels PATH"
    )


def valid(values: NDArray[np.generic], band: SourceBand | RasterLabel) -> NDArray[np.bool_] | None:
    """Where values (h, w) are data: finite, and not the file's no-data value; None if everywhere."""
    if values.dtype.kind == "f":
        mask = np.isfinite(values)
        if band.nodata is not None and np.isfinite(band.nodata):
            mask &= values != values.dtype.type(band.nodata)
        return np.asarray(mask)
    return None if band.nodata is None else np.asarray(values != band.nodata)


def optical(bands: Sequence[SourceBand]) -> list[int]:
    """The bands whose lack makes a pixel no data: the optical ones.

    Where none is known to be, those that may be; where all are texture or terrain, all.
    """
    chosen = [i for i, b in enumerate(bands) if b.role == "optical"]
    chosen = chosen or [i for i, b in enumerate(bands) if b.role in ("thermal", "other")]
    return chosen or list(range(len(bands)))


def has_data(
    valid: Iterable[NDArray[np.bool_] | None], shape: tuple[int, int], rule: Nodata
) -> NDArray[np.bool_]:
    """Where a pixel holds data (h, w), by the validity of its optical bands."""
    masks = [np.ones(shape, bool) if mask is None else mask for mask in valid]
    return np.asarray(np.any(masks, axis=0) if rule == "all" else np.all(masks, axis=0))
