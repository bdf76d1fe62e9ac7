"""`glacier glcm` and what `glacier ingest` makes of its rasters."""

import re
import resource
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from filelock import FileLock
from rasterio.errors import NotGeoreferencedWarning

from glacier import texture_rasters
from glacier.errors import GlacierError
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.glcm import FEATURES, grey_levels, texture
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.synth.write import write_synthetic
from glacier.texture_rasters import Settings
from glacier.textures import write_textures
from tests.helpers import NORTH_UP, one_line, write_raster

NIR = {"nir": ("nir",)}
TWO = Settings(("contrast", "entropy"), window=5, levels=16)


def pixels(seed, size=64):
    """Rough DNs from 1 to some thousands, more with each seed; a corner without data."""
    rng = np.random.default_rng(seed)
    values = (rng.random((size, size)) * 500 * (seed + 1)).cumsum(1) % 4000 + 1
    values[:9, :11] = 0
    return values.astype(np.uint16)


def write_scenes(folder, *places):
    """Scenes of a red and a nir band and a label at `places`, paths that lack `_BAND.tif`."""
    for seed, place in enumerate(places):
        for band in ("red", "nir"):
            path = folder / f"{place}_{band}.tif" if place[-1] != "/" else folder / place / f"{band}.tif"
            write_raster(path, pixels(seed), nodata=0)
        label = path.with_name(path.name.replace("nir", "label"))
        write_raster(label, np.full((64, 64), 85, np.uint8))
    return folder


def write_tiles(folder):
    """Two competition tiles."""
    for seed, tile in enumerate(("02_07", "02_10")):
        for number, code in ((1, "B4"), (2, "B5")):
            write_raster(
                folder / f"Band{number}" / f"{code}_{code}_masked_{tile}.tif", pixels(seed), nodata=0
            )
        write_raster(folder / "label" / f"Y_{tile}.tif", np.full((64, 64), 85, np.uint8))
    return folder


def make(source, out, settings=TWO, band="nir", **more):
    scenes = find_scenes(source, labelled=False, textured=False, bands={band: (band,)})
    return write_textures(scenes, out, settings, **more)


def expected(values, bounds, settings=TWO):
    grey = grey_levels(np.where(values > 0, values, np.nan), *bounds, settings.levels)
    return texture(grey, settings.features, levels=settings.levels, window=settings.window)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), SimpleNamespace(tags=file.tags(), profile=file.profile)


SOURCES = {
    "files": lambda folder: write_scenes(folder, "a", "b"),
    "folders": lambda folder: write_scenes(folder, "a/", "b/"),
    "one name twice": lambda folder: write_scenes(folder, "a/2020/", "b/2020/"),
    "stacks in folders": lambda folder: write_scenes(folder, "a/x", "b/x"),
    "a name that is also a folder's": lambda folder: write_scenes(folder, "a/x", "x/"),
    "one above the other": lambda folder: write_scenes(folder, "a", "below/a_b"),
    "words of labels": lambda folder: write_scenes(folder, "mask_1/", "qa_2/"),
    "tiles": write_tiles,
}


@pytest.mark.parametrize("where", ["beside", "below", "elsewhere"])
@pytest.mark.parametrize("layout", SOURCES)
def test_what_is_written_is_ingested_as_a_band_of_its_scene(tmp_path, layout, where):
    source = SOURCES[layout](tmp_path / "in")
    out = {"beside": source, "below": source / "made", "elsewhere": tmp_path / "far"}[where]
    band = "B5" if layout == "tiles" else "nir"
    report = make(source, out, band=band)
    assert (report.written, report.kept) == (4, 0)
    pattern = {"beside": "", "below": "made/**/*.tif", "elsewhere": str(out / "*" / "*.tif")}[where]
    scenes = find_scenes(source, glcm=pattern)
    assert [b.name for b in scenes[0].bands][-2:] == ["glcm_contrast", "glcm_entropy"]
    ingest(source, scenes, tmp_path / "s.zarr", Options(tile_size=64, folds=2, classes="0=rock,85=ice"))
    store = Store(tmp_path / "s.zarr")
    assert len(store) == 2
    scene_of = {scene.name: scene for scene in scenes}
    for tile, number in enumerate(store.array("scene")):
        scene = scene_of[store.scene_names[number]]
        nir = next(b for b in scene.bands if b.name == band)
        wanted = expected(read(nir.path)[0], report.range)
        for b, stored in enumerate(store.meta.bands):
            if stored.role == "texture":
                values, truth = stored.unpack(store.image(tile)[..., b]), wanted[stored.name[5:]]
                np.testing.assert_array_equal(np.isnan(values), np.isnan(truth))
                assert np.nanmax(np.abs(values - truth)) <= stored.bound * (1 + 1e-6)


def test_all_scenes_are_cut_into_levels_alike(tmp_path):
    """The range is that of all valid pixels of the source, without the last percent on either side."""
    source = write_scenes(tmp_path / "in", "a", "b")
    values = [pixels(seed) for seed in (0, 1)]
    low, high = np.percentile(np.concatenate([v[v > 0] for v in values]), (1, 99))
    assert make(source, tmp_path / "out").range == (low, high)
    for name, scene in zip("ab", values, strict=True):
        for feature, truth in expected(scene, (low, high)).items():
            found, file = read(tmp_path / "out" / f"GLCM_{feature}" / f"{name}.tif")
            np.testing.assert_array_equal(found, truth)
            tags = {key[5:].lower(): text for key, text in file.tags.items() if key[:5] == "GLCM_"}
            assert tags.pop("source").startswith(f"{name}_nir.tif, band 1")
            assert tags == {
                "feature": feature, "band": "nir", "range": f"{low},{high}", "levels": "16", "window": "5",
                "distance": "1", "angles": "mean of 0, 45, 90, 135 degrees",
            }  # fmt: skip


@pytest.mark.parametrize("window", [3, 31])
def test_blocks_are_as_the_whole(tmp_path, monkeypatch, window):
    values = pixels(1, 150)[:, :110]
    rotated = NORTH_UP @ Affine.rotation(30)
    write_raster(tmp_path / "in" / "s_nir.tif", values, nodata=0, transform=rotated)
    monkeypatch.setattr(texture_rasters, "BLOCK", 48)
    settings = Settings(FEATURES if window == 3 else ("homogeneity",), window=window, levels=32)
    report = make(tmp_path / "in", tmp_path / "out", settings)
    for feature, truth in expected(values, report.range, settings).items():
        found, file = read(tmp_path / "out" / f"GLCM_{feature}" / "s.tif")
        np.testing.assert_array_equal(found, truth)
        assert file.profile["transform"].almost_equals(rotated)
        assert file.profile["crs"].to_epsg() == 32645
        assert (file.profile["dtype"], file.profile["tiled"]) == ("float32", True)
        assert np.isnan(file.profile["nodata"])


def test_a_band_of_floats_without_a_place_on_the_ground(tmp_path):
    values = pixels(0).astype(np.float32) / 4000
    values[20:30] = np.nan
    values[40] = -np.inf
    with pytest.warns(NotGeoreferencedWarning):
        write_raster(tmp_path / "in" / "s_nir.tif", values, crs=None, transform=Affine.identity())
    make(tmp_path / "in", tmp_path / "out", bounds=(0, 1))
    values[40] = np.nan
    with pytest.warns(NotGeoreferencedWarning):
        found, file = read(tmp_path / "out" / "GLCM_contrast" / "s.tif")
    grey = grey_levels(values, 0, 1, 16)
    np.testing.assert_array_equal(found, texture(grey, ("contrast",), levels=16, window=5)["contrast"])
    assert not file.profile["crs"]


def test_the_same_again_does_nothing_and_more_scenes_keep_the_range(tmp_path):
    source = write_scenes(tmp_path / "in", "a")
    first = make(source, source)
    before = {file: file.stat().st_mtime_ns for file in source.rglob("GLCM*/*")}
    assert make(source, source).written == 0
    write_scenes(source, "a2", "b", "c")
    more = make(source, source, workers=2)
    assert (more.written, more.kept, more.range) == (6, 2, first.range)
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda source: {"bounds": (0.0, 9.0)}, "GLCM_RANGE .*, expected 0.0,9.0"),
        (lambda source: {"settings": Settings(TWO.features, levels=16)}, "GLCM_WINDOW 5, expected 7"),
        (lambda source: {"band": "red"}, "GLCM_BAND nir, expected red"),
        (lambda source: write_scenes(source, "b", "a") and {}, "GLCM_SOURCE a_nir.tif"),
        (
            lambda source: write_raster(source / "GLCM_entropy" / "a.tif", pixels(0)) and {},
            "GLCM_BAND not told, expected nir",
        ),
        (
            lambda source: (source / "GLCM_entropy" / "a.tif").write_bytes(b"II*") and {},
            "GLCM_BAND not told, expected nir",
        ),
    ],
)
def test_what_was_made_otherwise_is_named_and_kept(tmp_path, change, words):
    source = write_scenes(tmp_path / "in", "a")
    make(source, source)
    more = change(source)
    before = {file: file.read_bytes() for file in source.rglob("GLCM*/*")}
    with pytest.raises(GlacierError, match=f"GLCM_.*/a.tif: {words}.*--overwrite"):
        make(source, source, **more)
    assert {file: file.read_bytes() for file in source.rglob("GLCM*/*")} == before
    assert make(source, source, overwrite=True, **more).written >= 1
    assert make(source, source, **more).written == 0


def test_a_raster_is_whole_or_not_there(tmp_path):
    """Files may not grow beyond some kilobytes, as on a full disk; then the same command ends well."""
    source = write_scenes(tmp_path / "in", "a", "b")
    words = [sys.executable, "-m", "glacier", "glcm", source, tmp_path / "out", "--band", "nir"]

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    stopped = subprocess.run([*words, "--workers", "1"], preexec_fn=full, capture_output=True, text=True)
    assert stopped.returncode == 1, stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in stopped.stderr
    assert not [f for f in (tmp_path / "out").rglob("*") if f.is_file() and f.name != ".glcm.lock"]
    (tmp_path / "out" / "GLCM_contrast" / ".a.tif.partial").write_bytes(b"of one that was killed")
    subprocess.run(words, check=True)
    assert not list((tmp_path / "out").rglob("*.partial"))
    report = make(source, tmp_path / "out", Settings(("contrast", "homogeneity")))
    assert (report.written, report.kept) == (0, 4)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--band B9", 2, "scene a: no band B9; it has .*, nir, red"),
        ("--band nir --features contrast,shade", 2, "--features: shade, expected some of contrast,"),
        ("--band nir --features contrast,contrast", 2, "--features: contrast,contrast, expected .* once"),
        ("--band nir --window 6", 2, "--window: 6, expected an odd number"),
        ("--band nir --levels 1", 2, "--levels: 1, expected 2 to 256"),
        ("--band nir --range 5", 2, "--range: '5', expected LOW,HIGH"),
        ("--band nir --range 5,5", 2, "--range: '5,5', expected LOW,HIGH"),
        ("--band nir --range 0,nan", 2, "--range: '0,nan', expected LOW,HIGH"),
        ("--band flat", 1, "band flat: nearly all pixels are 3; say with --range"),
        ("--band empty", 1, "band empty: no pixel of 1 scenes holds data"),
    ],
)
def test_errors_are_one_line(call, tmp_path, words, code, said):
    write_scenes(tmp_path / "in", "a")
    write_raster(tmp_path / "in" / "a.tif", np.stack([pixels(0) * 0 + 3, pixels(0) * 0]), nodata=0,
                 names=("flat", "empty"))  # fmt: skip
    error = one_line(call("glcm", "in", "out", "--workers", 1, *words.split()), code)
    assert re.search(said, error)


def test_only_one_writes_at_a_time(tmp_path):
    source = write_scenes(tmp_path / "in", "a")
    with FileLock(source / ".glcm.lock"), pytest.raises(GlacierError, match="another glacier glcm"):
        make(source, source)


def test_the_command_says_how_to_ingest_what_it_wrote(call, tmp_path):
    write_scenes(tmp_path / "in", "a", "b")
    said = call("glcm", "in", "[1] out", "--band", "nir", "--workers", 1).stderr
    assert "4 textures written, 0 stood there; nir from 41.93 to " in said
    words = shlex.split(said.split("`")[1])[1:]
    found = call(*words, "--classes", "0=rock,85=ice", "--folds", 2, "--workers", 1)
    assert "4 bands: red, nir, glcm_contrast, glcm_homogeneity" in found.stderr.replace(
        "nir, red", "red, nir"
    )
    assert found.exit_code == 0


@pytest.mark.parametrize("layout", ["files", "tiles"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glcm_contrast/zzz.tif", "zzz.tif: belongs to none of the (scenes a, b|tiles 02_07, 02_10)"),
        ("odd.tif", "odd.tif: its name says no texture; expected"),
    ],
)
def test_a_texture_that_fits_nothing_is_named(tmp_path, layout, name, words):
    source = SOURCES[layout](tmp_path / "in")
    write_raster(tmp_path / "far" / name, np.ones((64, 64), np.float32))
    with pytest.raises(GlacierError, match=words):
        find_scenes(source, glcm="../far/**/*.tif")


def test_a_pattern_that_names_nothing_is_named(call, tmp_path):
    write_scenes(tmp_path / "in", "a")
    error = one_line(call("ingest", "in", "--glcm", "far/*.tif"), 1)
    assert "--glcm far/*.tif: no raster in " in error


@pytest.mark.parametrize("layout", ["files", "tiles"])
def test_a_scene_without_a_texture_that_others_have_is_named(tmp_path, layout):
    source = SOURCES[layout](tmp_path / "in")
    name = "a" if layout == "files" else "02_07"
    write_raster(tmp_path / "far" / f"{name}_contrast.tif", np.ones((64, 64), np.float32))
    with pytest.raises(GlacierError, match="scene b: bands|no file for tile 02_10"):
        find_scenes(source, glcm="../far/*.tif")


@pytest.mark.parametrize(
    "name",
    ["SCENE_contrast", "contrast_SCENE", "Contrast/SCENE", "glcm/SCENE_contrast", "SCENE_GLCM_contrast"],
)
@pytest.mark.parametrize("layout", ["files", "tiles"])
def test_textures_are_told_by_a_features_name(tmp_path, layout, name):
    source = SOURCES[layout](tmp_path / "in")
    for scene in ("a", "b") if layout == "files" else ("02_07", "02_10"):
        write_raster(
            tmp_path / "far" / f"{name.replace('SCENE', scene)}.tif", np.ones((64, 64), np.float32)
        )
    for scene in find_scenes(source, glcm=str(tmp_path / "far" / "**" / "*")):
        assert scene.bands[-1].name == "glcm_contrast"
        assert scene.name in str(scene.bands[-1].path.relative_to(tmp_path))


def test_textures_of_all_scenes_share_one_scale_and_its_bound_holds(tmp_path):
    """One scene's texture is a thousand times the other's; a scale of its own would hide that."""
    source = write_scenes(tmp_path / "in", "a", "b")
    rng = np.random.default_rng(0)
    made = {"a": rng.random((64, 64)), "b": 1000 * rng.random((64, 64)) ** 2}
    for name, values in made.items():
        write_raster(tmp_path / "far" / "GLCM_contrast" / f"{name}.tif", values.astype(np.float32))
    scenes = find_scenes(source, glcm="../far/*/*.tif")
    ingest(source, scenes, tmp_path / "s.zarr", Options(tile_size=32, folds=2, classes="0=rock,85=ice"))
    store = Store(tmp_path / "s.zarr")
    band = store.meta.bands[-1]
    whole = np.concatenate(list(made.values())).astype(np.float32)
    assert band.name == "glcm_contrast"
    assert band.bound == pytest.approx((whole.max() - whole.min()) / 65534 / 2)
    worst = 0.0
    for tile, (number, origin) in enumerate(zip(store.array("scene"), store.array("origin"), strict=True)):
        truth = made[store.scene_names[number]][tuple(slice(o, o + 32) for o in origin)]
        worst = max(worst, np.abs(band.unpack(store.image(tile)[..., -1]) - truth.astype(np.float32)).max())
    assert 0.9 * band.bound < worst <= band.bound * (1 + 1e-6)


@pytest.mark.parametrize("layout", ["bands", "scenes"])
def test_a_source_with_textures_of_its_own_keeps_to_them(tmp_path, call, layout):
    source = tmp_path / "in"
    write_synthetic(source, layout=layout, seed=1, count=2, size=64)
    before = sorted(source.rglob("*"))
    done = call("glcm", source, source, "--band", "red")
    assert "is a texture glcm_contrast of the source already" in one_line(done, 1)
    assert sorted(source.rglob("*")) == before
    assert call("glcm", source, source, "--band", "red", "--features", "entropy").exit_code == 0
    names = [band.name for band in find_scenes(source)[0].bands]
    assert names[-3:] == ["glcm_contrast", "glcm_entropy", "glcm_homogeneity"]
