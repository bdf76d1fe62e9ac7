"""The notebook: stripped, of commands that exist, and run from top to bottom on the CPU."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import rasterio
from nbclient import NotebookClient

from glacier.cli import main
from glacier.config import Config, shipped
from glacier.maps.submission import FOLDERS
from glacier.scenes.bands import parse_selection
from glacier.store.reader import Store

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "kaggle.ipynb"


@pytest.fixture
def notebook():
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def commands(notebook):
    """Each glacier command of its shell cells, in words."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith(("%%bash", "%%writefile")):
            for line in cell.source.replace("\\\n", " ").splitlines():
                if found := re.search(r"(?:^|\s)glacier ((?!--version).*)", line):
                    yield shlex.split(found[1])


def test_it_is_stripped(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert cell.outputs == []


def test_its_commands_exist(notebook):
    found = list(commands(notebook))
    assert {words[0] for words in found} == {
        "synth", "ingest", "inspect", "train", "evaluate", "predict", "export"
    }  # fmt: skip
    for name, *words in found:
        known = {option for p in main.commands[name].params for option in p.opts}
        assert {word for word in words if word.startswith("--")} <= known, (name, words)


def test_its_shell_cells_know_the_parameters(notebook):
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (shared,) = re.findall(r"^SHARED = \((.*?)\)$", "\n".join(cells), re.S | re.M)
    names = set(re.findall(r'"(\w+)"', shared))
    used = {name for cell in cells if cell.startswith("%%") for name in re.findall(r"\$([A-Z_]+)", cell)}
    assert used == names


def cell(notebook, part):
    """The source of the one cell of code that holds `part`."""
    (found,) = [c.source for c in notebook.cells if c.cell_type == "code" and part in c.source]
    return found


@pytest.mark.parametrize(("name", "epochs"), [("PRETRAIN", 60), ("FOLDS", 150)])
def test_its_settings_are_those_of_shipped_configurations(notebook, name, epochs):
    """On two GPUs, and on one: there the same steps in pieces."""
    given: dict = {}
    exec(cell(notebook, "SYNTHETIC = False"), given)
    assert given[f"{name}_EPOCHS"] == epochs
    (pieces,) = re.findall(rf'{name} \+= "(.*)"', cell(notebook, "GPUS == 1"))
    sizes = set()
    for options in (given[name], given[name] + pieces):
        config, *more = re.findall(r"--(?:config|set) (\S+)", options)
        train = Config.load(shipped(config), [*more, f"train.epochs={epochs}"]).train
        sizes.add(train.batch * train.accumulate)
    assert len(sizes) == 1


def test_its_bands_are_those_of_the_release_and_of_a_submission(notebook):
    given: dict = {}
    exec(cell(notebook, "SYNTHETIC = False"), given)
    option, chosen = given["BANDS"].split()
    assert option == "--bands"
    named = {(keys[0], name) for name, keys in parse_selection(chosen).items()}
    assert named == {(code, name) for _, code, name in FOLDERS}
    assert {name for _, name in named} == set(
        re.findall(r'"(\w+)"', cell(notebook, "strange =").split("{")[1])
    )


BEGIN, GO_ON = "--out runs/a --init b", "--resume runs/a"
ELSEWHERE = "--resume before/runs/a --out runs/a"


@pytest.mark.parametrize(
    ("files", "how", "left"),
    [
        ([], BEGIN, False),
        (["runs/a/config.toml"], BEGIN, False),
        (["runs/a/last.pt"], GO_ON, True),
        (["runs/a/folds.toml", "before/runs/a/last.pt"], GO_ON, True),
        (["before/runs/a/folds.toml"], ELSEWHERE, False),
        (["runs/a/config.toml", "before/runs/a/last.pt"], ELSEWHERE, False),
        (["before/runs/a/config.toml"], BEGIN, False),
    ],
)
def test_runs_go_on_where_there_is_something_to_go_on_from(notebook, tmp_path, files, how, left):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    script = cell(notebook, "%%writefile train.sh").split("\n", 1)[1]
    program = f'torchrun() {{ echo "$@"; }}\n{script.replace("exec ", "")}\n'
    words = ["sh", "-c", program, "train.sh", "a", "s.zarr", "3", "9s", "--init", "b"]
    env = {**os.environ, "PREVIOUS": "before", "PROCESSES": "2"}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert f" glacier train {how} --store s.zarr --set train.epochs=3" in done.stdout
    assert (tmp_path / "runs" / "a").exists() == left


def test_a_rehearsal_leaves_the_rest_alone(notebook, tmp_path):
    """In one kernel: first the rehearsal, then the run; on Colab only the latter lies on the Drive."""
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "drive.py").write_text("def mount(place): pass\n")
    (tmp_path / "MyDrive").mkdir()
    colab = cell(notebook, "COLAB_RELEASE_TAG").replace("/content/drive", str(tmp_path))
    (tmp_path / "session").mkdir()
    program = ""
    for synthetic in (True, False):
        program += f"SYNTHETIC = {synthetic}\n{cell(notebook, 'SHARED = (')}\n{colab}\n"
        program += "print(Path.cwd(), Path('runs').is_symlink(), os.environ.get('CUDA_VISIBLE_DEVICES'))\n"
    parameters = cell(notebook, "SYNTHETIC = False")
    env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    env |= {"COLAB_RELEASE_TAG": "x", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", f"{parameters}\n{program}"],
        cwd=tmp_path / "session", env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith("/")]
    assert said == [f"{tmp_path / 'session' / 'rehearsal'} False ", f"{tmp_path / 'session'} True None"]


@pytest.fixture
def rehearsal(notebook):
    """The same notebook, asked for the rehearsal by its one parameter."""
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert parameters.source.count("SYNTHETIC = False") == 1
    parameters.source = parameters.source.replace("SYNTHETIC = False", "SYNTHETIC = True")
    return notebook


def environment(programs):
    """Variables of a machine on which glacier and torchrun are installed."""
    programs.mkdir()
    for name, module in {
        "python": "",
        "glacier": "-m glacier",
        "torchrun": "-m torch.distributed.run",
    }.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": path}


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(rehearsal, tmp_path):
    here = tmp_path / "working"
    here.mkdir()
    client = NotebookClient(
        rehearsal, timeout=900, kernel_name="python3", resources={"metadata": {"path": here}}
    )
    client.execute(env=environment(tmp_path / "bin"))
    shown = [output for cell in rehearsal.cells for output in cell.get("outputs", [])]
    said = "".join(output.text for output in shown if output.output_type == "stream")
    assert "stopped after 0 of 3 epochs and saved" in said  # the session before
    assert "runs/pretrained: goes on after 0 of 3 epochs and 1 steps" in said
    assert "mean ± sd" in said
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2 + 2 + 4
    assert "warning: --init" not in said
    assert [path.name for path in here.iterdir()] == ["rehearsal"]
    here /= "rehearsal"
    with Store(here / "hkh.zarr") as release, Store(here / "tiles.zarr") as tiles:
        assert release.meta.tile_size == 128
        assert tiles.meta.band_names == release.meta.band_names
    assert len(list((here / "runs" / "folds").glob("fold-*/best.pt"))) == 5
    maps = sorted((here / "maps").glob("*.tif"))
    assert len(maps) == 4
    for path in maps:
        with rasterio.open(path) as file:
            assert set(np.unique(file.read(1)).tolist()) <= {0, 85, 170, 255, file.nodata}
    assert {path.name for path in (here / "submission").iterdir()} == {"solution.py", "model.pth"}
    assert "vCPUs: " in (here / "machine.txt").read_text()


def test_bars_stay_out_of_notebooks():
    """Kernels set FORCE_COLOR: each frame of a bar would be kept as a line."""
    code = "from glacier import console\nwith console.bar('x', 9) as done: done()"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
