"""Scenes -> store: survey, plan, write shard by shard, commit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glacier.console import Track, silence
from glacier.errors import GlacierError
from glacier.ingest.pack import needs
from glacier.ingest.place import choose_place
from glacier.ingest.plan import Options, Plan, columns, make_plan, source_record
from glacier.ingest.shard import ShardTask, write_shard
from glacier.ingest.survey import survey
from glacier.ingest.work import executor, spread
from glacier.scenes.read import unlabelled
from glacier.scenes.scene import Scene
from glacier.store.objects import Storage
from glacier.store.reader import Store
from glacier.store.schema import Meta
from glacier.store.statistics import pool as pool_statistics
from glacier.store.writer import StoreWriter
from glacier.version import __version__

PERCENTILE_TILES = 8192
"""Tiles, evenly spread, whose sampled pixels enter the percentiles."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingest did."""

    store: Path | str
    tiles: int
    """Tiles in the store."""
    empty_tiles: int
    """Tiles left out, being without data."""
    empty_scenes: tuple[str, ...]
    """Scenes left out for the same reason."""
    resumed: int
    """Shards that an earlier, unfinished ingest had written."""
    fresh: bool
    """False where the store was complete already and nothing was done."""


def ingest(
    source: Path,
    scenes: Sequence[Scene],
    out: Path | str,
    options: Options,
    *,
    workers: int = 1,
    overwrite: bool = False,
    track: Track = silence,
) -> Report:
    """Write a store of all tiles of `scenes`.

    The same call again does nothing where the store is complete, and goes on where it is not.

    Args:
        source: the folder or file the scenes were found in.
        scenes: as `find_scenes` yields them; each with labels.
        out: the store's folder; text is an address.
        options: how to cut, pack and label.
        workers: processes.
        overwrite: build beside what stands at `out`, and put it in its place once complete.
        track: shows progress.

    Raises:
        GlacierError: bad input (nothing is written), or `out` holds something else.
    """
    out = out.resolve() if isinstance(out, Path) else out
    record = source_record(source, scenes, options)
    note = {**record, "version": __version__}
    place = choose_place(out, record, note, overwrite)
    if place is None:
        return Report(out, len(Store(out)), 0, (), 0, fresh=False)
    if bare := [scene for scene in scenes if scene.label is None]:
        raise GlacierError(unlabelled(bare[0]))
    with executor(workers) as pool:
        wanted = needs(columns(scenes), options.dtype)
        with track("survey", len(scenes)) as done:
            tasks = [(scene, options.tile_size, options.nodata, wanted) for scene in scenes]
            surveys = spread(pool, survey, tasks, done)
        plan = make_plan(scenes, surveys, options)
        place.begin(note)
        writer = _writer(place.build, plan, record, options)
        finished = writer.finished()
        todo = [shard for shard in writer.shards if shard not in finished]
        with track("write", len(todo)) as done:
            spread(pool, write_shard, [(_task(writer, plan, i, options),) for i in todo], done)
    _commit(writer, plan)
    place.finish()
    return Report(
        out,
        len(plan.tiles),
        sum(found.empty for found in surveys),
        tuple(s.name for s, found in zip(scenes, surveys, strict=True) if not found.tiles),
        len(finished),
        fresh=True,
    )


def _task(writer: StoreWriter, plan: Plan, shard: int, options: Options) -> ShardTask:
    tiles = tuple((plan.scenes[plan.tiles[t][0]], plan.tiles[t][1]) for t in writer.shards[shard])
    return ShardTask(writer, shard, tiles, plan.class_map.index_of, bool(options.classes), options.nodata)


def _writer(target: Storage, plan: Plan, record: dict[str, Any], options: Options) -> StoreWriter:
    meta = Meta(
        tile_size=options.tile_size,
        dtype=plan.bands[0].dtype,
        bands=plan.bands,
        classes=plan.class_map.classes,
        crs=plan.crs,
        folds=options.folds,
        codec=options.codec,
        created_by=f"glacier {__version__}",
        source=record,
    )
    return StoreWriter(target, meta, len(plan.tiles), len(plan.scenes))


def _commit(writer: StoreWriter, plan: Plan) -> None:
    """Gather what the shards left, and make it a store."""
    every = -(-len(plan.tiles) // PERCENTILE_TILES)
    kept: dict[str, list[NDArray[Any]]] = {"histogram": [], "moments": [], "sample": []}
    for tiles, small in zip(writer.shards.values(), writer.kept(), strict=True):
        small["sample"] = small["sample"][-tiles.start % every :: every]
        for name, values in small.items():
            kept[name].append(values)
    whole = {name: np.concatenate(parts) for name, parts in kept.items()}
    sample = np.moveaxis(whole.pop("sample"), 1, 0).reshape(len(plan.bands), -1)
    statistics = pool_statistics(whole["moments"], sample)
    bands = [replace(b, statistics=s) for b, s in zip(plan.bands, statistics, strict=True)]
    writer.commit(replace(writer.meta, bands=tuple(bands)), {**plan.small_arrays(), **whole})
