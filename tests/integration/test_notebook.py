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
    with Store(here / "hkh.zarr") as store:
        assert store.meta.tile_size == 128
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
