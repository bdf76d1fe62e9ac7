"""The HKH release as its users meet it: the page's commands, the three commands, and a large stream."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from glacier.store.reader import Store

ROOT = Path(__file__).resolve().parents[2]


def in_a_shell(command, folder):
    """A command of the documentation, as it stands there, in a clone's root."""
    name, *rest = shlex.split(command)
    program = {
        "glacier": [sys.executable, "-m", "glacier"],
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }[name]
    done = subprocess.run(
        [*program, *rest], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout + done.stderr


def test_the_pages_commands_run_on_the_release_in_small(tmp_path):
    page = (ROOT / "docs" / "hkh.md").read_text()
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", page, re.S) if "synth" in b]
    for command in block.strip().splitlines():
        in_a_shell(command, tmp_path)
    with Store(tmp_path / "hkh.zarr") as store:
        assert len(store) == 24


@pytest.mark.slow
def test_the_three_commands_on_the_release(tmp_path):
    for name in ("cli.py", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    in_a_shell("glacier synth hkh --layout hkh", tmp_path)
    in_a_shell("glacier ingest hkh/", tmp_path)
    assert "MCC" in in_a_shell("torchrun --nproc_per_node 2 cli.py train --set train.epochs=2", tmp_path)
    assert "reader" in in_a_shell("python benchmarks/throughput.py --rounds 1", tmp_path)


@pytest.mark.slow
def test_a_long_stream_takes_little_memory(tmp_path):
    from benchmarks.hkh import patches, run, stream

    made = patches(tmp_path / "made")
    command = [sys.executable, "-m", "glacier", "ingest", "-", "--workers", "4"]
    assert run(command, stream(made, 4e9), tmp_path)["peak_mib"] < 1024
    with Store(tmp_path / "hkh.zarr") as store:
        assert len(store) > 200
