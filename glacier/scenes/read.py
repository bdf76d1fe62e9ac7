"""Pixels and labels of a scene, window by window."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from glacier.errors import GlacierError
from glacier.scenes.bucket import BucketPath
from glacier.scenes.convert import converted
from glacier.scenes.files import alpha_bands, open_raster
from glacier.scenes.scene import RasterLabel, Scene, SourceBand, Window

if TYPE_CHECKING:
    from glacier.scenes.outlines import Outlines

Nodata = Literal["all", "any"]
"""A pixel lacks data where `all` its optical bands do, or where `any` does."""

NO_LABEL = np.iinfo(np.int64).min
"""Stands for a label that is NaN or masked; no class can have this value."""

MAPPED = 128 * 2**20
"""Bytes read from an uncompressed file before it is opened anew, which lets go of what is mapped of it."""


def gdal_settings(scenes: Sequence[Scene]) -> rasterio.Env:
    """How GDAL is to read windows of scenes.

    It keeps 256 MiB of decoded blocks, a row of tiles of a wide scene; left to itself it keeps a
    twentieth of the machine's memory, in every worker. It does not list a file's folder to open it, and
    looks beside it only for masks. GeoTIFFs that are not compressed it maps, past those blocks; one that
    is cut short meanwhile ends the process, so only workers do that, whose end others can tell. The
    sources of a VRT may lie in archives, which it would unpack into memory to map. CRSs, known by now,
    it need not look up.
    """
    rasters: list[SourceBand | RasterLabel] = [band for scene in scenes for band in scene.bands]
    rasters += [scene.label for scene in scenes if isinstance(scene.label, RasterLabel)]
    paths = [raster.path for raster in rasters]
    tiffs = all(p.suffix.lower() in (".tif", ".tiff") and not isinstance(p, BucketPath) for p in paths)
    mapped = tiffs and parent_process() is not None
    masked = any(raster.masked for raster in rasters)
    return rasterio.Env(
        GDAL_CACHEMAX=256 * 2**20,
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE" if masked else "EMPTY_DIR",
        GTIFF_SRS_SOURCE="GEOKEYS",
        GTIFF_VIRTUAL_MEM_IO="IF_ENOUGH_RAM" if mapped else "NO",
    )


def _open(path: Path) -> rasterio.DatasetReader:
    """Open a raster for its pixels.

    Raises:
        RasterioError: it cannot be opened, or is a GeoTIFF and ends before its last block does.
    """
    raster = open_raster(path)
    (height, width), (rows, columns) = raster.shape, raster.block_shapes[-1]
    last = f"{(width - 1) // columns}_{(height - 1) // rows}"
    offset, length = (
        raster.get_tag_item(f"BLOCK_{what}_{last}", "TIFF", bidx=raster.count)
        for what in ("OFFSET", "SIZE")
    )
    size = path.stat().st_size
    if offset and length and int(offset) + int(length) > size:
        raster.close()
        raise RasterioError(f"{size} bytes, expected {int(offset) + int(length)}")
    return raster


class SceneReader:
    """An opened scene: a context manager, or within `gdal_settings`; any thread may read, one at a time."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._files: dict[Path, rasterio.DatasetReader] = {}
        self._read_bytes: dict[Path, int] = {}
        self._outlines = _outlines(scene)
        self._settings = gdal_settings([scene])

    def __enter__(self) -> Self:
        self._settings.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._settings.__exit__()

    def close(self) -> None:
        """Close its files."""
        for path in list(self._files):
            self._close(path)

    def bands(
        self, window: Window, which: range | None = None
    ) -> Iterator[tuple[int, NDArray[np.generic], NDArray[np.bool_] | None]]:
        """Each band of a window, file by file.

        Args:
            window: of the scene.
            which: consecutive bands of one file; None for all of all.

        Yields:
            Index of the band in the scene, its values (h, w) as the file holds them, and where they
            are data (h, w), or None where all are.

        Raises:
            GlacierError: a file that cannot be read here, e.g. because it ends early.
        """
        bands = self.scene.bands
        for run in self.runs() if which is None else [which]:
            numbers = [bands[i].index for i in run]
            for i, read in zip(run, self._read(bands[run[0]].path, numbers, window), strict=True):
                values = converted(read, bands[i].convert)
                held = valid(values, bands[i])
                if bands[i].masked:
                    mask = self._mask(bands[i].path, bands[i].index, window)
                    held = mask if held is None else held & mask
                yield i, values, held

    def runs(self) -> list[range]:
        """The scene's bands (indexes), cut where the next lies in another file or has another dtype."""
        kinds = [(band.path, band.dtype) for band in self.scene.bands]
        starts = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
        return [range(a, b) for a, b in zip(starts, [*starts[1:], len(kinds)], strict=True)]

    def read_into(self, window: Window, which: range, out: NDArray[np.generic]) -> None:
        """Read consecutive bands of one file into `out` (h, w, band), of a dtype that holds all values.

        Raises:
            GlacierError: as `bands` does.
        """
        bands = self.scene.bands
        numbers = [bands[i].index for i in which]
        self._read(bands[which[0]].path, numbers, window, np.moveaxis(out, -1, 0))

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
        values = self._read(label.path, [1], window)[0]
        held = valid(values, label)
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            whole = np.rint(np.where(finite, values, 0))
            if not np.array_equal(whole[finite], values[finite]):
                raise GlacierError(f"{label.path}: holds fractions; expected integer class values")
            values = np.where(finite, whole.astype(np.int64), NO_LABEL)
        if label.masked:
            mask = self._mask(label.path, 1, window)
            values = np.where(mask, values.astype(np.int64), NO_LABEL)
            held = mask if held is None else held & mask
        return np.asarray(values), held

    def _read(
        self, path: Path, numbers: list[int], window: Window, out: NDArray[np.generic] | None = None
    ) -> NDArray[np.generic]:
        """Values (band, h, w) of bands of a file, in `out` where it is given.

        Where pixels lie as far apart in a mapped file as in memory, GDAL 3.10 copies whole rows,
        whichever bands are asked for, over what lies between them. So only all bands of a scene in
        their file's order, and those of files of one band, are read in place.
        """
        with self._opened(path, window) as (file, here):
            whole = range(numbers[0], numbers[0] + len(self.scene.bands))
            in_place = file.count == 1 or numbers == list(whole)
            pixels: NDArray[np.generic] = file.read(numbers, window=here, out=out if in_place else None)
        if out is not None and not in_place:
            out[...] = pixels
        self._read_bytes[path] += pixels.nbytes
        if self._read_bytes[path] > MAPPED and self._files[path].compression is None:
            self._close(path)
        return pixels

    def _mask(self, path: Path, number: int, window: Window) -> NDArray[np.bool_]:
        """Where a file's alpha band, else its mask, says that a band is data (h, w)."""
        with self._opened(path, window) as (file, here):
            alpha = alpha_bands(file)
            masks = file.read(alpha, window=here) if alpha else file.read_masks([number], window=here)
        return np.asarray((masks != 0).all(axis=0))

    @contextmanager
    def _opened(
        self, path: Path, window: Window
    ) -> Iterator[tuple[rasterio.DatasetReader, rasterio.windows.Window]]:
        """A file and rasterio's word for a window of it; what goes wrong within is said of them."""
        try:
            if path not in self._files:
                self._files[path], self._read_bytes[path] = _open(path), 0
            yield (
                self._files[path],
                rasterio.windows.Window(window.column, window.row, window.width, window.height),
            )
        except RasterioError as error:
            raise GlacierError(
                f"{path}: unreadable at row {window.row}, column {window.column} ({error}); "
                "is the file complete?"
            ) from error

    def _close(self, path: Path) -> None:
        self._files.pop(path).close()


def _outlines(scene: Scene) -> "Outlines | None":
    """The outlines that label a scene; what reads them takes long to import, and many have none."""
    if scene.label is None or isinstance(scene.label, RasterLabel):
        return None
    from glacier.scenes.outlines import read_outlines

    return read_outlines(scene.label, scene.grid)


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
    """Where a pixel holds data (h, w), by the validity of its optical bands; takes no more than tell."""
    held = np.full(shape, rule == "any")
    for mask in valid:
        if rule == "any":
            held &= True if mask is None else mask
        else:
            held |= True if mask is None else mask
            if held.all():
                break
    return held
