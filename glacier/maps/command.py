"""What `glacier predict` does around the mapping: runs, a source, a folder of maps."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch

from glacier import console
from glacier.errors import GlacierError, UsageError
from glacier.lock import locked
from glacier.maps.blend import at_a_time
from glacier.maps.output import Output
from glacier.maps.polygons import measurable
from glacier.maps.predict import predict
from glacier.maps.rasters import Shares
from glacier.maps.rows import order_of, pieces_of, places_of
from glacier.maps.source import SceneSource
from glacier.pipeline.buffer import Window
from glacier.scenes.layouts import Layout, find_scenes
from glacier.scenes.read import gdal_settings
from glacier.scenes.scene import Scene
from glacier.train.members import Members, Weighting, gather
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
    weights: Weighting = "equal"
    """What each run counts."""
    shares: Shares | None = None
    """Probabilities, too, stored like this."""
    confidence: bool = False
    """The share of each pixel's class, too."""
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
    out = request.out.resolve()
    with join_ranks() as ranks, ExitStack() as stack:
        runs = runs_from_main(ranks, lambda: [load_run(run) for run in request.runs])
        with ranks.together():
            members = gather(runs, request.window, request.weights)
            output = _output(request, out, members)
            scenes = find_scenes(
                request.source,
                layout=request.layout,
                labelled=False,
                glcm=request.glcm,
                bands=members.selection,
            )
            _see_place(request, out, scenes, members.located)
        with ranks.together():
            if ranks.main:
                stack.enter_context(locked(out))
        with ranks.together():  # all see what there is before any adds to it
            todo = [scenes[i] for i in output.missing(scenes)]
        seen = ranks.gather(f"{len(todo)} scenes to map, {sha256(repr(todo).encode()).hexdigest()[:8]}")
        if len(set(seen)) > 1:
            raise GlacierError(
                f"ranks see different things ({'; '.join(seen)}); expected one source and one folder for "
                "maps, on a disk that all share, under the same names"
            )
        with ranks.together():
            if ranks.main and todo:
                shutil.rmtree(output.aside, ignore_errors=True)
                output.aside.mkdir(parents=True)
                stack.callback(shutil.rmtree, output.aside, ignore_errors=True)
        start = time.perf_counter()
        if todo:
            _map(members, todo, output, request, ranks)
        if ranks.main:
            pixels = sum(scene.grid.height * scene.grid.width for scene in todo)
            speed = pixels / 1e6 / (time.perf_counter() - start)
            _report(request.out, len(scenes), len(todo), speed)
    return [request.out / output.map(scene).name for scene in scenes]


def _see_place(request: MapRequest, out: Path, scenes: Sequence[Scene], located: bool) -> None:
    """Raise GlacierError or UsageError where these scenes cannot be mapped, or not to `out`."""
    if out.exists() and not out.is_dir():
        raise GlacierError(f"{request.out}: not a folder, expected one for the maps; give another")
    if request.source.is_dir() and out.is_relative_to(request.source.resolve()):
        raise UsageError(
            f"{request.out}: lies in {request.source}, whose files maps would be taken for; give a folder "
            "elsewhere"
        )
    for scene in scenes if request.polygons or located else ():
        if scene.grid.crs and measurable(scene.grid):
            continue
        found = f"scene {scene.name} has no CRS that lies on the earth, expected one"
        if located:
            raise GlacierError(
                f"{found}, since a run is told where windows lie (model.location); give the scene one with "
                "`gdal_edit -a_srs`, or map it with runs trained without"
            )
        raise UsageError(f"--polygons: {found} to measure areas in; leave --polygons out")


def _output(request: MapRequest, out: Path, members: Members) -> Output:
    known = {c.name: c for c in members.classes}
    if request.fill and request.fill not in known:
        raise UsageError(f"--fill {request.fill}: no such class, expected one of {', '.join(known)}")
    settings = (members.digest(), members.size, request.tta, request.fill)
    return Output(
        out,
        members.classes,
        repr(settings),
        shares=request.shares,
        confidence=request.confidence,
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
        ranks.together(),
        gdal_settings(scenes),
        closing(source),
        track("windows", sum(len(piece.windows) for piece in own)) as done,
    ):
        network = members.ensemble(tta=request.tta).to(ranks.device)
        places = places_of(scenes, order, members.size) if network.located else None
        strips = predict(
            network,
            source,
            order,
            own,
            window=Window(members.size, len(members.bands), "float32"),
            classes=len(members.classes),
            batch=request.batch or at_a_time(ranks.device),
            device=ranks.device,
            places=None if places is None else torch.tensor(places, device=ranks.device).float(),
            shares=request.shares is not None,
            done=done,
        )
        with closing(strips):
            for piece, group in groupby(strips, key=itemgetter(0)):
                parts = output.parts(scenes[piece.scene], piece)
                for _, strip in group:
                    parts.append(strip)
                if piece.whole(grids[piece.scene]):
                    output.finish(scenes[piece.scene], [parts])
    with ranks.together():  # all rows are written
        for piece in own:
            if piece.top == 0 and not piece.whole(grids[piece.scene]):
                scene = scenes[piece.scene]
                pieces = [other for part in by_rank for other in part if other.scene == piece.scene]
                output.finish(scene, [output.parts(scene, each) for each in pieces])
    _compare_units(members, scenes, source)


def _compare_units(members: Members, scenes: Sequence[Scene], source: SceneSource) -> None:
    """Warn of bands unlike those a run was trained on: reflectance instead of digital numbers, say."""
    for number, seen in source.seen.items():
        like = (*seen.mean_and_std(), seen.lowest, seen.highest)
        for band, mean, std, low, high in zip(scenes[number].bands, *like, strict=True):
            if trained := members.unlike(band.name, mean, std, low, high):
                console.warn(
                    f"scene {scenes[number].name}: {band.name} is {mean:.3g} ± {std:.2g}, from {low:.3g} "
                    f"to {high:.3g}, expected {trained.mean:.3g} ± {trained.std:.2g} as in training; are "
                    "units and no-data value as they were?"
                )


def _report(out: Path, maps: int, made: int, speed: float) -> None:
    stood = f", {maps - made} of which stood there" if made < maps else ""
    measured = f"; {speed:.2f} Mpx/s" if made else ""
    console.note(f"{out}: {maps} map{'s' * (maps > 1)}{stood}{measured}")
