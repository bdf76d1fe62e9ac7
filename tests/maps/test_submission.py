"""A submission maps as `glacier predict` does, with nothing but what the competition allows."""

import ast
import json
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch

from glacier.config import Config, shipped
from glacier.errors import GlacierError
from glacier.lock import locked
from glacier.maps import solution, submission
from glacier.maps.submission import write_submission
from glacier.train.export import export
from glacier.train.loop import train
from glacier.train.members import gather
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from tests.helpers import one_line, untrained, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, torch.device("cpu"))
BANDS = {"B2": "blue", "B3": "green", "B4": "red", "B6": "swir1", "B10": "thermal"}
SMALL = ["data.patch=64", "train.epochs=4", "train.batch=4", "train.samples_per_epoch=32"]
ALLOWED = ["torch", "torchvision", "tqdm", "pillow", "scikit-learn", "numpy", "tifffile"]
ALLOWED += ["segmentation-models-pytorch", "timm"]
OPENCV = "opencv-python-headless"  # opencv-python without its windows


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory) -> list[Path]:
    """Exports of three runs: five bands; two of them, in another order; and one with textures."""
    folder = tmp_path_factory.mktemp("runs")
    five = f"data.bands={json.dumps(list(BANDS.values()))}"
    two = ['data.bands=["swir1", "blue"]', "train.seed=1", "inputs.log=true", "inputs.validity=true"]
    seven = ["train.epochs=1", "train.samples_per_epoch=4"]
    for name, settings in (("five", [five]), ("two", [*two, 'inputs.contrast=["blue"]']), ("seven", seven)):
        train(Config.load(shipped("demo"), [*SMALL, *settings]), store, folder / name, ALONE)
    return [folder / name for name in ("five", "two", "seven")]


@pytest.fixture(scope="module")
def tiles(mountains, tmp_path_factory) -> Path:
    """Two tiles of 128 px and one of 108 x 40; a band of each compressed otherwise."""
    return write_tiles(mountains, tmp_path_factory.mktemp("tiles") / "tiles", "0[01]_0[01]")


def write_tiles(mountains: Path, out: Path, which: str) -> Path:
    kinds = {
        "Band1": {"compress": "lzw", "predictor": 2},
        "Band2": {"compress": "lzw", "tiled": True, "blockxsize": 64, "blockysize": 64},
        "Band3": {"compress": "deflate", "predictor": 3},
        "Band4": {"compress": "lzw", "predictor": 3},
        "Band5": {},
    }
    for folder, options in kinds.items():
        for path in sorted((mountains / folder).glob(f"*_{which}.tif"))[:3]:
            with rasterio.open(path) as file:
                pixels = file.read(1)
            if path.stem.endswith("01_00"):
                pixels = pixels[20:, 30:70]
            if path.stem.endswith("02_02"):
                pixels = np.pad(pixels, (0, 384), mode="symmetric")
            if options.get("predictor") == 3:
                pixels = np.where(pixels == 0, np.nan, pixels).astype(np.float32)
            if options.get("tiled") or pixels.shape[1] > 100:
                pixels[-9:, -30:] = 0 if pixels.dtype == np.uint16 else np.nan
            write_raster(
                out / folder / path.name, pixels, nodata=0 if folder != "Band4" else None, **options
            )
    return out


@cache
def guarded() -> list[str]:
    """A command of Python that imports nothing but what is allowed, and what that needs."""
    known = packages_distributions()
    installed = {re.sub("[-_.]+", "-", name).lower() for of in known.values() for name in of}
    allowed, left = set(), [*ALLOWED, OPENCV]
    while left:
        name = re.sub("[-_.]+", "-", left.pop()).lower()
        if name not in allowed:
            allowed.add(name)
            needs = [n for n in requires(name) or [] if "extra ==" not in n] if name in installed else []
            left += [re.match(r"[\w.-]+", need)[0] for need in needs]
    refused = [m for m, of in known.items() if not {re.sub("[-_.]+", "-", n).lower() for n in of} & allowed]
    program = (
        "import re, runpy, sys\n"
        f"refused = {sorted({*refused, 'glacier'})!r}\n"
        f"allowed = {sorted(allowed)!r}\n"
        "class Guard:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_distributions(self, context):\n"
        "        found = getattr(self.finder, 'find_distributions', lambda context: [])(context)\n"
        "        return (d for d in found if re.sub('[-_.]+', '-', d.name).lower() in allowed)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        hidden = name.split('.')[0] in refused\n"
        "        return None if hidden else self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Guard(finder) for finder in sys.meta_path]\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return [sys.executable, "-c", program]


def run_solution(words, python=None):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [*(python or guarded()), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, cwd=words[0].parent
    )


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as file:
            found[path.name] = file.read(1)
    return found


def compare(made: dict[str, np.ndarray], expected: dict[str, np.ndarray], *shapes) -> None:
    assert sorted(made) == sorted(expected)
    assert {mask.shape for mask in made.values()} == set(shapes)
    assert len(np.unique(np.concatenate([mask.ravel() for mask in made.values()]))) >= 3
    for name, mask in made.items():
        np.testing.assert_array_equal(mask, expected[name])


@pytest.fixture(scope="module")
def glavitu(store, tmp_path_factory) -> Path:
    """GlaViTU on three bands in another order, for smaller windows than those of the store."""
    settings = ['model.arch="glavitu"', "data.patch=32", 'data.bands=["thermal", "blue", "red"]']
    out = tmp_path_factory.mktemp("glavitu") / "run"
    return untrained(store, out, *settings, mcc=0.4, temperature=0.7, thresholds=(0.0, 0.3, 0.1, 0.0))


def test_masks_are_those_of_predict(runs, glavitu, mountains, tmp_path, call):
    """Of networks of two kinds, by their MCC."""
    members = [*runs[:2], glavitu, "--weights", "mcc"]
    tiles = write_tiles(mountains, tmp_path / "tiles", "01_00")
    assert call("export", *members, "sub", "--competition").exit_code == 0
    assert sorted(f.name for f in (tmp_path / "sub").iterdir()) == ["model.pth", "solution.py"]
    code, weights = tmp_path / "sub" / "solution.py", tmp_path / "sub" / "model.pth"
    done = run_solution([code, tiles, weights, "--output", tmp_path / "masks"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 masks\n"
    assert call("predict", *members, tiles, "maps", "--fill", "background").exit_code == 0
    compare(masks_in(tmp_path / "masks"), masks_in(tmp_path / "maps"), (108, 40))


@pytest.mark.parametrize(("chosen", "flags"), [([0], []), ([1, 0], ["--tta"])])
def test_so_are_those_of_one_run_and_of_symmetries(runs, tiles, tmp_path, call, chosen, flags):
    which = [runs[i] for i in chosen]
    assert call("export", *which, "sub", "--competition", *flags).exit_code == 0
    (tmp_path / "masks").mkdir()  # a folder: the weights lie beside the code
    written = runpy.run_path(tmp_path / "sub" / "solution.py")
    written["maskgeration"](tiles, tmp_path / "masks")
    assert call("predict", *which, tiles, "maps", "--fill", "background", *flags).exit_code == 0
    compare(masks_in(tmp_path / "masks"), masks_in(tmp_path / "maps"), (128, 128), (108, 40))


def test_the_code_holds_all_networks_and_imports_only_what_is_allowed(submitted):
    code = ast.parse((submitted / "solution.py").read_text())
    nodes = [node for node in ast.walk(code) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name for n in nodes for name in ([n.module] if hasattr(n, "module") else [a.name for a in n.names])
    }
    roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert roots == {"cv2", "numpy", "segmentation_models_pytorch", "tifffile", "timm", "torch", "tqdm"}
    said = ast.get_docstring(code)
    assert all(name in said for name in roots - {"cv2"})
    defined = Counter(node.name for node in code.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    assert {"GlaViTU", "Segmenter", "Ensemble"} <= defined.keys()
    assert set(defined.values()) == {1}


def test_what_runs_count_is_kept_beside_halves(runs, glavitu, tmp_path, monkeypatch):
    """And a network in halves says what the same run exported does."""
    two = [load_run(runs[0]), load_run(glavitu)]
    size = write_submission(two, tmp_path / "whole", tta=False, weights="mcc")
    monkeypatch.setattr(submission, "LIMIT", size)
    assert write_submission(two, tmp_path / "sub", tta=False, weights="mcc") < 0.6 * size
    record = torch.load(tmp_path / "sub" / "model.pth", weights_only=True)
    counts = np.array([run.mcc for run in two]) / sum(run.mcc for run in two)
    np.testing.assert_allclose(record["weights"], counts, rtol=1e-12)
    assert record["members"][1]["weights"]["segmentation_head.weight"].dtype == torch.float16
    ensemble = solution.load_model(tmp_path / "sub" / "model.pth").ensemble
    np.testing.assert_allclose(ensemble.weights, counts, rtol=1e-12)
    export(two[1], tmp_path / "half.safetensors")
    exported = gather([load_run(tmp_path / "half.safetensors")]).ensemble(tta=False)
    raw = torch.rand(1, 5, 32, 32) * 3000
    places = [list(record["bands"]).index(name) for name in ("thermal", "blue", "red")]
    with torch.inference_mode():
        found, expected = ensemble.members[1](raw).softmax(dim=1), exported(raw[:, places])
    assert torch.equal(found, expected)


def test_nothing_else_can_be_imported(tmp_path):
    (tmp_path / "solution.py").write_text("import numpy\nimport rasterio\n")
    assert "No module named 'rasterio'" in run_solution([tmp_path / "solution.py"]).stderr


def test_weights_that_would_be_too_many_are_halved(runs, tiles, tmp_path, call, monkeypatch):
    """As those of an exported run are; that changes next to nothing."""
    size = write_submission([load_run(runs[0])], tmp_path / "first", tta=False)
    for name, limit, dtype in (("full", size + 1, torch.float32), ("sub", size, torch.float16)):
        monkeypatch.setattr(submission, "LIMIT", limit)
        write_submission([load_run(runs[0])], tmp_path / name, tta=False)
        record = torch.load(tmp_path / name / "model.pth", weights_only=True)
        assert {v.dtype for v in record["members"][0]["weights"].values()} == {dtype, torch.int64}
    run_solution(
        [
            tmp_path / "sub" / "solution.py",
            tiles,
            tmp_path / "sub" / "model.pth",
            "--output",
            tmp_path / "own",
        ]
    )
    assert call("export", runs[0], "half.safetensors").exit_code == 0
    for run, out in (("half.safetensors", "half"), (runs[0], "whole")):
        assert call("predict", run, tiles, out, "--fill", "background").exit_code == 0
    own, half, whole = (masks_in(tmp_path / name) for name in ("own", "half", "whole"))
    for name, mask in own.items():
        np.testing.assert_array_equal(mask, half[name])
    assert np.mean([(own[name] == whole[name]).mean() for name in own]) > 0.998


@pytest.fixture(scope="module")
def submitted(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("submission") / "sub"
    write_submission([load_run(runs[1])], out, tta=False)
    return out


class Touch:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_reading_weights_executes_nothing(submitted, tmp_path):
    record = torch.load(submitted / "model.pth", weights_only=True)
    record["tta"] = Touch(tmp_path / "made")
    torch.save(record, tmp_path / "model.pth")
    written = runpy.run_path(submitted / "solution.py")
    assert written["load_model"](submitted / "model.pth").size == 64
    with pytest.raises(written["GlacierError"], match=r"not the model.pth of this solution"):
        written["load_model"](tmp_path / "model.pth")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "made").exists()


def test_the_code_is_clean_and_names_nothing_that_is_not_there(submitted):
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml"]
        done = subprocess.run(
            [*ruff, submitted / "solution.py"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    text = (submitted / "solution.py").read_text()
    assert "import glacier" not in text
    assert "from glacier" not in text


def numbered(tiles: Path, out: Path) -> Path:
    """The tiles as `img001.tif` … without a word on what is in them."""
    for folder in sorted(tiles.glob("Band*")):
        for number, path in enumerate(sorted(folder.iterdir()), start=1):
            with rasterio.open(path) as file:
                write_raster(out / folder.name / f"img{number:03d}.tif", file.read(), nodata=file.nodata)
    return out


def test_folders_tell_the_bands_where_files_do_not(submitted, tiles, tmp_path):
    plain = numbered(tiles, tmp_path / "plain")
    named = solution.maskgeration(tiles, submitted / "model.pth")
    masks = solution.maskgeration(plain, submitted / "model.pth")
    assert list(masks) == ["001", "002", "003"]
    assert list(named) == ["00_00", "00_01", "01_00"]
    for one, other in zip(masks.values(), named.values(), strict=True):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


def test_folders_may_be_called_anything_where_they_are_given_by_name(submitted, tiles, tmp_path):
    plain = numbered(tiles, tmp_path / "plain")
    places = {f"Band{i}": str((plain / f"Band{i}").rename(plain / f"x{i}")) for i in (5, 4, 3, 2, 1)}
    (tmp_path / "out").mkdir()
    shutil.copy(submitted / "model.pth", tmp_path / "out")
    masks = solution.maskgeration(places, tmp_path / "out")
    named = solution.maskgeration(tiles, submitted / "model.pth")
    for one, other in zip(masks.values(), named.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, mask in masks.items():
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / f"img{name}.tif"), mask)


def spoil_model(folder: Path, tiles: Path) -> list:
    (folder / "m.pth").write_bytes(b"no")
    return [tiles, folder / "m.pth"]


def spoil_tile(folder: Path, tiles: Path) -> list:
    copy = shutil.copytree(tiles, folder / "t")
    next((copy / "Band1").iterdir()).write_bytes(b"II*\0")
    return [copy, "model.pth"]


def remove_one(folder: Path, tiles: Path) -> list:
    copy = shutil.copytree(tiles, folder / "t")
    next((copy / "Band3").iterdir()).unlink()
    return [copy, "model.pth"]


def remove_band(folder: Path, tiles: Path) -> list:
    copy = shutil.copytree(tiles, folder / "t")
    shutil.rmtree(copy / "Band4")
    return [copy, "model.pth"]


def cut_short(folder: Path, tiles: Path) -> list:
    copy = shutil.copytree(tiles, folder / "t")
    path = copy / "Band1" / "B2_B2_masked_00_01.tif"
    path.write_bytes(path.read_bytes()[:-5000])
    return [copy, "model.pth"]


def other_size(folder: Path, tiles: Path) -> list:
    copy = shutil.copytree(tiles, folder / "t")
    shutil.copy(copy / "Band1" / "B2_B2_masked_01_00.tif", copy / "Band1" / "B2_B2_masked_00_00.tif")
    return [copy, "model.pth"]


LANDSAT7 = {"blue": "B1", "green": "B2", "red": "B3", "swir1": "B5", "thermal": "B6"}


@pytest.mark.parametrize("first", [[], [1]])
def test_bands_are_found_by_folder_whatever_they_were_called_in_training(runs, tiles, tmp_path, first):
    """B2 is blue on Landsat 8, which the tiles are of, and green on Landsat 7."""
    five, others = load_run(runs[0]), [load_run(runs[i]) for i in first]
    old = replace(five, bands=tuple(replace(band, code=LANDSAT7[band.name]) for band in five.bands))
    write_submission([*others, five], tmp_path / "new", tta=False)
    write_submission([old, *others], tmp_path / "old", tta=False)
    new, old = (solution.maskgeration(tiles, tmp_path / name / "model.pth") for name in ("new", "old"))
    assert len(new) == 3
    for tile, mask in new.items():
        np.testing.assert_array_equal(old[tile], mask)


def test_masks_are_not_written_over_bands(submitted, tiles, tmp_path):
    copy = shutil.copytree(tiles, tmp_path / "t")
    before = {path: path.read_bytes() for path in copy.glob("*/*")}
    (tmp_path / "link").symlink_to(copy / "Band1")
    shutil.copy(submitted / "model.pth", copy / "Band2")
    model = submitted / "model.pth"
    for given in ((model, copy / "Band1"), (model, tmp_path / "link"), (copy / "Band2", None)):
        with pytest.raises(GlacierError, match="bands lie there; expected another folder"):
            solution.maskgeration(copy, *given)
    (copy / "Band2" / "model.pth").unlink()
    assert {path: path.read_bytes() for path in copy.glob("*/*")} == before


@contextmanager
def disk_of(room: int) -> Iterator[None]:
    """No file may become larger than `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_no_part(runs, submitted, tiles, tmp_path, call, monkeypatch):
    out = tmp_path / "masks"
    words = ["solution.py", tiles, submitted / "model.pth", "--output", out]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with disk_of(3000), pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
        solution.main()
    assert not list(out.glob("*.tif"))
    shutil.rmtree(out)
    with disk_of(10**6):
        assert "File too large" in one_line(call("export", runs[0], "sub", "--competition"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f, t: [t, "model.pth", "--output", __file__], "no folder for the masks (File exists)"),
        (lambda f, t: [t, f / "none.pth"], "none.pth: no such file; expected the model.pth"),
        (spoil_model, "m.pth: not the model.pth of this solution"),
        (lambda f, t: [f, "model.pth"], "no tile; expected folders Band1, Band2, … of GeoTIFFs"),
        (spoil_tile, "cannot be read as a TIFF"),
        (remove_one, "no file for tile"),
        (remove_band, "no band swir1; it has"),
        (cut_short, "B2_B2_masked_00_01.tif: cannot be read by tifffile"),
        (other_size, "(108, 40) px, expected (128, 128)"),
    ],
)
def test_what_is_wrong_is_one_line(submitted, tiles, tmp_path, monkeypatch, capsys, make, words):
    given = make(tmp_path, tiles)
    given[1] = submitted / "model.pth" if given[1] == "model.pth" else given[1]
    monkeypatch.setattr(sys, "argv", ["solution.py", *map(str, given)])
    with pytest.raises(SystemExit) as stopped:
        solution.main()
    assert str(stopped.value).startswith("error: ")
    assert words in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_what_cannot_be_submitted_is_one_line(runs, tmp_path, call, monkeypatch):
    five, two, seven = runs
    line = one_line(call("export", five, seven, "sub", "--competition"))
    assert re.search(r"band glcm_\w+: in none of the competition's folders .*swir1.*data.bands", line)
    run = load_run(two)
    for name, role, code in (("nir", "optical", "B4"), ("elevation", "terrain", "B2"), ("x", "other", "x")):
        bands = (run.bands[0], replace(run.bands[1], name=name, role=role, code=code))
        with pytest.raises(GlacierError, match=f"band {name}: in none of"):
            write_submission([replace(run, bands=bands)], tmp_path / "sub", tta=False)
    assert "2 runs without --competition" in one_line(call("export", five, two, "x.safetensors"), 2)
    assert "--tta without --competition" in one_line(call("export", five, "x.safetensors", "--tta"), 2)
    words = ["export", five, "x.safetensors", "--weights"]
    assert "--weights mcc without --competition" in one_line(call(*words, "mcc"), 2)
    monkeypatch.setattr(submission, "LIMIT", 1e6)
    line = one_line(call("export", five, "sub", "--competition"))
    assert re.search(r"sub: \d+ MB of weights, expected less than 1; give fewer runs", line)
    with locked(tmp_path / "sub"):
        assert "another command is writing" in one_line(call("export", five, "sub", "--competition"))
    assert "cannot be written" in one_line(call("export", five, ".", "--competition"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to("elsewhere")
    assert "link: is a link; give a new" in one_line(call("export", five, "link", "--competition"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine").touch()
    assert "exists and is not empty" in one_line(call("export", five, "sub", "--competition"))


@pytest.mark.slow
def test_masks_in_a_bare_environment_are_those_of_predict(runs, mountains, tmp_path, call):
    """Of a tile of 512 px."""
    large = write_tiles(mountains, tmp_path / "tiles", "02_02")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    exact = [f"{name}=={version(name)}" for name in [*ALLOWED, OPENCV]]
    try:
        subprocess.run([python, "-m", "pip", "install", "-q", *exact], check=True)
        assert call("export", *runs[:2], "sub", "--competition").exit_code == 0
        words = [
            tmp_path / "sub/solution.py",
            large,
            tmp_path / "sub/model.pth",
            "--output",
            tmp_path / "masks",
        ]
        done = run_solution(words, python=[python])
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(tmp_path / "venv")
    assert call("predict", *runs[:2], large, "maps", "--fill", "background").exit_code == 0
    compare(masks_in(tmp_path / "masks"), masks_in(tmp_path / "maps"), (512, 512))
