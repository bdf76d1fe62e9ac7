"""`glacier demo`: the whole job on synthetic mountains, from GeoTIFFs to a map, in minutes."""

import time
from pathlib import Path

import numpy as np
import rasterio

from glacier import console
from glacier.classes import IGNORE
from glacier.config import shipped
from glacier.errors import GlacierError
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.inspect import contact_sheet, summarise
from glacier.machine import cores
from glacier.maps.command import MapRequest, predict_all
from glacier.pictures import class_colours, false_colour, sheet
from glacier.scenes.layouts import find_scenes
from glacier.store.look import stretches
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from glacier.train.evaluate import evaluate_runs
from glacier.train.ranks import join_ranks
from glacier.train.report import score_table
from glacier.train.segmenter import Trained, load_run
from glacier.train.start import Request, start_training
from glacier.train.summary import write_report

TILE = 128
"""px: four tiles per synthetic file, so that folds have room for the tiles left out between them."""


def run_demo(out: Path) -> None:
    """Make scenes, a store, a run, a map, a report and a picture in the new folder `out`.

    Raises:
        GlacierError: `out` exists.
    """
    if out.exists():
        raise GlacierError(f"{out}: exists; give a new folder, as in `glacier demo {out}2`")
    start = time.perf_counter()
    bands, fresh = out / "mountains", out / "unseen"
    console.note("1/6 synth: 25 tiles to learn from, and one scene never to be seen in training")
    write_synthetic(bands, layout="bands", seed=3, count=25, size=256)
    write_synthetic(fresh, layout="scenes", seed=11, count=1, size=512)
    console.note("2/6 ingest")
    path = out / "mountains.zarr"
    workers = cores()
    ingest(bands, find_scenes(bands), path, Options(tile_size=TILE), workers=workers, track=console.bar)
    store = Store(path)
    summary = summarise(store)
    contact_sheet(summary, out / "tiles.png")
    for table in summary.tables():
        console.out.print(table)
    console.note("3/6 train")
    run = start_training(Request(config=shipped("demo"), store=path, out=out / "run"))
    console.note("4/6 evaluate")
    trained = load_run(run)
    with join_ranks() as ranks:
        rated = evaluate_runs([trained], store, "val", ranks, track=console.bar)
    console.note("5/6 predict")
    (mapped,) = predict_all(MapRequest(runs=[run], source=fresh, out=out / "maps"))
    console.note("6/6 report")
    page = write_report(run, out / "report.html", path)
    picture = out / "demo.png"
    _draw(picture, fresh, mapped, store, trained)
    console.out.print(score_table(rated, f"held-out tiles of {path.name}"))
    console.note(f"tiles: {out / 'tiles.png'}\nmap: {mapped}\nreport: {page}")
    console.out.print(f"picture: {picture}", highlight=False, soft_wrap=True)
    console.note(f"{time.perf_counter() - start:.0f} s in all")


def _draw(picture: Path, source: Path, mapped: Path, store: Store, trained: Trained) -> None:
    """Image, label and prediction of the unseen scene, side by side."""
    (scene,) = find_scenes(source)
    pixels = []
    for band in scene.bands:
        with rasterio.open(band.path) as file:
            pixels.append(file.read(band.index, masked=True).astype(np.float64).filled(np.nan))
    index = np.full(256, IGNORE, np.uint8)
    index[[c.value for c in trained.classes]] = range(len(trained.classes))
    with rasterio.open(mapped) as file:
        found = index[file.read(1)]
    with rasterio.open(next(source.rglob("*_label.tif"))) as file:
        label = np.where(found == IGNORE, IGNORE, index[file.read(1)])
    image = false_colour(np.stack(pixels, axis=-1), stretches(store.meta.bands))
    agree = (found == label)[label != IGNORE].mean()
    sheet(
        picture,
        [[image, class_colours(label, trained.classes), class_colours(found, trained.classes)]],
        title="glacier demo: a synthetic scene the network has never seen",
        lines=[f"{100 * agree:.1f} % of its pixels are mapped to their class; dark grey is no data"],
        legend=[(c, "") for c in trained.classes],
        heads=["swir1, red, blue", "label", "prediction"],
    )
