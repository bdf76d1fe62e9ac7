"""A scene of 6 000 x 6 000 px: bounded memory, no seams, one rank's map is two ranks' map."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo.cogeo import cog_validate

from glacier.maps.blend import corners
from glacier.maps.command import MapRequest, predict_all
from glacier.scenes.layouts import find_scenes
from glacier.synth.write import write_synthetic
from glacier.train.members import gather
from glacier.train.segmenter import load_run
from tests.helpers import write_raster

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the demo trains: tiles of 128 px."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = [*on_cores(1), sys.executable, "-m", "glacier", "demo", out]
    subprocess.run(command, check=True, capture_output=True)
    return out / "run"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A synthetic scene of 1 500 px, mirrored to 6 000."""
    folder = tmp_path_factory.mktemp("large")
    write_synthetic(folder / "small", layout="scenes", seed=31, count=1, size=1500)
    for file in (folder / "small").rglob("*.tif"):
        with rasterio.open(file) as small:
            pixels = np.pad(small.read(), ((0, 0), (0, 4500), (0, 4500)), mode="symmetric")
            write_raster(
                folder / "scene" / file.relative_to(folder / "small"), pixels, nodata=small.nodata,
                transform=small.transform, crs=small.crs, names=[name or "" for name in small.descriptions],
            )  # fmt: skip
    return folder / "scene"


@pytest.fixture(scope="module")
def mapped(run, scene, tmp_path_factory):
    """The map by one rank, a process of its own on one core; and the most memory that took, bytes."""
    out = tmp_path_factory.mktemp("maps") / "one"
    command = [*on_cores(1), sys.executable, "-m", "glacier", "predict", run, scene, out, "--window", "256"]
    timed = f"import resource, subprocess; subprocess.run({list(map(str, command))!r}, check=True); "
    timed += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
    (path,) = out.glob("*.tif")
    print(done.stderr, f"{int(done.stdout) / 1024:.0f} MiB")
    return path, int(done.stdout) * 1024


def on_cores(count):
    """One thread for each rank: sums depend on how many threads add them up."""
    return ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))]


def pixels(path):
    with rasterio.open(path) as file:
        return file.read(1)


def test_memory_stays_below_2_gib(mapped):
    path, peak = mapped
    assert peak < 2 * 2**30
    with rasterio.open(path) as file:
        assert file.shape == (6000, 6000)
        assert file.overviews(1) == [2, 4, 8, 16]
    assert cog_validate(path, strict=True, quiet=True)[0]


def test_classes_change_along_the_borders_of_windows_no_more_than_elsewhere(mapped):
    found = pixels(mapped[0])
    borders = {x for start in corners(6000, 256) for x in (start, start + 256)} - {0, 6000}
    at = np.array(sorted(borders)) - 1
    for turned in (found, found.T):
        rate = (turned[:, 1:] != turned[:, :-1]).mean(axis=0)
        elsewhere = np.delete(rate, at)
        noise = elsewhere.std() / len(at) ** 0.5
        print(rate[at].mean(), elsewhere.mean(), noise)
        assert rate[at].mean() < elsewhere.mean() + 2 * noise


def test_one_rank_makes_what_two_make(run, scene, mapped, tmp_path):
    command = [*on_cores(2), sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [ROOT / "cli.py", "predict", run, scene, tmp_path / "two", "--window", "256"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (tmp_path / "two" / mapped[0].name).read_bytes() == mapped[0].read_bytes()


@pytest.mark.parametrize(("window", "agree"), [(128, 0.97), (256, 0.99), (512, 0.99)])
def test_windows_agree_with_one_look_at_the_whole_image(run, tmp_path, window, agree):
    """scSE pools over its window, so smaller ones differ more."""
    write_synthetic(tmp_path / "in", layout="scenes", seed=21, count=1, size=1024)
    (path,) = predict_all(
        MapRequest(runs=[run], source=tmp_path / "in", out=tmp_path / "maps", window=window)
    )
    members = gather([load_run(run)])
    (scene,) = find_scenes(tmp_path / "in", labelled=False, bands=members.selection)
    planes = []
    for band in scene.bands:
        with rasterio.open(band.path) as file:
            planes.append(file.read(band.index, masked=True).astype(np.float32).filled(np.nan))
    network = members.ensemble(tta=False)
    with torch.inference_mode():
        whole = network(torch.from_numpy(np.stack(planes))[None])[0].argmax(dim=0).numpy()
    found, held = pixels(path), pixels(path) != 254
    share = (found == np.array([c.value for c in members.classes])[whole])[held].mean()
    print(window, share)
    assert share >= agree
