"""`glacier demo` as a new user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image


@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_a_picture(tmp_path):
    command = [sys.executable, "-m", "glacier", "demo", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"picture: {Path('out') / 'demo.png'}"
    mcc = float(done.stdout.rsplit("MCC ", 1)[1].split(",")[0])
    assert mcc >= 0.80
    assert np.asarray(Image.open(tmp_path / "out" / "demo.png")).std() > 20
    with rasterio.open(tmp_path / "out" / "maps" / "scene_00.tif") as file:
        assert {0, 85, 170} <= set(np.unique(file.read(1)).tolist())
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    root = Path(__file__).parents[2]
    command = [*launch, str(root / "cli.py"), "train", "--set", "train.epochs=1"]
    done = subprocess.run(
        command, cwd=tmp_path / "out", env=env, capture_output=True, text=True, check=True
    )
    assert "2 x cpu" in done.stderr
    assert (tmp_path / "out" / "runs" / "mountains-1" / "best.pt").is_file()
