"""One shard: the work of one worker, which imports no more than this takes."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glacier.errors import GlacierError
from glacier.ingest.tile import pixel_sample, read_tile
from glacier.scenes.read import Nodata, SceneReader
from glacier.scenes.scene import RasterLabel, Scene, Window
from glacier.store.measures import block_histogram, moments
from glacier.store.writer import StoreWriter, Tile


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What one worker needs to write one shard."""

    writer: StoreWriter
    shard: int
    tiles: tuple[tuple[Scene, Window], ...]
    index_of: dict[int, int]
    asked_for: bool
    """`index_of` is the user's: a label's no-data value that stands in it is a class."""
    rule: Nodata
    unfit: str
    """What is said of values that the packing cannot hold: how that came to be, what to do."""

    def meaning(self, scene: Scene) -> dict[int, int]:
        """`index_of` as it holds for one scene."""
        nodata = scene.label.nodata if isinstance(scene.label, RasterLabel) else None
        if self.asked_for or nodata is None:
            return self.index_of
        return {value: index for value, index in self.index_of.items() if value != nodata}


def write_shard(task: ShardTask) -> None:
    """Read, pack and write one shard.

    Raises:
        GlacierError: a file that cannot be read, or values that the packing cannot hold.
    """
    with closing(_tiles(task)) as tiles:
        task.writer.write_shard(task.shard, tiles)


def _tiles(task: ShardTask) -> Generator[Tile, None, None]:
    """The shard's tiles, one after the other in the same memory."""
    meta = task.writer.meta
    image = np.empty((meta.tile_size, meta.tile_size, len(meta.bands)), meta.dtype)
    label = np.empty((meta.tile_size, meta.tile_size), np.uint8)
    with closing(_opened(task.tiles)) as opened:
        for reader, window in opened:
            meaning = task.meaning(reader.scene)
            clipped = read_tile(reader, window, meta.bands, meaning, task.rule, image, label)
            if clipped.any():
                worst = int(clipped.argmax())
                raise GlacierError(
                    f"scene {reader.scene.name}: {clipped[worst]} values of band {meta.bands[worst].name} "
                    f"{task.unfit}"
                )
            small: dict[str, NDArray[Any]] = {
                "histogram": block_histogram(label, len(meta.classes)),
                "moments": moments(image, meta.bands),
                "sample": pixel_sample(image, meta.bands),
            }
            yield Tile(image, label, small)


def _opened(tiles: Sequence[tuple[Scene, Window]]) -> Generator[tuple[SceneReader, Window], None, None]:
    """Each tile with its scene opened; one scene is open at a time."""
    at = 0
    while at < len(tiles):
        scene = tiles[at][0]
        with SceneReader(scene) as reader:
            while at < len(tiles) and tiles[at][0] is scene:
                yield reader, tiles[at][1]
                at += 1
