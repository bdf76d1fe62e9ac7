"""Scenes -> store: survey, plan, write shard by shard, commit."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from glacier.console import Track, silence
from glacier.errors import GlacierError
from glacier.ingest.attributes import name_attributes
from glacier.ingest.commit import commit
from glacier.ingest.pack import needs
from glacier.ingest.place import Place, choose_place
from glacier.ingest.plan import Options, Plan, columns, make_plan, source_record
from glacier.ingest.shard import ShardTask, write_shard
from glacier.ingest.survey import Need, Survey, survey
from glacier.ingest.work import executor, spread
from glacier.lock import locked
from glacier.scenes.read import unlabelled
from glacier.scenes.scene import Scene
from glacier.store.reader import Store
from glacier.store.schema import ITEMSIZE, Meta
from glacier.store.writer import StoreWriter
from glacier.version import __version__

MOST_BYTES = 2**31 - 17
"""Of a tile: what blosc compresses at once."""
CHANGED = (
    "changed since the survey; leave the source alone while it is ingested, and give the command again "
    "with --overwrite"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingest did."""

    store: Path | str
    tiles: int
    """Tiles in the store."""
    tile_size: int
    """px"""
    empty_tiles: int
    """Tiles left out, being without data or with too little."""
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
    workers: int | str = 1,
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
        workers: processes; or the address of a Dask scheduler whose workers share the folders.
        overwrite: build beside what stands at `out`, and put it in its place once complete.
        track: shows progress.

    Raises:
        GlacierError: bad input (nothing is written), `out` holds something else, or another ingest has it.
    """
    out = out.resolve() if isinstance(out, Path) else out
    record = source_record(source, scenes, options)
    with locked(out):
        place = choose_place(out, record, overwrite)
        if place is None:
            return nothing_to_do(out)
        return build(place, name_attributes(scenes, options.classes), options, workers, track)


def build(
    place: Place,
    scenes: Sequence[Scene],
    options: Options,
    workers: int | str,
    track: Track,
    folds: Mapping[str, int] | None = None,
) -> Report:
    """Build a store at `place`, which is locked, and put it where it is to stand; as `ingest`.

    Args:
        place: where, and what the store is to say of its source.
        scenes: each with labels, whose attributes are named.
        options: how to cut, pack and label.
        workers: as `ingest`.
        track: shows progress.
        folds: fold of each scene by name; None to make spatial ones.
    """
    with executor(workers) as pool:
        surveys = survey_all(pool, scenes, options, needs(columns(scenes), options.dtype), track)
        plan = make_plan(scenes, surveys, options, folds)
        _fits_a_chunk(options.tile_size, plan)
        place.begin()
        meta = Meta(
            tile_size=options.tile_size,
            dtype=plan.bands[0].dtype,
            bands=plan.bands,
            classes=plan.class_map.classes,
            crs=plan.crs,
            folds=1 if options.published else options.folds,
            codec=options.codec,
            created_by=f"glacier {__version__}",
            source=place.record,
        )
        writer = StoreWriter(place.build, meta, len(plan.tiles), len(plan.scenes), note=place.note)
        resumed = write_all(pool, writer, plan, options, CHANGED, track)
    commit(writer, plan.small_arrays(plan.crs))
    place.finish()
    return report(place.out, writer, scenes, surveys, resumed)


def _fits_a_chunk(size: int, plan: Plan) -> None:
    """See to it that a tile is no more than blosc takes.

    Raises:
        GlacierError: it is.
    """
    tile = size**2 * len(plan.bands) * ITEMSIZE[plan.bands[0].dtype]
    if tile > MOST_BYTES:
        raise GlacierError(
            f"--tile-size: {size} px of {len(plan.bands)} bands {plan.bands[0].dtype} are {tile} bytes, "
            f"expected at most {MOST_BYTES}; give a smaller one"
        )


def survey_all(
    pool: Executor, scenes: Sequence[Scene], options: Options, wanted: Sequence[Need], track: Track
) -> list[Survey]:
    """Look through every scene.

    Raises:
        GlacierError: one without labels, or one that cannot be read.
    """
    if bare := [scene for scene in scenes if scene.label is None]:
        raise GlacierError(unlabelled(bare[0]))
    with track("survey", len(scenes)) as done:
        tasks = [(scene, options.cut(), wanted) for scene in scenes]
        return spread(pool, survey, tasks, done)


def write_all(
    pool: Executor, writer: StoreWriter, plan: Plan, options: Options, unfit: str, track: Track
) -> int:
    """Write every shard that is not written yet; how many were.

    Args:
        pool: does the work.
        writer: of the store.
        plan: the tiles from the writer's first on.
        options: how to label.
        unfit: what is said of values that the packing cannot hold.
        track: shows progress.
    """
    finished, tiles = writer.finished(), plan.placed
    tasks = [
        ShardTask(
            writer,
            shard,
            tuple(tiles[t - writer.first] for t in numbers),
            plan.class_map.index_of,
            bool(options.classes),
            options.nodata,
            unfit,
        )
        for shard, numbers in writer.shards.items()
        if shard not in finished
    ]
    with track("write", len(tasks)) as done:
        spread(pool, write_shard, [(task,) for task in tasks], done)
    return len(finished)


def nothing_to_do(out: Path | str) -> Report:
    """The report where all is done already."""
    with Store(out) as store:
        return Report(out, len(store), store.meta.tile_size, 0, (), 0, fresh=False)


def report(
    out: Path | str, writer: StoreWriter, scenes: Sequence[Scene], surveys: Sequence[Survey], resumed: int
) -> Report:
    """The report of an ingest that has ended well."""
    empty = tuple(s.name for s, found in zip(scenes, surveys, strict=True) if not found.tiles)
    left_out = sum(found.empty for found in surveys)
    return Report(out, writer.tiles, writer.meta.tile_size, left_out, empty, resumed, fresh=True)
