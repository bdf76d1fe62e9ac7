"""Class maps of whole scenes: windows of a scene through the training's own feed and network."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from glacier.classes import IGNORE, Class
from glacier.console import Track, silence
from glacier.pipeline.backends import make_batcher
from glacier.pipeline.buffer import Buffer, Window
from glacier.pipeline.feed import Feed
from glacier.pipeline.order import SAMPLE, Samples
from glacier.scenes.bands import Selection
from glacier.scenes.read import SceneReader, optical
from glacier.scenes.scene import Scene
from glacier.scenes.scene import Window as SceneWindow
from glacier.train.precision import mixed
from glacier.train.segmenter import Segmenter, Trained

BATCH = 4


def selection(trained: Trained) -> Selection:
    """The bands a run needs, to be found in a source by name or by the code they had in training."""
    return {band.name: (band.name, band.code) for band in trained.bands}


@dataclass(slots=True)
class SceneSource:
    """A scene as something windows are read from; they may reach beyond its edges."""

    reader: SceneReader
    trained: Trained
    read: int = 0
    """Values read so far."""
    clipped: int = 0
    """Those outside the run's packing, which took the nearest code."""

    def read_into(self, samples: Samples, out: Buffer) -> None:
        """Pack one window per sample as the run's store was packed; labels tell data from none.

        Args:
            samples: y, x of each window's corner in the scene, px, which may be negative.
            out: `label` becomes 0 where there is data, 255 where not.
        """
        patch, grid = out.label.shape[1], self.reader.scene.grid
        bands = self.trained.bands
        for i, sample in enumerate(samples):
            y, x = int(sample["y"]), int(sample["x"])
            top, left = max(y, 0), max(x, 0)
            height, width = min(y + patch, grid.height) - top, min(x + patch, grid.width) - left
            inside = (slice(top - y, top - y + height), slice(left - x, left - x + width))
            image, label = out.image[i], out.label[i]
            image[...] = np.array([band.nodata for band in bands], image.dtype)
            label[...] = IGNORE
            held = np.zeros((height, width), bool)
            which = set(optical(self.reader.scene.bands))
            for index, values, valid in self.reader.bands(SceneWindow(top, left, height, width)):
                self.read += values.size
                self.clipped += bands[index].pack(values, valid, image[*inside, index])
                if index in which:
                    held |= True if valid is None else valid
            label[inside][held] = 0


def predict_scene(
    trained: Trained,
    segmenter: Segmenter,
    scene: Scene,
    device: torch.device,
    track: Track = silence,
) -> tuple[NDArray[np.uint8], float]:
    """Class index of each pixel of a scene (H, W), 255 where it holds no data.

    Windows of the run's tile size overlap by a quarter; the middle of each is kept.

    Returns:
        The map, and the share of values that were outside what the run's packing can hold.
    """
    size, grid = trained.tile_size, scene.grid
    margin = size // 8
    order = window_grid(grid.height, grid.width, size, margin)
    window = Window(size, len(trained.bands), trained.bands[0].dtype)
    classes = np.full((grid.height, grid.width), IGNORE, np.uint8)
    with SceneReader(scene) as reader, track(scene.name, len(order)) as done:
        source = SceneSource(reader, trained)
        batcher = make_batcher(source, window, largest=BATCH, device=device)
        steps = (order[i : i + BATCH] for i in range(0, len(order), BATCH))
        for batch in Feed(batcher, steps, threads=1):  # a dataset of GDAL's serves one thread at a time
            with torch.inference_mode(), mixed(device):
                chosen = segmenter(batch.image).argmax(dim=1).to(torch.uint8)
            chosen = chosen.where(batch.label != IGNORE, torch.full_like(chosen, IGNORE))
            for sample, found in zip(batch.samples, chosen.cpu().numpy(), strict=True):
                top, left = int(sample["y"]) + margin, int(sample["x"]) + margin
                part = classes[top : top + size - 2 * margin, left : left + size - 2 * margin]
                part[...] = found[margin : margin + part.shape[0], margin : margin + part.shape[1]]
                done()
    return classes, source.clipped / source.read


def window_grid(height: int, width: int, size: int, margin: int) -> Samples:
    """Windows whose middles, `margin` px in from each side, cover a scene without overlap."""
    step = size - 2 * margin
    corners = [(y, x) for y in range(0, height, step) for x in range(0, width, step)]
    order = np.zeros(len(corners), SAMPLE)
    order["y"], order["x"] = (np.array(corners) - margin).T
    return order


def write_map(path: Path, classes: NDArray[np.uint8], scene: Scene, names: Sequence[Class]) -> None:
    """Write a class map on its scene's grid, with the labels' own values and colours.

    No data is the scene's own no-data value, or where a class has that value, or the scene has none,
    the highest value that no class has. Whole or not at all.
    """
    values = [c.value for c in names]
    byte = all(0 <= value <= 255 for value in values)
    dtype = np.dtype("uint8" if byte else "int32")
    nodata = _nodata(scene, values, np.iinfo(dtype.name).max)
    table = np.full(256, nodata, dtype)
    table[: len(values)] = values
    partial = path.with_name(f".{path.name}.partial")
    profile = {
        "driver": "GTiff",
        "height": scene.grid.height,
        "width": scene.grid.width,
        "count": 1,
        "dtype": dtype,
        "nodata": nodata,
        "compress": "deflate",
    }
    if scene.grid.crs:
        profile |= {"crs": scene.grid.crs}
    if not scene.grid.transform.is_identity:
        profile |= {"transform": scene.grid.transform}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(partial, "w", **profile) as file:
            file.write(table[classes], 1)
            if byte:
                file.write_colormap(1, {c.value: _rgba(c.colour) for c in names})
            file.update_tags(CLASSES=",".join(f"{c.value}={c.name}" for c in names))
    os.replace(partial, path)


def _nodata(scene: Scene, values: Sequence[int], highest: int) -> int:
    own = scene.bands[0].nodata
    if own is not None and float(own).is_integer() and 0 <= own <= highest and own not in values:
        return int(own)
    return max(set(range(max(0, highest - len(values)), highest + 1)) - set(values))


def _rgba(colour: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(colour.lstrip("#"))
    return red, green, blue, 255
