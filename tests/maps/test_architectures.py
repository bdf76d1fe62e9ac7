"""Maps by networks of other kinds than the U-Net: together, at any size of window, told where these lie."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from pyproj import Transformer
from torch import nn

from glacier.maps import blend
from glacier.maps.command import MapRequest, predict_all
from glacier.maps.predict import predict
from glacier.maps.rows import order_of, pieces_of, places_of
from glacier.maps.source import SceneSource
from glacier.model.glavitu import POSITIONS
from glacier.pipeline.buffer import Window
from glacier.scenes.layouts import find_scenes
from glacier.scenes.read import gdal_settings
from glacier.train.members import gather
from glacier.train.segmenter import load_run
from tests.helpers import NORTH_UP, cut_tile, one_line, untrained, write_raster

GLAVITU = ['model.arch="glavitu"', "data.patch=32"]
LOCAL = 'LOCAL_CS["mine",UNIT["metre",1]]'


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """A U-Net, GlaViTU, and one that is told where windows lie; of different bands, windows and MCC."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "unet": (0.6, ["data.patch=64", 'data.bands=["blue", "swir1"]']),
        "glavitu": (0.2, [*GLAVITU, 'data.bands=["thermal", "blue"]']),
        "located": (0.2, [*GLAVITU, "model.location=true", 'data.bands=["swir1"]']),
    }
    return {
        name: untrained(store, folder / name, *given, mcc=mcc, temperature=1.5)
        for name, (mcc, given) in settings.items()
    }


@pytest.fixture(scope="module")
def scene(mountains, tmp_path_factory):
    """A scene of 32 px."""
    return cut_tile(mountains, "00_01", tmp_path_factory.mktemp("scene") / "in", size=32)


def shares_of(runs, source, out, *, window=32, **options):
    """Probabilities (C, H, W)."""
    request = MapRequest(runs=runs, source=source, out=out, window=window, shares="float16", **options)
    (path,) = predict_all(request)
    with rasterio.open(out / "probabilities" / path.name) as file:
        return file.read(out_dtype="float32")


def values_of(source, run):
    """A run's bands of the only scene by rasterio (1, B, H, W), NaN without data; and what tells places."""
    (scene,) = find_scenes(source, labelled=False, bands=gather([run]).selection)
    planes = []
    for band in scene.bands:
        with rasterio.open(band.path) as file:
            planes.append(file.read(band.index, masked=True).astype(np.float32).filled(np.nan))
            crs, transform = file.crs, file.transform
    degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    return torch.from_numpy(np.stack(planes))[None], lambda x, y: degrees(*(transform @ (x, y)))


def by_hand(path, source, *, window=32, place=None):
    """The softmax (C, 32, 32) of what a run's own network says of one window at the scene's corner."""
    run = load_run(path)
    values, degrees = values_of(source, run)
    beyond = window - 32
    padded = nn.functional.pad(values, (0, beyond, 0, beyond), value=torch.nan)
    network = gather([run]).ensemble(tta=False).members[0]
    told = torch.tensor([place or degrees(window / 2, window / 2)]).float()
    with torch.inference_mode():
        return network(padded, told).softmax(dim=1)[0, :, :32, :32].numpy()


def compare(found, expected):
    held = ~np.isnan(found)
    assert held.mean() > 0.5
    assert expected[:, held[0]].std() > 0.05
    np.testing.assert_allclose(found[held], expected[held], atol=5e-4)


@pytest.mark.parametrize(("weights", "counts"), [("equal", (0.5, 0.5)), ("mcc", (0.75, 0.25))])
def test_networks_of_two_kinds_say_the_weighted_mean_of_their_softmax(
    runs, scene, tmp_path, weights, counts
):
    two = [runs["unet"], runs["glavitu"]]
    found = shares_of(two, scene, tmp_path / "maps", weights=weights)
    compare(found, sum(count * by_hand(run, scene) for count, run in zip(counts, two, strict=True)))


def test_maps_by_other_weights_are_refused(call, runs, scene):
    words = ["predict", runs["unet"], runs["glavitu"], scene, "maps", "--window", "32"]
    assert "1 map;" in call(*words).stderr
    assert "was not made by these runs" in one_line(call(*words, "--weights", "mcc"))


def test_positions_are_interpolated_to_other_windows_than_those_of_training(runs, scene, tmp_path):
    """As by a network of the windows' size, whose positions are interpolated beforehand."""
    run = load_run(runs["glavitu"])
    learnt = 50 * run.weights[POSITIONS]  # or they would hardly matter
    after = nn.functional.interpolate(learnt, (4, 4), mode="bicubic", align_corners=False)
    assert learnt.shape[-2:] == (2, 2)
    larger = replace(run.config, data=replace(run.config.data, patch=64))
    for name, config, positions in (("own", run.config, learnt), ("larger", larger, after)):
        (tmp_path / name).mkdir()
        weights = {**run.weights, POSITIONS: positions}
        replace(run, config=config, weights=weights).save(tmp_path / name)
    found = shares_of([tmp_path / "own"], scene, tmp_path / "maps", window=64)
    compare(found, by_hand(tmp_path / "larger", scene, window=64))


def test_a_run_is_told_where_windows_lie(runs, scene, tmp_path):
    expected = by_hand(runs["located"], scene)
    compare(shares_of([runs["located"]], scene, tmp_path / "alone"), expected)
    elsewhere = by_hand(runs["located"], scene, place=(-70.0, -50.0))
    assert np.abs(elsewhere - expected).max() > 0.05
    both = (expected + by_hand(runs["unet"], scene)) / 2
    compare(shares_of([runs["unet"], runs["located"]], scene, tmp_path / "both"), both)


class Told(nn.Module):
    """A network that says where it is told its windows lie."""

    located = True

    def forward(self, raw, place):
        return place[:, :, None, None].expand(-1, -1, *raw.shape[-2:])


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326"])
@pytest.mark.parametrize("batch", [1, 3])
def test_each_window_is_told_its_own_place(tmp_path, crs, batch):
    """Two scenes by windows that two ranks need, some in one batch: the blend of pyproj's places."""
    size, world = 32, 2
    turned = (NORTH_UP if crs == "EPSG:32645" else Affine(1e-2, 0, 86, 0, -1e-2, 28)) @ Affine.rotation(20)
    for name, shape in (("a", (150, 90)), ("b", (20, 40))):
        pixels = np.ones(shape, np.uint16)
        write_raster(tmp_path / f"{name}_red.tif", pixels, crs=crs, transform=turned)
    scenes = find_scenes(tmp_path, labelled=False)
    grids = [scene.grid for scene in scenes]
    order, rows = order_of(grids, size)
    places = torch.tensor(places_of(scenes, order, size)).float()
    by_rank = [pieces_of(grids, size, rows, len(order), rank, world) for rank in range(world)]
    numbers = [number for pieces in by_rank for piece in pieces for number in piece.windows]
    assert len(numbers) > len(set(numbers)) == len(order)
    found = [np.zeros((2, 0, grid.width)) for grid in grids]
    for pieces in by_rank:
        source = SceneSource(scenes)
        with gdal_settings(scenes):
            for piece, strip in predict(
                Told(), source, order, pieces, window=Window(size, 1, "float32"), classes=2, batch=batch,
                device=torch.device("cpu"), places=places, shares=True, done=lambda: None,
            ):  # fmt: skip
                found[piece.scene] = np.concatenate((found[piece.scene], strip.shares), axis=1)
            source.close()
    degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    for grid, mapped in zip(grids, found, strict=True):
        expected = np.zeros((2, max(size, grid.height), max(size, grid.width)))
        for y, v in zip(blend.corners(grid.height, size), blend.weights(grid.height, size), strict=True):
            for x, w in zip(blend.corners(grid.width, size), blend.weights(grid.width, size), strict=True):
                place = degrees.transform(*(turned @ (x + size / 2, y + size / 2)))
                square = (..., slice(y, y + size), slice(x, x + size))
                expected[square] += np.array(place)[:, None, None] * np.outer(v, w)
        np.testing.assert_allclose(mapped, expected[:, : grid.height, : grid.width], atol=2e-5)


@pytest.mark.parametrize("crs", [None, LOCAL])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_without_a_place_is_refused_by_a_run_that_asks_for_it(call, runs, tmp_path, crs):
    for band in ("blue", "swir1"):
        write_raster(tmp_path / "in" / f"s_{band}.tif", np.full((40, 40), 900, np.uint16), crs=crs)
    for asked in (["located"], ["unet", "located"]):
        line = one_line(call("predict", *(runs[name] for name in asked), "in", "maps"))
        assert "scene s has no CRS that lies on the earth, expected one" in line
        assert "(model.location); give the scene one with `gdal_edit -a_srs`" in line
    assert not (tmp_path / "maps").exists()
    assert "1 map;" in call("predict", runs["unet"], "in", "maps").stderr


def test_a_solution_that_would_have_to_know_where_tiles_lie_is_refused(call, runs, tmp_path):
    line = one_line(call("export", runs["unet"], runs["located"], "sub", "--competition"))
    assert "model.location: a run is told where windows lie" in line
    assert not list(tmp_path.iterdir())
