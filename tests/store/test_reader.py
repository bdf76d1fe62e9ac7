"""Stores as others see them: xarray, damaged files, stores of another kind."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

from glacier.classes import IGNORE
from glacier.errors import GlacierError
from glacier.ingest.plan import Options
from glacier.ingest.write import ingest
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.order import SAMPLE
from glacier.scenes.layouts import find_scenes
from glacier.store.bands import Band, Statistics
from glacier.store.reader import Store, only_store
from glacier.store.schema import SHARD_BYTES, tiles_per_shard
from glacier.store.statistics import pool
from tests.helpers import write_raster


@pytest.fixture
def copy(store, tmp_path):
    """A store of one's own to break."""
    return shutil.copytree(store.path, tmp_path / "copy.zarr")


def test_xarray_shows_named_dimensions_and_the_same_values(store):
    seen = xr.open_zarr(store.path)
    assert dict(seen.sizes) | {"tile": 36, "y": 64, "x": 64, "band": 7, "class": 4} == dict(seen.sizes)
    assert seen["image"].dims == ("tile", "y", "x", "band")
    assert seen["histogram"].dims == ("tile", "by", "bx", "class")
    assert seen.attrs["complete"] is True
    for tile in (0, 17, 35):
        np.testing.assert_array_equal(seen["image"][tile].to_numpy(), store.image(tile))
        np.testing.assert_array_equal(seen["label"][tile].to_numpy(), store.label(tile))
    np.testing.assert_array_equal(seen["fold"].to_numpy(), store.fold)


def test_windows_are_parts_of_tiles(store):
    samples = np.array([(3, 0, 32, 0), (35, 32, 0, 0), (3, 7, 9, 0)], SAMPLE)
    out = Buffer.empty(3, 32, 7, "int16")
    store.read_into(samples, out)
    for i, (tile, y, x, _) in enumerate(samples.tolist()):
        np.testing.assert_array_equal(out.image[i], store.image(tile)[y : y + 32, x : x + 32])
        np.testing.assert_array_equal(out.label[i], store.label(tile)[y : y + 32, x : x + 32])


def test_the_inner_codecs_end_in_a_checksum(store):
    for name in ("image", "label"):
        codecs = json.loads((store.path / name / "zarr.json").read_text())["codecs"]
        assert codecs[0]["name"] == "sharding_indexed"
        inner = codecs[0]["configuration"]
        assert [c["name"] for c in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
        assert inner["index_codecs"][-1]["name"] == "crc32c"


@pytest.mark.parametrize("name", ["image", "label"])
def test_a_flipped_bit_is_an_error_that_names_the_tile(copy, name):
    shard = copy / name / "c" / "0" / "0" / "0"
    shard = shard / "0" if name == "image" else shard
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data)
    broken = Store(copy)
    read = broken.image if name == "image" else broken.label
    words = rf"copy.zarr: {name} of tile \d+ cannot be decoded \(its checksum differs\)"
    with pytest.raises(GlacierError, match=words):
        [read(tile) for tile in range(len(broken))]


@pytest.mark.parametrize("name", ["image", "label"])
def test_a_missing_shard_is_an_error_that_names_its_tiles(copy, name):
    shard = copy / name / "c" / "2" / "0" / "0"
    (shard / "0" if name == "image" else shard).unlink()
    with pytest.raises(GlacierError, match=rf"{name} of tiles 6 to 8 is missing"):
        Store(copy)


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-3])])
@pytest.mark.parametrize(
    "name", ["fold", "histogram", "moments", "scene", "origin", "transform", "scene_name"]
)
def test_a_damaged_small_array_is_named(copy, name, damage):
    (chunk,) = [f for f in (copy / name / "c").rglob("*") if f.is_file()]
    damage(chunk)
    with pytest.raises(GlacierError, match=rf"{name} (of tiles|cannot be decoded)"):
        Store(copy).array(name)


def broken_attributes(change):
    def apply(copy):
        root = json.loads((copy / "zarr.json").read_text())
        change(root["attributes"])
        (copy / "zarr.json").write_text(json.dumps(root))

    return apply


def consolidated(name, **changes):
    def apply(copy):
        root = json.loads((copy / "zarr.json").read_text())
        root["consolidated_metadata"]["metadata"][name].update(changes)
        (copy / "zarr.json").write_text(json.dumps(root))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: shutil.rmtree(c), "no store here"),
        (lambda c: (c / "zarr.json").unlink(), "no store here"),
        (lambda c: (c / "zarr.json").write_text('{"attr'), "damaged"),
        (broken_attributes(lambda a: a.update(schema=99)), "schema 99, expected a store of schema 1"),
        (broken_attributes(lambda a: a.pop("schema")), "not a glacier store"),
        (broken_attributes(lambda a: a.update(complete=False)), "incomplete"),
        (broken_attributes(lambda a: a.pop("bands")), "attributes are damaged"),
        (broken_attributes(lambda a: a.update(bands=[1])), "attributes are damaged"),
        (
            broken_attributes(lambda a: a.update(dtype="uint8")),
            "attributes are damaged .*no-data code -32768, expected one of uint8",
        ),
        (lambda c: (c / "zarr.json").write_text("[1]"), "damaged"),
        (lambda c: (c / "image" / "zarr.json").unlink(), "image/zarr.json is missing"),
        (lambda c: (c / "label" / "zarr.json").write_text("{"), "label/zarr.json: damaged"),
        (consolidated("label", shape=[2, 64, 64]), r"label is \(2, 64, 64.*expected \(36, 64, 64"),
        (lambda c: (c / "zarr.json").write_text('{"attributes": null}'), "damaged"),
    ],
)
def test_what_cannot_be_opened_is_named(copy, damage, words):
    damage(copy)
    with pytest.raises(GlacierError, match=words):
        Store(copy)


def test_the_only_store_is_found(tmp_path):
    with pytest.raises(GlacierError, match=r"no \*.zarr here; make one with `glacier ingest"):
        only_store(tmp_path)
    (tmp_path / "a.zarr").mkdir()
    assert only_store(tmp_path) == tmp_path / "a.zarr"
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(GlacierError, match=r"2 stores \(a.zarr, b.zarr\); name one with --store"):
        only_store(tmp_path)


@pytest.mark.parametrize(("tiles", "expected"), [(1, 1), (25, 2), (36, 3), (100_000, 18)])
def test_shards_are_bounded_and_many(tiles, expected):
    assert tiles_per_shard(tiles, 512, 7, 2) == expected
    assert expected * 512 * 512 * 7 * 2 <= SHARD_BYTES


def test_bands_survive_their_json():
    s = Statistics(mean=1, std=2, minimum=float("nan"), maximum=4, p2=0.1, p98=3.3)
    band = Band(
        name="b", role="other", code="B1", dtype="float32", nodata=float("nan"), bound=0.1, statistics=s
    )
    back = Band.from_json(json.loads(json.dumps(band.to_json(), allow_nan=False)), "float32")
    assert repr(back) == repr(band)


def test_pooled_statistics_equal_those_of_all_pixels():
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e6, 3, n) for n in (100, 1, 5000)]
    moments = np.array([[[p.size, p.mean(), ((p - p.mean()) ** 2).sum(), p.min(), p.max()]] for p in parts])
    moments = np.concatenate([moments, np.zeros((1, 1, 5))])
    (s,) = pool(moments)
    whole = np.concatenate(parts)
    found = [s.mean, s.std, s.minimum, s.maximum]
    np.testing.assert_allclose(found, [whole.mean(), whole.std(), whole.min(), whole.max()], rtol=1e-9)


def test_statistics_of_nothing_are_nan():
    (s,) = pool(np.zeros((2, 1, 5)))
    assert np.isnan([s.mean, s.std, s.minimum, s.maximum]).all()


def test_clouds_are_ignored_and_carry_the_code(store):
    found = 0
    for tile in range(len(store)):
        optical = store.image(tile)[..., :4]
        codes = [band.nodata for band in store.meta.bands[:4]]
        cloud = (optical == np.array(codes, optical.dtype)).all(axis=-1)
        np.testing.assert_array_equal(store.label(tile) == IGNORE, cloud)
        found += cloud.sum()
    assert found > 0


def test_a_store_that_is_replaced_while_it_is_open_gives_no_other_pixels(tmp_path):
    """What was not read yet is missing then; it is not the other store's."""
    for value in (7, 9):
        source = tmp_path / str(value)
        write_raster(
            source / "s.tif", np.full((2, 640, 640), value, np.uint16), nodata=0, names=("red", "nir")
        )
        write_raster(source / "s_label.tif", np.zeros((640, 640), np.uint8))
    options = Options(tile_size=32, classes="0=a,1=b", folds=2)
    out = tmp_path / "s.zarr"
    ingest(tmp_path / "7", find_scenes(tmp_path / "7"), out, options)
    with Store(out) as store, Store(out) as untouched:
        assert store.image(0).max() == 7 - 32768
        ingest(tmp_path / "9", find_scenes(tmp_path / "9"), out, options, overwrite=True)
        with pytest.raises(GlacierError, match="is missing"):
            store.image(399)
        with pytest.raises(GlacierError, match="another store has taken the place"):
            untouched.image(0)
    with Store(out) as store:
        assert store.image(399).max() == 9 - 32768
