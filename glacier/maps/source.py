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


@dataclass(slots=True)
class Seen:
    """Valid pixels read of a scene, by band (band,), those that windows share more than once."""

    count: NDArray[np.int64]
    total: NDArray[np.float64]

    def mean(self) -> NDArray[np.float64]:
        """NaN in a band without any."""
        with np.errstate(invalid="ignore"):
            return self.total / self.count


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
            place[...] = values if valid is None else np.where(valid, values, np.nan)
            seen.count[band] += values.size if valid is None else np.count_nonzero(valid)
            seen.total[band] += values.sum(dtype=np.float64, where=True if valid is None else valid)
            if band in which:
                held |= True if valid is None else valid
        label[:height, :width][held] = 0

    def _reader(self, number: int) -> SceneReader:
        scene = self.scenes[number]
        if self._open is None or self._open.scene is not scene:
            self.close()
            self._open = SceneReader(scene)
            bands = len(scene.bands)
            self.seen.setdefault(number, Seen(np.zeros(bands, np.int64), np.zeros(bands)))
        return self._open

    def close(self) -> None:
        """Close the scene that is open."""
        if self._open:
            self._open.close()
            self._open = None
