"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from glacier.errors import GlacierError, UsageError
from glacier.version import __version__

PATH = click.Path(path_type=Path)


class Address(click.ParamType[Path | str]):
    """A path; or an address such as `s3://bucket/x.zarr`, left as it is."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """An address as text, all else as a path."""
        return str(value) if "://" in str(value) else Path(value)


PLACE = Address()


weighted = click.option(
    "--weights", type=click.Choice(["equal", "mcc"]), default="equal", show_default=True,
    help="What each of several runs counts: the same, or in proportion to its MCC in validation.",
)  # fmt: skip


class OneLine(click.Group):
    """A group of commands whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what the user can mend into one line and an exit code."""
        try:
            return super().invoke(ctx)
        except GlacierError as error:
            message, code = str(error), error.exit_code
        except OSError as error:
            message, code = f"{error.filename or 'file'}: {error.strerror or error}", 1
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
                raise
            message, code = "the GPU's memory is full; try a smaller train.batch or data.patch", 1
        click.echo(f"error: {' '.join(message.split())}", err=True)
        return ctx.exit(code)


@click.group(
    cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="glacier")
def main() -> None:
    """From GeoTIFF bands to glacier maps.

    \b
      glacier ingest hkh/                         writes hkh.zarr
      torchrun --nproc_per_node 2 cli.py train    trains on it
      glacier predict RUN SCENES OUT              maps what it learnt
    """  # noqa: D301


@main.command()
@click.argument("out", type=PATH, default=Path("demo"))
def demo(out: Path) -> None:
    """Everything in one go on synthetic mountains, into OUT (default: demo).

    Made are scenes, a store, a trained run, a map, a report and a picture. It takes minutes on two cores.
    """
    from glacier.demo import run_demo

    run_demo(out)


@main.command()
@click.argument("out", type=PATH)
@click.option("--layout", type=click.Choice(["bands", "scenes", "hkh"]), default="bands", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--count", type=click.IntRange(1), help="Tiles, or scenes. [default: 25; hkh: 3, of nine patches each]"
)
@click.option("--size", type=int, default=512, show_default=True, help="Side of each, px; hkh: of a patch.")
def synth(out: Path, layout: str, seed: int, count: int | None, size: int) -> None:
    """Write synthetic mountain scenes to the new folder OUT: bands, GLCM and labels.

    The layout hkh is the HKH release in small, unpacked and as one archive.
    """
    from glacier import console
    from glacier.synth.write import write_synthetic

    count = count or (3 if layout == "hkh" else 25)
    files = write_synthetic(out, layout=layout, seed=seed, count=count, size=size)  # type: ignore[arg-type]
    console.note(f"{out}: {files} files; ingest them with `glacier ingest {out}`")


@main.command()
@click.argument("source", type=PLACE)
@click.option("--out", type=PLACE, help="The store; default SOURCE's name with .zarr, here.")
@click.option("--layout", type=click.Choice(["auto", "bands", "scenes", "hkh"]), default="auto",
              show_default=True)  # fmt: skip
@click.option("--labels", type=PLACE, help="Folder of label rasters, or a vector file of outlines.")
@click.option("--glcm", default="", metavar="PATTERN",
              help="Textures that lie elsewhere: 'textures/**/*.tif', relative to SOURCE.")  # fmt: skip
@click.option("--attribute", default="", help="Column that tells the class of each outline; see --classes.")
@click.option(
    "--classes", default="", help="Meaning of label values, or of words: 0=background,85=glacier,-1=ignore."
)
@click.option("--bands", default="", help="Bands to take, and their names: B2=blue,B6=swir1.")
@click.option("--hkh-source", type=click.Choice(["patches", "scenes"]),
              help="Of the HKH release: its patches, or its scenes with their outlines.")  # fmt: skip
@click.option("--tile-size", default=512, show_default=True, help="px, a multiple of 32.")
@click.option("--stride", type=int, help="px between tiles' corners, less than their size to overlap; "
              "around the edges of folds training then does without more of them.")  # fmt: skip
@click.option("--min-valid", type=float, default=0.0, show_default=True,
              help="Leave out tiles with a smaller share of pixels with data and a class.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["auto", "int16", "float32"]), default="auto", show_default=True)
@click.option("--codec", type=click.Choice(["lz4", "zstd"]), default="lz4", show_default=True)
@click.option("--folds", default="5", show_default=True,
              help="Spatial folds for cross-validation; or published, the HKH release's own.")  # fmt: skip
@click.option("--nodata", type=click.Choice(["all", "any"]),
              help="Ignore pixels where all optical bands lack data, or where any does. "
              "[default: all; HKH: any]")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Use the workers of this Dask scheduler, tcp://HOST:8786."
)
@click.option(
    "--overwrite", is_flag=True, help="Replace another store at OUT once the new one is complete."
)
@click.option("--append", "addition", type=PLACE, help="Add to this store, which says how to cut and pack.")
def ingest(source: Path | str, out: Path | str | None, **options: Any) -> None:
    """Build a tile store from the scenes in SOURCE.

    SOURCE is a folder, a raster, or the HKH release: unpacked, its archive, an address of that, or - for
    the archive on standard input.
    """
    from glacier.ingest.command import run_ingest

    origin = click.get_current_context().get_parameter_source
    given = {name for name in options if origin(name) is ParameterSource.COMMANDLINE}
    run_ingest(source, out, given, **options)


@main.command()
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--band", required=True, help="The band to take, by name or code: nir, B5.")
@click.option("--features", default="contrast,homogeneity", show_default=True,
              help="Also dissimilarity, correlation, asm, energy, entropy.")  # fmt: skip
@click.option("--window", default=7, show_default=True, help="Side of the neighbourhood, px.")
@click.option("--levels", default=32, show_default=True, help="Grey levels.")
@click.option("--range", "bounds", metavar="LOW,HIGH",
              help="What is cut into levels; default: the source's 1st to 99th percentile.")  # fmt: skip
@click.option("--layout", type=click.Choice(["auto", "bands", "scenes"]), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Processes; default one per core.")
@click.option("--overwrite", is_flag=True, help="Replace textures that were made otherwise.")
def glcm(
    source: Path, out: Path, band: str, features: str, window: int, levels: int, bounds: str | None,
    layout: str, workers: int | None, overwrite: bool,
) -> None:  # fmt: skip
    """Write GLCM textures of a band of every scene in SOURCE to OUT/GLCM_…/, which may be SOURCE."""
    from glob import escape

    from glacier import console
    from glacier.machine import cores
    from glacier.scenes.layouts import find_scenes
    from glacier.texture_rasters import Settings
    from glacier.textures import parse_range, see_no_other_textures, write_textures

    settings = Settings(tuple(features.lower().split(",")), window, levels)
    limits = parse_range(bounds) if bounds else None
    scenes = find_scenes(source, layout=layout, labelled=False, textured=False, bands={band: (band,)})  # type: ignore[arg-type]
    see_no_other_textures(source, scenes, out, settings)
    report = write_textures(
        scenes, out, settings,
        bounds=limits, workers=workers or cores(), overwrite=overwrite, track=console.bar,
    )  # fmt: skip
    low, high = report.range
    console.note(
        f"{out}: {report.written} textures written, {report.kept} stood there; "
        f"{band} from {low:g} to {high:g} in {levels} levels"
    )
    if out.resolve() != source.resolve():
        pattern = f"{escape(str(out.resolve()))}/GLCM_*/*.tif"
        console.note(f"ingest them with `glacier ingest {source} --glcm '{pattern}'`")


@main.command()
@click.argument("store", type=PLACE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--png", type=PATH, help="Draw a contact sheet of tiles and labels; with --target, of windows."
)
@click.option(
    "--target",
    metavar="CLASS=SHARE,…",
    help="What balancing to this mix of pixels would give, all tiles with d4.",
)
@click.option(
    "--patch", type=click.IntRange(0), default=0, help="With --target: side of windows, px. [256]"
)
@click.option(
    "--repeats",
    type=click.FloatRange(1),
    default=8.0,
    show_default=True,
    help="With --target: how often a window may come in an epoch.",
)
@click.option(
    "--samples",
    type=click.IntRange(0),
    default=0,
    help="With --target: per epoch; default: as many windows as cover the tiles.",
)
def inspect(
    store: Path | str | None,
    as_json: bool,
    png: Path | None,
    target: str | None,
    patch: int,
    repeats: float,
    samples: int,
) -> None:
    """Say what is in STORE: bands, classes, how much of each; and what balancing it would give."""
    from glacier import console
    from glacier.inspect import contact_sheet, summarise
    from glacier.inspect_plan import look_ahead, parse_target
    from glacier.store.reader import Store, only_store

    opened = Store(store or only_store(Path()))
    summary = summarise(opened)
    outlook = None
    if target is not None:
        asked = parse_target(target)
        outlook = look_ahead(opened, asked, patch=patch, repeats=repeats, samples=samples)
        for words in outlook.plan.warnings(opened.meta.class_names, asked):
            console.warn(words)
    if as_json:
        click.echo(json.dumps(summary.to_json() | ({"plan": outlook.to_json()} if outlook else {})))
    else:
        for table in (*summary.tables(), *([outlook.table()] if outlook else [])):
            console.out.print(table)
    if png and outlook:
        outlook.picture(png)
        console.note(f"{png}: mixes and windows")
    elif png:
        contact_sheet(summary, png)
        console.note(f"{png}: contact sheet")


@main.command()
@click.argument("store", type=PLACE, required=False)
@click.option("--quick", is_flag=True, help="Decode no pixel: only see that all is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(ctx: click.Context, store: Path | str | None, quick: bool, as_json: bool) -> None:
    """See whether STORE is right: decode and measure every tile again; exit 1 names those that are not."""
    from glacier import console
    from glacier.store.reader import Store, only_store
    from glacier.verify import verify as look

    with Store(store or only_store(Path()), whole=False) as opened:
        verdict = look(opened, quick=quick, track=console.bar)
    if as_json:
        click.echo(json.dumps(verdict.to_json()))
    else:
        for fault in verdict.faults:
            click.echo(fault)
        console.note(f"{opened.path}: {verdict}")
    ctx.exit(1 if verdict.faults else 0)


@main.command()
@click.option(
    "--config",
    type=PATH,
    help="TOML, or hkh_pretrain, finetune or demo; default: the first with CUDA, else the last.",
)
@click.option("--store", type=PLACE, help="Default: the only *.zarr here.")
@click.option("--out", type=PATH, help="The run; default: a new folder runs/STORE-N.")
@click.option("--fold", metavar="K|all", help="The fold held out for validation; all: one run per fold.")
@click.option(
    "--resume", is_flag=False, flag_value="", metavar="[RUN]", help="Go on with RUN (the newest)."
)
@click.option("--init", type=PATH, metavar="RUN", help="Start from a run's or an exported file's weights.")
@click.option("--time-limit", metavar="T", help="Save and end before T has passed: 11h30m, 45m.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="e.g. train.epochs=10")
def train(
    config: Path | None,
    store: Path | str | None,
    out: Path | None,
    fold: str | None,
    resume: str | None,
    init: Path | None,
    time_limit: str | None,
    settings: tuple[str, ...],
) -> None:
    """Train a network on a store; under torchrun, on every rank."""
    from glacier.train.start import Request, start_training
    from glacier.train.stop import parse_duration

    if fold is not None and fold != "all" and not fold.isdecimal():
        raise click.BadParameter(f"{fold!r}, expected a number or all", param_hint="--fold")
    start_training(
        Request(
            config=config,
            store=store,
            out=out,
            fold=fold,
            settings=settings,
            resume=resume,
            init=init,
            limit=None if time_limit is None else parse_duration(time_limit),
        )
    )


@main.command()
@click.argument("runs", type=PATH, nargs=-1)
@click.option("--store", type=PLACE, help="Default: the one trained on, else the only *.zarr here.")
@click.option(
    "--split", type=click.Choice(["val", "train", "test", "all"]), default="val", show_default=True
)
@click.option(
    "--pixels",
    type=click.Choice(["labelled", "all"]),
    default="labelled",
    show_default=True,
    help="all: no data counts as background, as competitions score.",
)
@click.option("--tta", is_flag=True, help="Mean over the eight symmetries of each tile.")
@weighted
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    runs: tuple[Path, ...], store: Path | str | None, split: str, pixels: str, tta: bool, weights: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Score RUNS (default: the newest) on a store's tiles; several runs are one ensemble."""
    from glacier import console
    from glacier.train.evaluate import evaluate_runs, store_of
    from glacier.train.nodes import open_same, runs_from_main
    from glacier.train.ranks import join_ranks
    from glacier.train.report import score_table
    from glacier.train.segmenter import load_run
    from glacier.train.start import newest_run

    with join_ranks() as ranks:
        names = ranks.from_main(lambda: {"runs": [str(run) for run in runs or (newest_run(),)]})["runs"]
        trained = runs_from_main(ranks, lambda: [load_run(Path(name)) for name in names])
        opened = open_same(ranks, lambda: store_of(trained[0].config, store))
        rated = evaluate_runs(
            trained, opened, split, ranks,
            pixels=pixels, tta=tta, weights=weights, track=console.bar,  # type: ignore[arg-type]
        )  # fmt: skip
    if not ranks.main:
        return
    if as_json:
        click.echo(
            json.dumps(
                {**rated.to_json(), "pixels": pixels, "split": split, "tta": tta, "weights": weights}
            )
        )
        return
    title = f"{', '.join(names)} on {opened.name}, {split} tiles{', eight symmetries' if tta else ''}"
    title += ", by weights of MCC" if weights == "mcc" else ""
    console.out.print(score_table(rated, title, pixels))
    if split == "val":
        console.note(
            "the best epoch, thresholds and temperature were chosen on these tiles; expect less elsewhere"
        )


@main.command()
@click.argument("run", type=PATH, required=False)
@click.option("--html", type=PATH, help="The page; default RUN/report.html.")
@click.option("--store", type=PLACE, help="Default: the one trained on, else the only *.zarr here.")
def report(run: Path | None, html: Path | None, store: Path | str | None) -> None:
    """One page about RUN (default: the newest): curves, scores, confusion, its worst and best tiles."""
    from glacier import console
    from glacier.train.start import newest_run
    from glacier.train.summary import write_report

    page = write_report(run or newest_run(), html, store)
    console.note(f"{page}: open it in a browser")


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.argument("out", type=PATH)
@click.option(
    "--competition", is_flag=True, help="Write solution.py and model.pth into the new folder OUT."
)
@click.option("--tta", is_flag=True, help="With --competition: let it mean over the eight symmetries.")
@weighted
def export(runs: tuple[Path, ...], out: Path, competition: bool, tta: bool, weights: str) -> None:
    """Write a run's weights in half precision to OUT.safetensors, with all that is needed to use them.

    With --competition, write a file of code and one of weights that map tiles without this package;
    several RUNS are one ensemble.
    """
    from glacier import console
    from glacier.train.export import export as write
    from glacier.train.segmenter import load_run

    if not competition and (tta or weights != "equal" or len(runs) > 1):
        what = "--tta" if tta else f"--weights {weights}" if weights != "equal" else f"{len(runs)} runs"
        raise UsageError(f"{what} without --competition; expected one run, and OUT.safetensors")
    trained = [load_run(run) for run in runs]
    if not competition:
        size = write(trained[0], out)
        console.note(f"{out}: {size / 1e6:.1f} MB; a run to evaluate, predict and --init")
        return
    from glacier.maps.submission import write_submission

    size = write_submission(trained, out, tta=tta, weights=weights)  # type: ignore[arg-type]
    console.note(
        f"{out}: solution.py, and model.pth of {size / 1e6:.1f} MB; try them with "
        f"`python {out}/solution.py TILES {out}/model.pth --output MASKS`"
    )


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.argument("source", type=PLACE)
@click.argument("out", type=PLACE)
@click.option("--tta", is_flag=True, help="Mean over the eight symmetries of each window.")
@weighted
@click.option("--probabilities", type=click.Choice(["uint8", "float16"]),
              help="Write those of each class, too: in steps of 0.004, or in half precision.")  # fmt: skip
@click.option(
    "--confidence",
    is_flag=True,
    help="Write the probability of each pixel's class, too, in steps of 0.004.",
)
@click.option("--polygons", is_flag=True, help="Write outlines, too: a GeoPackage with their areas in m².")
@click.option("--fill", default="", metavar="CLASS", help="Give pixels without data this class.")
@click.option("--window", type=click.IntRange(0), default=0, metavar="PX",
              help="Side of windows; default: that of the tiles the runs were validated on.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1),
              help="Windows that the network sees at a time. [default: 1; 8 on a GPU]")  # fmt: skip
@click.option("--layout", type=click.Choice(["auto", "bands", "scenes"]), default="auto", show_default=True)
@click.option("--glcm", default="", metavar="PATTERN", help="Textures that lie elsewhere, as for ingest.")
def predict(
    runs: tuple[Path, ...], source: Path | str, out: Path | str, tta: bool, weights: str,
    probabilities: str | None, confidence: bool, polygons: bool, fill: str, window: int, batch: int | None,
    layout: str, glcm: str,
) -> None:  # fmt: skip
    """Map the scenes in SOURCE with RUNS, several being one ensemble, into the folder OUT.

    A cloud-optimised GeoTIFF of classes per scene, on its grid; for folders of bands a mask called as the
    file in the first. Maps that stand in OUT are not made again. Under torchrun all ranks share the work.
    """
    from glacier.maps.command import MapRequest, predict_all
    from glacier.scenes.bucket import located

    if isinstance(out, str):
        raise click.BadParameter(f"{out} is an address, expected a folder", param_hint="OUT")

    predict_all(
        MapRequest(
            runs=runs,
            source=located(source),
            out=out,
            layout=layout,  # type: ignore[arg-type]
            glcm=glcm,
            tta=tta,
            weights=weights,  # type: ignore[arg-type]
            shares=probabilities,  # type: ignore[arg-type]
            confidence=confidence,
            polygons=polygons,
            fill=fill,
            window=window,
            batch=batch,
        )
    )
