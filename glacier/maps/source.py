"""Scenes as something windows are read from, like a store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glacier.classes import IGNORE
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.order import Samples
from glacier.scenes.read import SceneReader, optical
from glacier.scenes.scene import Scene, Window

SAMPLED = 8
"""Every so many pixels along each axis are looked at for mean and deviation."""


class Seen:
    """What the valid pixels of a scene are like, by band, as far as it has been read."""

    def __init__(self, bands: int) -> None:
        self._sums = np.zeros((3, bands))
        self.lowest = np.full(bands, np.inf)
        """By band, physical units."""
        self.highest = np.full(bands, -np.inf)
        """Likewise."""

    def add(self, band: int, values: NDArray[np.float32], finite: NDArray[np.bool_]) -> None:
        """Count a band's values (h, w) in, where they are `finite`."""
        self.lowest[band] = values.min(initial=self.lowest[band], where=finite)
        self.highest[band] = values.max(initial=self.highest[band], where=finite)
        every = (slice(None, None, SAMPLED), slice(None, None, SAMPLED))
        taken = values[every][finite[every]].astype(np.float64)
        self._sums[:, band] += taken.size, taken.sum(), (taken**2).sum()

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """By band (band,), physical units; NaN in one without valid pixels."""
        with np.errstate(invalid="ignore"):
            count, total, squares = self._sums
            mean = total / count
            return mean, np.sqrt((squares / count - mean**2).clip(min=0))


@dataclass(slots=True)
class SceneSource:
    """Physical values of scenes by windows, which may reach beyond their edges; one scene is open.

    Read within `scenes.read.gdal_settings`.
    """

    scenes: Sequence[Scene]
    seen: dict[int, Seen] = field(default_factory=dict)
    _open: SceneReader | None = None

    def read_into(self, samples: Samples, out: Buffer) -> None:
        """Read one window per sample; labels tell data from none.

        Args:
            samples: scene (as `tile`), and y, x of each window's corner in it, px.
            out: `image` float32, NaN where there is no data; `label` 0 where an optical band has
                data, else 255.
        """
        for i, sample in enumerate(samples):
            self._read(int(sample["tile"]), int(sample["y"]), int(sample["x"]), out.part(i))

    def _read(self, number: int, top: int, left: int, out: Buffer) -> None:
        reader, grid = self._reader(number), self.scenes[number].grid
        image, label = out.image[0], out.label[0]
        height, width = min(len(label), grid.height - top), min(len(label), grid.width - left)
        image[...], label[...] = np.nan, IGNORE
        held = np.zeros((height, width), bool)
        seen, which = self.seen[number], set(optical(reader.scene.bands))
        for band, values, valid in reader.bands(Window(top, left, height, width)):
            place = image[:height, :width, band]
            with np.errstate(over="ignore"):  # what float32 cannot hold is no data either
                place[...] = values if valid is None else np.where(valid, values, np.nan)
            finite = np.isfinite(place)
            place[~finite] = np.nan
            seen.add(band, place, finite)
            if band in which:
                held |= finite
        label[:height, :width][held] = 0

    def _reader(self, number: int) -> SceneReader:
        scene = self.scenes[number]
        if self._open is None or self._open.scene is not scene:
            self.close()
            self._open = SceneReader(scene)
            self.seen.setdefault(number, Seen(len(scene.bands)))
        return self._open

    def close(self) -> None:
        """Close the scene that is open."""
        if self._open:
            self._open.close()
            self._open = None
