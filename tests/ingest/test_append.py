"""Adding to a store: as if all had been ingested at once, or a named refusal that leaves it as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine
from click.testing import CliRunner

from glacier.cli import main
from glacier.errors import GlacierError, UsageError
from glacier.ingest import commit, write
from glacier.ingest.append import append
from glacier.ingest.fit import selection_for
from glacier.ingest.place import Place
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.scenes.layouts import find_scenes
from glacier.store.folder import Folder
from glacier.store.reader import Store
from glacier.store.writer import NOTE
from glacier.verify import verify
from tests.helpers import NORTH_UP, make_store, write_raster, write_scene

OPTIONS = {"tile_size": 32, "classes": "0=a,1=b", "folds": 2}
NAMES = ("red", "nir")
EXACT = ("histogram", "moments", "scene", "origin", "transform", "scene_name", "scene_crs")


def scene(
    folder, name, *, seed=0, size=160, at=0, crs="EPSG:32645", dtype="uint16", nodata=0.0, values=None,
    names=NAMES, labels=(0, 1),
):  # fmt: skip
    """Two bands of noise, or of `values`, `at` so many px east, and labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 250, (2, size, size)).astype(dtype)
    if values is not None:
        pixels[:, :3, :3] = values
    place = {"transform": NORTH_UP @ Affine.translation(at, 0), "crs": crs}
    write_raster(folder / f"{name}.tif", pixels, nodata=nodata, names=names, **place)
    write_raster(folder / f"{name}_label.tif", rng.choice(labels, (size, size)).astype(np.uint8), **place)
    return folder


def add(source, out, given=None, **more):
    with Store(out) as store:
        bands = selection_for(store)
    return append(source, find_scenes(source, bands=bands), out, given or {}, **more)


def contents(store: Store):
    return [(store.image(t).tobytes(), store.label(t).tobytes()) for t in range(len(store))]


def snapshot(path):
    """All that a store's reader can see."""
    with Store(path) as store:
        return store.meta, contents(store), {n: store.array(n).tobytes() for n in (*EXACT, "fold")}


@pytest.fixture
def base(tmp_path):
    """25 tiles, two to a shard, the last one half full."""
    make_store(scene(tmp_path / "in", "s"), tmp_path / "s.zarr", **OPTIONS).close()
    return tmp_path / "s.zarr"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("percentiles", [8192, 7])
def test_adding_equals_ingesting_all_at_once(tmp_path, monkeypatch, workers, percentiles):
    monkeypatch.setattr(commit, "PERCENTILE_TILES", percentiles)
    out, both = tmp_path / "s.zarr", tmp_path / "both"
    for folder in ("1", "2", "3"):
        for i in range(2):
            made = {"seed": i, "size": 100 + 30 * i, "at": 500 * int(folder), "crs": f"EPSG:3264{i + 5}"}
            scene(tmp_path / folder, f"s{folder}{i}", **made)
            scene(both, f"s{folder}{i}", **made)
    make_store(tmp_path / "1", out, **OPTIONS).close()
    assert add(tmp_path / "2", out, workers=workers).fresh
    add(tmp_path / "3", out, workers=workers)
    fresh, added = make_store(both, tmp_path / "both.zarr", **OPTIONS), Store(out)
    assert contents(added) == contents(fresh)
    for name in EXACT:
        np.testing.assert_array_equal(added.array(name), fresh.array(name))
    assert added.meta.bands == fresh.meta.bands
    assert replace(added.meta, source={}) == replace(fresh.meta, source={})
    assert not (out / "unfinished").exists()
    np.testing.assert_array_equal(zarr.open_group(out, mode="r")["image"][...], zarr.open_group(
        fresh.path, mode="r")["image"][...])  # fmt: skip


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize(
    "source",
    [
        {"dtype": "uint16", "nodata": 65535},
        {"dtype": "uint16", "nodata": None},
        {"dtype": "int16", "nodata": -9999},
        {"dtype": "uint8", "nodata": 7},
        {"dtype": "float32", "nodata": None, "values": np.nan},
        {"dtype": "float64", "nodata": 99},
        {"dtype": "int32", "nodata": 99},
    ],
)
def test_other_dtypes_and_no_data_values_are_translated(tmp_path, source, dtype):
    out, more = tmp_path / "s.zarr", tmp_path / "more"
    make_store(scene(tmp_path / "in", "s"), out, **OPTIONS, dtype=dtype).close()
    add(scene(more, "t", seed=1, **source), out)
    with Store(out) as store, rasterio.open(more / "t.tif") as file:
        for tile in range(25, 50):
            row, column = store.array("origin")[tile].tolist()
            window = rasterio.windows.Window(column, row, 32, 32)
            expected = file.read(window=window, masked=True).astype(np.float64).filled(np.nan)
            found = np.stack([b.unpack(store.image(tile)[..., i]) for i, b in enumerate(store.meta.bands)])
            np.testing.assert_array_equal(found, expected)


def test_bands_are_matched_by_name_and_classes_by_value_or_by_what_is_said(base, tmp_path):
    more = scene(tmp_path / "more", "t", names=("nir", "red"), labels=(0, 1))
    add(more, base)
    with rasterio.open(more / "t.tif") as file, Store(base) as store:
        np.testing.assert_array_equal(store.meta.bands[0].unpack(store.image(25)[..., 0]),
                                      file.read(2)[:32, :32])  # fmt: skip
    third = scene(tmp_path / "third", "u", labels=(4, 9))
    add(third, base, {"classes": "9=a,4=b"})
    with rasterio.open(third / "u_label.tif") as file, Store(base) as store:
        np.testing.assert_array_equal(store.label(50), file.read(1)[:32, :32] == 4)
        assert store.meta.class_names == ["a", "b"]
        assert store.meta.classes[1].value == 1


def test_a_class_that_the_new_scenes_lack_is_no_matter(tmp_path):
    make_store(scene(tmp_path / "in", "s", labels=(0, 85, 170)), tmp_path / "s.zarr", tile_size=32).close()
    add(scene(tmp_path / "more", "t", labels=(0, 255)), tmp_path / "s.zarr")
    with Store(tmp_path / "s.zarr") as store:
        mass = store.histogram[25:].sum(axis=(0, 1, 2))
    assert mass[[1, 2]].tolist() == [0, 0]
    assert (mass[[0, 3]] > 0).all()


REFUSED = {
    "band": (lambda f: scene(f, "t", names=("red", "blue")), {}, UsageError, "no band nir; it has"),
    "class value": (lambda f: scene(f, "t", labels=(0, 5)), {}, GlacierError, "label value 5 has no class"),
    "class": (lambda f: scene(f, "t"), {"classes": "0=a,1=c"}, GlacierError, "class c: .* has a, b; say"),
    "tile size": (lambda f: scene(f, "t"), {"tile_size": 64}, UsageError, "--tile-size: 64, but .* 32"),
    "folds": (lambda f: scene(f, "t"), {"folds": 3}, UsageError, "--folds: 3, but .* made with 2"),
    "scene": (lambda f: scene(f, "s", seed=3), {}, GlacierError, "1 of these scenes already, s;"),
    "too high": (
        lambda f: scene(f, "t", dtype="int32", values=70000), {}, GlacierError,
        "band red: values 1 to 70000, expected whole numbers from 1 to 65535 as the store packs them",
    ),
    "fractions": (
        lambda f: scene(f, "t", dtype="float32", values=0.5), {}, GlacierError,
        "band red: values 0.5 to 249 with fractions, expected whole numbers from 1 to 65535",
    ),
    "no-data code": (
        lambda f: scene(f, "t", nodata=None, values=0), {}, GlacierError,
        "scene t: 9 values of band red are the store's code for no data.*nothing was added",
    ),
    "no data": (lambda f: scene(f, "t", nodata=5, values=5, size=3), {}, GlacierError, "no data: all"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_named_and_nothing_is_lost(base, tmp_path, case):
    make, given, kind, words = case
    before = snapshot(base)
    more = make(tmp_path / "more")
    with pytest.raises(kind, match=words):
        add(more, base, given)
    assert snapshot(base) == before
    add(scene(tmp_path / "good", "good", seed=5), base)
    with Store(base) as store:
        assert len(store) == 50
        assert contents(store)[:25] == before[1]


def test_values_are_quantised_within_the_bound_or_refused(tmp_path):
    out = tmp_path / "s.zarr"
    for name, low, high in (("s", 0.0, 1.0), ("inside", 0.2, 0.9), ("outside", 0.2, 1.1)):
        pixels = np.random.default_rng(0).uniform(low, high, (1, 64, 64)).astype(np.float32)
        write_raster(tmp_path / name / f"{name}.tif", pixels, names=("red",))
        write_raster(tmp_path / name / f"{name}_label.tif", np.zeros((64, 64), np.uint8))
    make_store(tmp_path / "s", out, **OPTIONS).close()
    add(tmp_path / "inside", out)
    with Store(out) as store, rasterio.open(tmp_path / "inside" / "inside.tif") as file:
        (band,) = store.meta.bands
        error = np.abs(band.unpack(store.image(4)[..., 0]) - file.read(1)[:32, :32])
        assert 0 < error.max() <= band.bound * (1 + 1e-9)
    with pytest.raises(GlacierError, match=r"band red: values 0.2\d* to 1.09\d* with fractions, expected "):
        add(tmp_path / "outside", out)


def test_what_is_there_already_is_not_added_again(base, tmp_path):
    more = scene(tmp_path / "more", "t")
    add(more, base)
    before = {f: f.stat().st_mtime_ns for f in base.rglob("*")}
    assert not add(more, base).fresh
    assert not add(tmp_path / "in", base, {"classes": "0=a,1=b"}).fresh
    first = find_scenes(tmp_path / "in")
    assert not ingest(tmp_path / "in", first, base, Options(**OPTIONS)).fresh
    assert {f: f.stat().st_mtime_ns for f in base.rglob("*")} == before


def test_old_tiles_keep_their_folds_and_new_ones_take_that_of_the_nearest_they_touch(base, tmp_path):
    with Store(base) as store:
        old, origin = store.fold.reshape(5, 5), store.array("origin")
    add(scene(tmp_path / "more", "t", at=160), base)  # right beside
    add(scene(tmp_path / "far", "u", at=9000), base)
    with Store(base) as store:
        np.testing.assert_array_equal(store.fold[:25].reshape(5, 5), old)
        new = store.fold[25:50].reshape(5, 5)
        np.testing.assert_array_equal(new[:, 0], old[:, -1])
        far = store.fold[50:]
        assert np.array_equal(store.array("origin")[50:], origin)
        assert sorted(np.bincount(far).tolist()) == [12, 13]
        counts = np.bincount(store.fold)
    assert abs(int(counts[0]) - int(counts[1])) <= 15


def test_who_reads_the_store_goes_on(base, tmp_path):
    with Store(base) as reader:
        first = contents(reader)
        half_read = Store(base)
        half_read.image(24)
        add(scene(tmp_path / "more", "t", at=500), base)
        reader._image._open.clear()  # as when it lets go of files: the index it knows must hold on
        assert contents(reader) == first == contents(half_read)
        assert len(reader) == 25
        np.testing.assert_array_equal(reader.array("origin"), Store(base).array("origin")[:25])
        half_read.close()


@pytest.mark.parametrize("at", [0, 1, 5, "commit", "root"])
def test_cut_off_anywhere_the_old_store_stands_and_the_same_call_ends_it(base, tmp_path, monkeypatch, at):
    before = snapshot(base)
    more, other = scene(tmp_path / "more", "t", at=160), scene(tmp_path / "other", "u", seed=4, size=100)
    written = []

    def stop(task):
        if len(written) == at:
            raise KeyboardInterrupt
        written.append(task.shard)
        true_write(task)

    def stop_here(*_, **__):
        raise KeyboardInterrupt

    true_write = write.write_shard
    with monkeypatch.context() as patched:
        if at == "commit":
            patched.setattr("glacier.ingest.append.commit", stop_here)
        elif at == "root":
            patched.setattr("glacier.store.writer._root_document", stop_here)
        else:
            patched.setattr(write, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            add(more, base)
    assert snapshot(base) == before
    assert zarr.open_group(base, mode="r")["image"].shape[0] == 25
    report = add(more, base)
    assert report.resumed == (13 if isinstance(at, str) else at)
    after = contents(Store(base))
    assert after[:25] == before[1]
    assert len(after) == 50
    add(other, base)
    assert contents(Store(base))[:50] == after


def test_another_addition_or_ingest_is_not_confused_by_what_one_left(base, tmp_path, monkeypatch):
    before = snapshot(base)
    more, other = scene(tmp_path / "more", "t", at=160), scene(tmp_path / "other", "u", seed=4, size=64)
    with monkeypatch.context() as patched:
        patched.setattr("glacier.ingest.append.commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(more, base)
    assert not ingest(tmp_path / "in", find_scenes(tmp_path / "in"), base, Options(**OPTIONS)).fresh
    assert add(other, base).resumed == 0
    clean = tmp_path / "clean.zarr"
    make_store(tmp_path / "in", clean, **OPTIONS).close()
    add(other, clean)
    assert snapshot(base) == snapshot(clean)
    assert snapshot(base)[1][:25] == before[1]


def test_a_damaged_last_shard_is_named_and_nothing_is_added(base, tmp_path):
    file = base / "image" / "c" / "12" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-5])
    root = (base / "zarr.json").read_bytes()
    with pytest.raises(GlacierError, match=r"image/c/12/0/0/0 cannot be added to \("):
        add(scene(tmp_path / "more", "t"), base)
    assert (base / "zarr.json").read_bytes() == root


def test_a_store_laid_out_otherwise_is_refused(base, tmp_path):
    root = json.loads((base / "zarr.json").read_text())
    grid = root["consolidated_metadata"]["metadata"]["fold"]["chunk_grid"]["configuration"]
    grid["chunk_shape"] = [25]
    (base / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(GlacierError, match=r"laid it out otherwise \(chunk_grid of fold\)"):
        add(scene(tmp_path / "more", "t"), base)


def test_the_command_adds(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene(tmp_path / "more", "t", at=160)
    call = ["ingest", "more", "--append", "s.zarr", "--workers", "1"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert "s.zarr: 50 tiles of 32 px" in done.stderr
    assert "nothing to do" in CliRunner().invoke(main, call).stderr
    for wrong in (["--out", "t.zarr"], ["--overwrite"], ["--tile-size", "64"]):
        done = CliRunner().invoke(main, [*call, *wrong])
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()[-1:]) == 1
    none = CliRunner().invoke(main, ["ingest", "more", "--append", "nowhere.zarr"])
    assert none.exit_code == 1
    assert "nowhere.zarr: no store here" in none.stderr


def test_a_new_store_that_waits_does_not_take_the_place_of_what_was_added(tmp_path, monkeypatch):
    """An overwrite killed before it swapped, an addition, an ingest that is refused: nothing is lost."""
    first = write_scene(tmp_path / "first", "a", size=96)
    other, more = (
        write_scene(tmp_path / "other", "b", size=64),
        write_scene(tmp_path / "more", "c", size=64),
    )
    out, options = tmp_path / "s.zarr", Options(tile_size=32, classes="0=a,1=b", folds=2)
    ingest(first, find_scenes(first), out, options)
    with monkeypatch.context() as patch:
        patch.setattr(Place, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(other, find_scenes(other), out, options, overwrite=True)
    append(more, find_scenes(more), out, {})
    with pytest.raises(GlacierError, match="another source"):
        ingest(other, find_scenes(other), out, options)
    with Store(out) as store:
        assert store.scene_names == ["a", "c"]
    assert ingest(other, find_scenes(other), out, options, overwrite=True).tiles == 4
    with Store(out) as store:
        assert store.scene_names == ["b"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["first", "more", "other", "s.zarr"]


def test_an_addition_cut_off_in_its_commit_leaves_a_store_that_verifies(tmp_path, monkeypatch):
    first, more = (
        write_scene(tmp_path / "first", "a", size=96),
        write_scene(tmp_path / "more", "c", size=64),
    )
    out = tmp_path / "s.zarr"
    ingest(first, find_scenes(first), out, Options(tile_size=32, classes="0=a,1=b", folds=2))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put_over", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(
            Place, "begin", lambda self, below="": self.build.put(NOTE, json.dumps(self.note).encode())
        )
        with pytest.raises(KeyboardInterrupt):
            append(more, find_scenes(more), out, {})
    with Store(out, whole=False) as store:
        assert len(store) == 9
        assert not verify(store).faults
    append(more, find_scenes(more), out, {})
    with Store(out, whole=False) as store:
        assert len(store) == 13
        assert not verify(store).faults
