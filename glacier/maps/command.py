"""What `glacier predict` does around the mapping: runs, a source, a folder of maps."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from glacier import console
from glacier.errors import UsageError
from glacier.lock import locked
from glacier.maps.output import Output
from glacier.maps.predict import predict
from glacier.maps.rasters import Shares
from glacier.maps.rows import order_of, pieces_of
from glacier.maps.source import SceneSource
from glacier.pipeline.buffer import Window
from glacier.scenes.layouts import Layout, find_scenes
from glacier.scenes.read import gdal_settings
from glacier.scenes.scene import Scene
from glacier.train.members import Members, gather
from glacier.train.nodes import runs_from_main
from glacier.train.ranks import Ranks, join_ranks
from glacier.train.segmenter import load_run


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRequest:
    """What is wanted."""

    runs: Sequence[Path]
    """Several are one ensemble."""
    source: Path
    out: Path
    layout: Layout = "auto"
    glcm: str = ""
    """As for ingest."""
    tta: bool = False
    """The mean over the eight symmetries of each window."""
    shares: Shares | None = None
    """Probabilities, too, stored like this."""
    polygons: bool = False
    """Outlines, too."""
    fill: str = ""
    """The class that pixels without data are given; none by default."""
    window: int = 0
    """Side of windows, px; 0 for that of the tiles the runs were validated on."""
    batch: int | None = None
    """Windows that the network sees at a time; None: 1 on a CPU, 8 on a GPU."""


def predict_all(request: MapRequest) -> list[Path]:
    """Map every scene of a source that has no map yet, on all ranks; the paths of the maps.

    Raises:
        GlacierError: no such run or source, bands that are missing, or `out` holds something else.
    """
    with join_ranks() as ranks, ExitStack() as stack:
        runs = runs_from_main(ranks, lambda: [load_run(run) for run in request.runs])
        with ranks.together():
            members = gather(runs, request.window)
            output = _output(request, members)
            scenes = find_scenes(
                request.source,
                layout=request.layout,
                labelled=False,
                glcm=request.glcm,
                bands=members.selection,
            )
            if request.polygons and (nowhere := [s.name for s in scenes if not s.grid.crs]):
                raise UsageError(
                    f"--polygons: scene {nowhere[0]} names no CRS, expected one to measure areas in; leave "
                    "--polygons out"
                )
        with ranks.together():
            if ranks.main:
                stack.enter_context(locked(request.out))
                output.missing(scenes)
                shutil.rmtree(output.aside, ignore_errors=True)
                output.aside.mkdir(parents=True)
        with ranks.together():  # all see what there is before any adds to it
            todo = [scenes[i] for i in output.missing(scenes)]
        start = time.perf_counter()
        if todo:
            _map(members, todo, output, request, ranks)
        ranks.wait()
        if ranks.main:
            shutil.rmtree(output.aside)
            pixels = sum(scene.grid.height * scene.grid.width for scene in todo)
            _report(output.folder, len(scenes), len(todo), pixels / 1e6 / (time.perf_counter() - start))
    return [output.map(scene) for scene in scenes]


def _output(request: MapRequest, members: Members) -> Output:
    known = {c.name: c for c in members.classes}
    if request.fill and request.fill not in known:
        raise UsageError(f"--fill {request.fill}: no such class, expected one of {', '.join(known)}")
    settings = (members.digest(), members.size, request.tta, request.fill)
    return Output(
        request.out,
        members.classes,
        repr(settings),
        shares=request.shares,
        polygons=request.polygons,
        fill=known.get(request.fill),
    )


def _map(
    members: Members, scenes: Sequence[Scene], output: Output, request: MapRequest, ranks: Ranks
) -> None:
    """This rank's part of the work."""
    grids = [scene.grid for scene in scenes]
    order, rows = order_of(grids, members.size)
    by_rank = [pieces_of(grids, members.size, rows, len(order), r, ranks.world) for r in range(ranks.world)]
    own, source = by_rank[ranks.rank], SceneSource(scenes)
    track = console.bar if ranks.main else console.silence
    with (
        gdal_settings(scenes),
        closing(source),
        track("windows", sum(len(piece.windows) for piece in own)) as done,
    ):
        strips = predict(
            members.ensemble(tta=request.tta).to(ranks.device),
            source,
            order,
            own,
            window=Window(members.size, len(members.bands), "float32"),
            classes=len(members.classes),
            batch=request.batch or (8 if ranks.device.type == "cuda" else 1),
            device=ranks.device,
            done=done,
        )
        for piece, group in groupby(strips, key=itemgetter(0)):
            parts = output.parts(scenes[piece.scene], piece)
            for _, strip in group:
                parts.append(strip)
            if piece.whole(grids[piece.scene]):
                output.finish(scenes[piece.scene], [parts])
    ranks.wait()  # until the others' rows are written
    for piece in own:
        if piece.top == 0 and not piece.whole(grids[piece.scene]):
            scene = scenes[piece.scene]
            pieces = [other for part in by_rank for other in part if other.scene == piece.scene]
            output.finish(scene, [output.parts(scene, each) for each in pieces])
    _compare_units(members, scenes, source)


def _compare_units(members: Members, scenes: Sequence[Scene], source: SceneSource) -> None:
    """Warn of bands unlike those a run was trained on: reflectance instead of digital numbers, say."""
    for number, seen in source.seen.items():
        for band, mean, std in zip(scenes[number].bands, *seen.mean_and_std(), strict=True):
            if trained := members.unlike(band.name, mean, std):
                console.warn(
                    f"scene {scenes[number].name}: {band.name} is {mean:.3g} ± {std:.2g}, expected about "
                    f"{trained.mean:.3g} ± {trained.std:.2g} as in training; are its units the same?"
                )


def _report(out: Path, maps: int, made: int, speed: float) -> None:
    stood = f", {maps - made} of which stood there" if made < maps else ""
    measured = f"; {speed:.2f} Mpx/s" if made else ""
    console.note(f"{out}: {maps} map{'s' * (maps > 1)}{stood}{measured}")
