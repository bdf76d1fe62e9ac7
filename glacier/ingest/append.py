"""More scenes -> a store that stands, at once: it opens as it was until all of them are there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glacier.console import Track, silence
from glacier.errors import GlacierError
from glacier.ingest.attributes import name_attributes
from glacier.ingest.commit import commit
from glacier.ingest.fit import bands_of, classes_of, needs_of, new_names, settle, with_bands_of
from glacier.ingest.folds import extend_folds
from glacier.ingest.place import ADDED, Place, first_source
from glacier.ingest.plan import Plan, cut, source_record, with_data
from glacier.ingest.work import executor
from glacier.ingest.write import Report, nothing_to_do, report, survey_all, write_all
from glacier.lock import locked
from glacier.scenes.scene import Scene
from glacier.store.folder import UNFINISHED
from glacier.store.footprints import squares
from glacier.store.objects import storage
from glacier.store.reader import Store
from glacier.store.schema import ITEMSIZE
from glacier.store.shards import tiles_per_known_shard
from glacier.store.writer import ROOT, StoreWriter, read_note

UNFIT = (
    "are the store's code for no data, or have changed since the survey; nothing was added: declare them "
    "as no data, or ingest both sources into a new store"
)


def append(
    source: Path,
    scenes: Sequence[Scene],
    out: Path | str,
    given: Mapping[str, Any],
    *,
    workers: int | str = 1,
    track: Track = silence,
) -> Report:
    """Add all tiles of `scenes` to the store at `out`.

    The same call again does nothing where it has ended, and goes on where it has not.

    Args:
        source: the folder or file the scenes were found in.
        scenes: with labels, and with the store's bands, in any order.
        out: the store's folder; text is an address.
        given: those of the `Options` that were asked for; the others are the store's.
        workers: processes; or the address of a Dask scheduler whose workers share the folders.
        track: shows progress.

    Raises:
        GlacierError: what does not fit the store, or cannot be read; the store stays as it was.
        UsageError: an option that is the store's, given otherwise.
    """
    out = out.resolve() if isinstance(out, Path) else out
    Store(out).close()
    build = storage(out)
    tag = build.tag(ROOT)
    with locked(out), Store(out) as base:
        options = settle(base, given)
        record = source_record(source, scenes, options)
        added = base.meta.source.get(ADDED, [])
        place = Place(out, build, record, read_note(build))
        if record in (first_source(base), *added):
            place.clear()
            return nothing_to_do(out)
        scenes = [with_bands_of(base, scene) for scene in name_attributes(scenes, options.classes)]
        new_names(base, scenes)
        with executor(workers) as pool:
            surveys = survey_all(pool, scenes, options, needs_of(base, scenes), track)
            held = with_data(scenes, surveys, options.min_valid)
            plan = cut(held, bands_of(base, held), classes_of(base, held, options.classes))
            writer = _writer(base, place, plan, {**base.meta.source, ADDED: [*added, record]})
            small = _join(base, plan, writer.meta.crs, options.published)
            place.begin(UNFINISHED)
            resumed = write_all(pool, writer, plan, options, UNFIT, track)
        commit(writer, small, tag, base)
    return report(out, writer, scenes, surveys, resumed)


def _writer(base: Store, place: Place, plan: Plan, source: dict[str, Any]) -> StoreWriter:
    """A writer that goes on where the store ends.

    Raises:
        GlacierError: the store's arrays are not laid out as this version lays them out.
    """
    try:
        root = json.loads(place.build.get(ROOT) or b"")
        there = root["consolidated_metadata"]["metadata"]
        per_shard = tiles_per_known_shard(there["image"], ITEMSIZE[base.meta.dtype]) or 1
        writer = StoreWriter(
            place.build,
            replace(
                base.meta,
                bands=plan.bands,
                crs=tuple(dict.fromkeys((*base.meta.crs, *plan.crs))),
                source=source,
            ),
            len(base) + len(plan.tiles),
            len(base.scene_names) + len(plan.scenes),
            first=len(base),
            per_shard=per_shard,
            note=place.note,
        )
        for name, ours in writer.documents().items():
            theirs = {**there[name], "shape": ours["shape"]}
            if different := [key for key, value in ours.items() if theirs.get(key) != value]:
                raise ValueError(f"{', '.join(different)} of {name}")
    except (ValueError, KeyError, TypeError) as error:
        raise GlacierError(
            f"{base.path}: another version or program laid it out otherwise ({error}), so nothing can be "
            "added; make the store again from all its sources"
        ) from error
    return writer


def _join(base: Store, plan: Plan, crs: Sequence[str], published: bool) -> dict[str, NDArray[Any]]:
    """The small arrays of the store's tiles and scenes, and after them those of the plan's.

    To published folds nothing is added but what is always trained on.
    """
    new = plan.small_arrays(crs)
    new["scene"] += len(base.scene_names)
    small = {name: np.concatenate((base.array(name), values)) for name, values in new.items()}
    if published:
        small["fold"][len(base) :] = base.meta.folds
        return small
    old, fresh = np.split(squares(base.meta.tile_size, crs, small), [len(base)])
    small["fold"][len(base) :] = extend_folds(old, base.fold, fresh, plan.placed, base.meta.folds)
    return small
