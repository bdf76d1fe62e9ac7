"""A submission maps as `glacier predict` does, with nothing but what the competition allows."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from functools import cache
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch

from glacier.config import Config, shipped
from glacier.maps import flatten, solution, submission
from glacier.maps.submission import write_submission
from glacier.maps.tiles import find_tiles, read_header, read_pixels
from glacier.scenes.band_folders import band_files
from glacier.scenes.files import read_bands
from glacier.train.loop import train
from glacier.train.ranks import Ranks
from glacier.train.segmenter import load_run
from tests.helpers import one_line, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, torch.device("cpu"))
BANDS = {"B2": "blue", "B3": "green", "B4": "red", "B6": "swir1", "B10": "thermal"}
SMALL = ["data.patch=64", "train.epochs=4", "train.batch=4", "train.samples_per_epoch=32"]
ALLOWED = ["torch", "torchvision", "tqdm", "pillow", "scikit-learn", "numpy", "tifffile"]
ALLOWED += ["segmentation-models-pytorch"]
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


@pytest.fixture(scope="module")
def large(mountains, tmp_path_factory) -> Path:
    """A tile of 512 px."""
    return write_tiles(mountains, tmp_path_factory.mktemp("large") / "tiles", "02_02")


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


def test_masks_are_those_of_predict(runs, large, tmp_path, call):
    assert call("export", *runs[:2], "sub", "--competition").exit_code == 0
    assert sorted(f.name for f in (tmp_path / "sub").iterdir()) == ["model.pth", "solution.py"]
    code, weights = tmp_path / "sub" / "solution.py", tmp_path / "sub" / "model.pth"
    done = run_solution([code, large, weights, "--output", tmp_path / "masks"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 masks\n"
    assert call("predict", *runs[:2], large, "maps", "--fill", "background").exit_code == 0
    compare(masks_in(tmp_path / "masks"), masks_in(tmp_path / "maps"), (512, 512))


@pytest.mark.parametrize(("chosen", "flags"), [([0], []), ([1, 0], ["--tta"])])
def test_so_are_those_of_one_run_and_of_symmetries(runs, tiles, tmp_path, call, chosen, flags):
    which = [runs[i] for i in chosen]
    assert call("export", *which, "sub", "--competition", *flags).exit_code == 0
    (tmp_path / "masks").mkdir()  # a folder: the weights lie beside the code
    written = runpy.run_path(tmp_path / "sub" / "solution.py")
    written["maskgeration"](tiles, tmp_path / "masks")
    assert call("predict", *which, tiles, "maps", "--fill", "background", *flags).exit_code == 0
    compare(masks_in(tmp_path / "masks"), masks_in(tmp_path / "maps"), (128, 128), (108, 40))


def test_nothing_else_can_be_imported(tmp_path):
    (tmp_path / "solution.py").write_text("import numpy\nimport rasterio\n")
    assert "No module named 'rasterio'" in run_solution([tmp_path / "solution.py"]).stderr


def test_weights_that_would_be_too_many_are_halved(runs, tiles, tmp_path, call, monkeypatch):
    """As those of an exported run are; that changes next to nothing."""
    monkeypatch.setattr(submission, "LIMIT", 3e6)
    write_submission([load_run(runs[0])], tmp_path / "sub", tta=False)
    record = torch.load(tmp_path / "sub" / "model.pth", weights_only=True)
    assert {v.dtype for v in record["members"][0]["weights"].values()} == {torch.float16, torch.int64}
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


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("img001.tif", "001"),
        ("B2_B2_masked_02_07.tif", "02_07"),
        ("B10_12_03.tif", "12_03"),
        ("Landsat_2019_02_07.tif", "02_07"),
        ("02_07_masked.TIF", "02_07"),
        ("B2_B2_masked_02_07_2020.tif", "02_07"),
    ],
)
def test_ids_of_tiles(tmp_path, name, tile):
    write_raster(tmp_path / "Band1" / name, np.ones((4, 4), np.uint16))
    code = name.split("_")[0] if name.startswith("B") else "Band1"
    (found,) = find_tiles(tmp_path, {"x": (code,)})
    assert (found.name, found.file) == (tile, name)


TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
KINDS = [
    (dtype, {**({"compress": compress} if compress else {}), **layout, **predictor})
    for dtype in ("uint8", "int16", "uint16", "int32", "float32")
    for compress in (None, "lzw", "deflate", "packbits")
    for layout in ({}, TILED)
    for predictor in ({}, {"predictor": 3 if dtype == "float32" else 2})
    if not predictor or compress in ("lzw", "deflate")
]


@pytest.mark.parametrize(("dtype", "options"), KINDS)
def test_files_are_read_as_the_package_reads_them(tmp_path, dtype, options):
    rng = np.random.default_rng(0)
    low = -40 if dtype[0] != "u" else 0
    pixels = rng.integers(low, 200 if dtype == "uint8" else 30_000, (40, 50)).astype(dtype)
    pixels[:5] = 7
    path = write_raster(tmp_path / "Band3" / "x_01_02.tif", pixels, nodata=7, names=["swir1"], **options)
    (named,) = band_files(path.parent, "Band3")
    _, (expected,) = read_bands(named)
    assert read_header(named) == expected
    read = read_pixels(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
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
    assert re.search(r"band glcm_\w+: texture, expected bands that lie in Band1, .*data.bands", line)
    assert "2 runs without --competition" in one_line(call("export", five, two, "x.safetensors"), 2)
    assert "--tta without --competition" in one_line(call("export", five, "x.safetensors", "--tta"), 2)
    monkeypatch.setattr(submission, "LIMIT", 1e6)
    line = one_line(call("export", five, "sub", "--competition"))
    assert re.search(r"sub: \d+ MB of weights, expected less than 1; give fewer runs", line)
    assert not list(tmp_path.iterdir())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine").touch()
    assert "exists and is not empty" in one_line(call("export", five, "sub", "--competition"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules to be flattened."""
    monkeypatch.setattr(flatten, "PACKAGE", "few")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "few", raising=False)
    flatten._read.cache_clear()

    def write(**modules: str) -> None:
        (tmp_path / "few").mkdir()
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / "few" / f"{name}.py").write_text(text)

    return write


BELOW = '''"""Below."""

import math
import os

LIMIT = 3
"""The most."""
UNUSED = os.sep


class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def up(self) -> int:
        """One more."""
        return self.step(1)

    def step(self, by: int) -> int:
        """Some more."""
        self.count = min(self.count + by, LIMIT)
        return self.count

    def root(self) -> float:
        """Nobody asks for it."""
        return math.sqrt(self.count)


def unused() -> str:
    return UNUSED
'''


def test_a_flattened_module_holds_what_it_needs_and_no_more(package):
    top = "from few.below import Counter\n\n\ndef main() -> int:\n    return Counter().up()\n"
    package(below=BELOW, top=f'"""Top."""\n\n{top}')
    text = flatten.flattened("few.top")
    space: dict = {}
    exec(text, space)
    assert space["main"]() == 1
    assert space["LIMIT"] == 3
    assert not {"unused", "UNUSED", "os", "math"} & set(space)
    assert not hasattr(space["Counter"], "root")
    assert text.startswith('"""Top."""\n')
    assert '"""The most."""' in text


def test_one_name_of_two_modules_is_refused(package):
    package(below=BELOW, top='"""Top."""\n\nfrom few.below import Counter\n\nLIMIT = Counter().up()\n')
    with pytest.raises(ValueError, match=r"LIMIT: defined in few.below and few.top; rename one"):
        flatten.flattened("few.top")


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("from few.below import Counter as C\n\nC()", "few.top: imports Counter as C"),
        ("import few.below as below\n\nbelow.Counter()", "few.top: imports few.below as below"),
        ("from math import sqrt as root\n\nroot(4)", "few.top: imports sqrt as root"),
        ("from few.below import Counter\nfrom os import path as math\n\nmath, Counter()", "path as math"),
        ("import statistics as math\nfrom few.below import Counter\n\nmath, Counter().root()", "math: "),
        ("from math import log as log\nfrom few.below import Counter\n\nLIMIT = log\nCounter", "LIMIT"),
    ],
)
def test_so_is_one_name_for_two_things(package, top, words):
    package(below=BELOW, top=f'"""Top."""\n\n{top}\n')
    with pytest.raises(ValueError, match=words):
        flatten.flattened("few.top")


@pytest.mark.slow
def test_masks_in_a_bare_environment_are_those_of_predict(runs, large, tmp_path, call):
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
