"""Synthetic mountains: seeded, georeferenced, with every class and something to learn."""

import hashlib

import numpy as np
import pytest
import rasterio

from glacier.errors import GlacierError, UsageError
from glacier.scenes.layouts import find_scenes
from glacier.synth.terrain import drainage, elevation
from glacier.synth.write import LAKES, synthesise, write_synthetic


@pytest.fixture(scope="module")
def scene():
    return synthesise(7, 384, 384)


def digest(folder):
    files = sorted(f for f in folder.rglob("*.tif"))
    return hashlib.sha256(b"".join(rasterio.open(f).read().tobytes() for f in files)).hexdigest()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_same_seed_gives_the_same_pixels(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic(tmp_path / name, layout="bands", seed=seed, count=1, size=96)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_classes_occur_in_the_shares_that_make_the_task(scene):
    share = {v: float((scene.label == v).mean()) for v in (0, 85, 170, 255)}
    assert sum(share.values()) == pytest.approx(1)
    assert 0.3 < share[0] < 0.85
    assert 0.1 < share[85] < 0.6
    assert 0.02 < share[170] < 0.3
    assert 0.5 * LAKES < share[255] < 3 * LAKES


def test_debris_looks_like_rock_and_is_colder(scene):
    """Within a standard deviation in every optical band, further apart in the thermal one."""
    bands = {name: band.astype(float) for name, band in scene.view.bands.items()}
    held = bands["red"] > 0
    rock, debris = held & (scene.label == 0), held & (scene.label == 170)

    def apart(name):
        a, b = bands[name][rock], bands[name][debris]
        return abs(a.mean() - b.mean()) / np.hypot(a.std(), b.std())

    assert max(apart(name) for name in ("blue", "green", "red", "swir1")) < 0.7
    assert bands["thermal"][debris].mean() < bands["thermal"][rock].mean()


def test_clouds_blot_out_every_band(scene):
    gone = scene.view.bands["blue"] == 0
    assert 0 < gone.mean() < 0.1
    assert all(((band == 0) == gone).all() for band in scene.view.bands.values())
    assert all((np.isnan(field) == gone).all() for field in scene.view.glcm.values())


def test_water_and_ice_leave_every_hollow():
    height = elevation(np.random.default_rng(0), (96, 96))[::4, ::4]
    downstream, order = drainage(height)
    assert sorted(order.tolist()) == list(range(height.size))
    cell = np.arange(height.size)
    for _ in range(height.size):
        cell = downstream[cell]
    rows, columns = np.divmod(cell, height.shape[1])
    border = (rows == 0) | (columns == 0) | (rows == height.shape[0] - 1) | (columns == height.shape[1] - 1)
    assert border.all()


@pytest.mark.parametrize(("layout", "count"), [("bands", 5), ("scenes", 2)])
def test_layouts_are_read_back(tmp_path, layout, count):
    write_synthetic(tmp_path / "s", layout=layout, seed=0, count=count, size=64)
    scenes = find_scenes(tmp_path / "s")
    assert len(scenes) == count
    names = ["blue", "green", "red", "swir1", "thermal", "glcm_contrast", "glcm_homogeneity"]
    assert all([band.name for band in scene.bands] == names for scene in scenes)
    assert all("32645" in scene.grid.crs and scene.label for scene in scenes)
    assert len({tuple(scene.grid.transform) for scene in scenes}) == count


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(GlacierError, match="exists; give a new folder"):
        write_synthetic(tmp_path, layout="bands", seed=0, count=1, size=64)
    with pytest.raises(UsageError, match="at least 64 px"):
        write_synthetic(tmp_path / "s", layout="bands", seed=0, count=1, size=32)
    assert not (tmp_path / "s").exists()
