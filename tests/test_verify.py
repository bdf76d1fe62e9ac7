"""Whatever is done to a store, `verify` says so, names the tiles it was done to, and no others."""

import json
import shutil

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from crc32c import crc32c
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from glacier.cli import main
from glacier.errors import GlacierError
from glacier.store.reader import Store
from glacier.store.schema import checksum
from glacier.verify import verify
from tests.helpers import make_store, write_raster


@pytest.fixture
def copy(store, tmp_path):
    """A store of one's own to break: 36 tiles, three to a shard."""
    return shutil.copytree(store.path, tmp_path / "copy.zarr")


def faults(path, **how):
    with Store(path, whole=False) as opened:
        return verify(opened, **how).faults


def bad(path, **how):
    """(array, tile) of every fault."""
    return {(fault.what, tile) for fault in faults(path, **how) for tile in fault.tiles}


def shard_file(path, name, number):
    return path.joinpath(name, "c", str(number), *"0" * (3 if name == "image" else 2))


def change(path, name, edit):
    """Change an array's values; its checksums fit afterwards."""
    array = zarr.open_array(path / name, mode="r+")
    values = array[...]
    edit(values)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array[...] = values


def change_root(path, edit, *, seal):
    root = json.loads((path / "zarr.json").read_text())
    edit(root["attributes"])
    if seal:
        root["attributes"]["checksum"] = checksum(root["attributes"])
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize("quick", [False, True])
def test_a_store_as_it_was_made_is_right(store, quick):
    counted = []

    class Track:
        def __call__(self, what, total):
            counted.append(total)
            return self

        def __enter__(self):
            return lambda: counted.append(1)

        def __exit__(self, *error):
            pass

    with Store(store.path, whole=False) as opened:
        verdict = verify(opened, quick=quick, track=Track())
    assert verdict.faults == ()
    assert counted == [36, *[1] * 36]
    assert "36 tiles" in str(verdict)
    assert str(verdict).endswith("all is right")


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("gap", [0, 0.5])
def test_gaps_and_floats_are_right_too(tmp_path, dtype, gap):
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 96, 96)).astype(np.float32)
    pixels[rng.random(pixels.shape) < gap] = np.nan
    pixels[1] = 0.1 if dtype == "float32" else pixels[1]
    write_raster(tmp_path / "in" / "s.tif", pixels, names=("red", "nir"))
    write_raster(tmp_path / "in" / "s_label.tif", rng.integers(0, 2, (96, 96)).astype(np.uint8))
    made = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b", dtype=dtype)
    assert faults(made.path) == ()
    if dtype == "float32":
        change(made.path, "image", lambda v: v.__setitem__((1, 5, 6, 0), np.inf))
        change(made.path, "image", lambda v: v.__setitem__((2, 5, 6, 1), np.nan))
        assert bad(made.path) == {("image", 1), ("image", 2)}


@pytest.mark.parametrize(("dtype", "extreme"), [("float64", 0.1), ("int32", 2**24 + 1)])
def test_many_pixels_at_an_extreme_are_right_too(tmp_path, dtype, extreme):
    """Percentiles come from a sample in float32, which need not hold the extreme."""
    rng = np.random.default_rng(0)
    pixels = (rng.uniform(-1, 1, (1, 64, 64)) * 3 * extreme).clip(-extreme, extreme).astype(dtype)
    write_raster(tmp_path / "in" / "s.tif", pixels, names=("red",))
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((64, 64), np.uint8))
    made = make_store(tmp_path / "in", tmp_path / "s.zarr", tile_size=64, classes="0=a,1=b")
    assert faults(made.path) == ()


@pytest.mark.parametrize(
    "lie", [{"nodata": "x"}, {"nodata": 99999}, {"mean": "x"}, {"scale": "1"}, {"name": 3, "offset": []}]
)
def test_attributes_that_are_no_numbers_are_one_line(store, tmp_path, lie):
    copy = shutil.copytree(store.path, tmp_path / "copy.zarr")
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["bands"][0].update(lie)
    (copy / "zarr.json").write_text(json.dumps(root))
    done = CliRunner().invoke(main, ["verify", str(copy)])
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert len((done.stdout + done.stderr).strip().splitlines()) <= 2


def test_a_flipped_byte_anywhere_is_found(store, tmp_path):
    """In shards and small chunks every one; in a zarr.json all but white space counts."""
    rng = np.random.default_rng(0)
    files = sorted(f.relative_to(store.path) for f in store.path.rglob("*") if f.is_file())
    copy = shutil.copytree(store.path, tmp_path / "copy.zarr")
    for file in [*rng.permutation(files)[:40].tolist(), *["zarr.json"] * 40]:
        data = bytearray((store.path / file).read_bytes())
        at = int(rng.integers(len(data)))
        data[at] ^= 1 << int(rng.integers(8))
        (copy / file).write_bytes(data)
        try:
            found = faults(copy)
        except GlacierError:  # it does not even open
            found = ("a line",)
        if not found:
            same = json.loads(data) == json.loads((store.path / file).read_bytes())
            assert str(file).endswith("zarr.json"), f"{file} byte {at}"
            assert same, f"{file} byte {at}"
        (copy / file).write_bytes((store.path / file).read_bytes())


@pytest.mark.parametrize("name", ["image", "label"])
def test_flipped_bytes_of_shards_name_the_tiles_they_lie_in(copy, name):
    """The index of shard 4 is damaged too: all of its tiles, in one line."""
    for number in (0, 7):
        file = shard_file(copy, name, number)
        data = bytearray(file.read_bytes())
        data[10] ^= 1
        file.write_bytes(data)
    file = shard_file(copy, name, 4)
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    assert bad(copy) == {(name, tile) for tile in (0, 12, 13, 14, 21)}
    (line,) = [str(fault) for fault in faults(copy) if 12 in fault.tiles]
    scenes = ", ".join(dict.fromkeys(Store(copy).scene_names[i] for i in Store(copy).array("scene")[12:15]))
    many = "s" * ("," in scenes)
    assert line == (
        f"tiles 12 to 14 (scene{many} {scenes}): {name}: the checksum of its shard's index differs"
    )
    assert bad(copy, quick=True) == {(name, tile) for tile in (12, 13, 14)}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
@pytest.mark.parametrize("name", ["image", "label"])
def test_a_lost_shard_names_its_tiles(copy, name, damage, quick):
    file = shard_file(copy, name, 2)
    data = file.read_bytes()
    file.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    if damage == "missing":
        file.unlink()
    assert bad(copy, quick=quick) == {(name, tile) for tile in (6, 7, 8)}
    assert len(faults(copy, quick=quick)) == 1


def test_several_lost_shards_are_all_named(copy):
    for number in (0, 5, 11):
        shard_file(copy, "image", number).unlink()
    with pytest.raises(GlacierError, match="image of tiles 0 to 2 is missing"):
        Store(copy)
    assert bad(copy) == {("image", tile) for tile in (0, 1, 2, 15, 16, 17, 33, 34, 35)}


@pytest.mark.parametrize("name", ["image", "label"])
def test_swapped_shards_are_found_by_what_is_kept_beside(copy, name):
    first, second = shard_file(copy, name, 3), shard_file(copy, name, 8)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert bad(copy, quick=True) == set()
    assert bad(copy) == {(name, tile) for tile in (9, 10, 11, 24, 25, 26)}


def test_a_chunk_that_claims_what_is_not_its_own_is_found_quickly(copy):
    file = shard_file(copy, "image", 1)
    data = file.read_bytes()
    index = np.frombuffer(data[-52:-4], "<u8").reshape(3, 2).copy()
    index[1, 1] = len(data)
    body = index.tobytes()
    file.write_bytes(data[:-52] + body + crc32c(body).to_bytes(4, "little"))
    assert bad(copy, quick=True) == {("image", 4)}


EDITS = {
    "histogram": ("histogram", lambda v: v[7].__iadd__(1), {("label", 7)}),
    "a count": ("moments", lambda v: v.__setitem__((3, 2, 0), v[3, 2, 0] - 1), {("image", 3)}),
    "a mean": ("moments", lambda v: v.__setitem__((3, 2, 1), v[3, 2, 1] * 1.0001), {("image", 3)}),
    "a class": ("label", lambda v: v.__setitem__((9, 5, 6), 77), {("label", 9)}),
    "another class": ("label", lambda v: v.__setitem__((9, 5, 6), (v[9, 5, 6] + 1) % 4), {("label", 9)}),
    "a pixel": ("image", lambda v: v.__setitem__((20, 5, 6, 1), v[20, 5, 6, 1] + 1), {("image", 20)}),
    "a scene": ("scene", lambda v: v.__setitem__(4, 99), {("scene", 4)}),
    "a fold": ("fold", lambda v: v.__setitem__([5, 6], [-2, 6]), {("fold", 5), ("fold", 6)}),
    "set aside, or always trained on": ("fold", lambda v: v.__setitem__([5, 6], [-1, 5]), set()),
    "an origin": ("origin", lambda v: v.__setitem__((8, 0), -64), {("origin", 8)}),
    "a transform": ("transform", lambda v: v.__setitem__((8, 0), np.nan), {("transform", 8)}),
    "another place": ("transform", lambda v: v.__setitem__((9, 2), v[9, 2] + 30), {("transform", 9)}),
    "the first's place": ("transform", lambda v: v.__setitem__((8, 2), v[8, 2] + 30), {("transform", 8)}),
}


@pytest.mark.parametrize(("name", "edit", "expected"), EDITS.values(), ids=EDITS)
def test_what_was_written_with_a_right_checksum_is_found_too(copy, name, edit, expected):
    change(copy, name, edit)
    assert bad(copy) == expected


@pytest.mark.parametrize("name", ["fold", "histogram", "moments", "scene", "scene_name", "scene_crs"])
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_small_array_is_named_and_no_tile(copy, name, damage):
    (chunk,) = [f for f in (copy / name / "c").rglob("*") if f.is_file()]
    data = bytearray(chunk.read_bytes())
    data[-6] ^= 1
    chunk.write_bytes(data)
    if damage == "missing":
        chunk.unlink()
    found = faults(copy)
    assert [fault.what for fault in found] == [name]
    assert bad(copy) == set()
    if damage == "missing":
        assert [fault.what for fault in faults(copy, quick=True)] == [name]


def test_names_and_crs_of_scenes_are_looked_at(copy):
    change(copy, "scene_crs", lambda v: v.__setitem__(1, 7))
    change(copy, "scene_name", lambda v: v.__setitem__(1, v[0]))
    assert [fault.what for fault in faults(copy)] == ["scene_crs", "scene_name"]
    change(copy, "scene_name", lambda v: v.__setitem__((1, 0), 0xFF))
    assert "UTF-8" in str(faults(copy)[1])


LIES = {
    "mean": lambda a: a["bands"][2].update(mean=a["bands"][2]["mean"] * 1.001),
    "maximum": lambda a: a["bands"][2].update(maximum=a["bands"][2]["maximum"] + 1),
    "percentiles": lambda a: a["bands"][2].update(p2=a["bands"][2]["p98"] + 1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_lying_statistics_are_found_though_sealed(copy, lie):
    change_root(copy, lie, seal=True)
    (fault,) = faults(copy)
    assert (
        str(fault)
        == f"attributes: statistics of band {Store(copy).meta.bands[2].name} are not those of its tiles"
    )


def test_fewer_classes_than_labels_are_found(copy):
    change_root(copy, lambda a: a["classes"].pop(), seal=True)
    found = faults(copy)
    assert "histogram" in {fault.what for fault in found}
    assert {tile for what, tile in bad(copy) if what == "label"} == {
        tile for tile in range(36) if (Store(copy).label(tile) == 3).any()
    }


def test_attributes_changed_by_hand_are_found(copy):
    change_root(copy, lambda a: a["classes"][1].update(name="ice"), seal=False)
    assert [str(fault) for fault in faults(copy)] == ["attributes: their checksum differs"]


def test_an_array_described_in_two_ways_is_found(copy):
    own = json.loads((copy / "fold" / "zarr.json").read_text())
    own["dimension_names"] = ["row"]
    (copy / "fold" / "zarr.json").write_text(json.dumps(own))
    assert [fault.what for fault in faults(copy)] == ["fold"]


@pytest.mark.parametrize(
    "codecs",
    [ZstdCodec(), [BloscCodec(typesize=1, shuffle="shuffle"), Crc32cCodec()]],
    ids=["zstd", "blosc"],
)
def test_a_store_of_another_codec_chain_is_verified_by_zarr_python(store, copy, codecs):
    image = zarr.open_array(store.path / "image", mode="r")[...]
    image[30, 1, 2, 3] += 1
    shutil.rmtree(copy / "image")
    array = zarr.create_array(
        LocalStore(copy / "image"), shape=image.shape, dtype=image.dtype, fill_value=0,
        chunks=(1, 64, 64, 7), shards=(3, 64, 64, 7), compressors=codecs,
    )  # fmt: skip
    array[...] = image
    root = json.loads((copy / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["image"] = json.loads((copy / "image/zarr.json").read_text())
    (copy / "zarr.json").write_text(json.dumps(root))
    assert bad(copy) == {("image", 30)}
    assert bad(copy, quick=True) == set()
    shard_file(copy, "image", 2).unlink()
    assert bad(copy) == {("image", tile) for tile in (6, 7, 8, 30)}
    assert bad(copy, quick=True) == {("image", tile) for tile in (6, 7, 8)}


def test_the_command_says_what_is_wrong_and_exits_one(copy, store):
    done = CliRunner().invoke(main, ["verify", str(store.path)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "36 tiles decoded and compared" in done.stderr
    change(copy, "label", lambda v: v.__setitem__((9, 5, 6), 77))
    shard_file(copy, "image", 2).unlink()
    done = CliRunner().invoke(main, ["verify", str(copy)])
    first, second = done.stdout.splitlines()
    assert done.exit_code == 1
    assert first.startswith("tiles 6 to 8 (scene")
    assert second.startswith("tile 9 (scene")
    assert second.endswith("label: holds class 77, expected 0 to 3 or 255")
    assert "4 bad tiles" in done.stderr
    found = json.loads(CliRunner().invoke(main, ["verify", str(copy), "--quick", "--json"]).stdout)
    assert (found["right"], found["bad_tiles"], found["tiles"]) == (False, 3, 36)
    assert found["faults"][0]["tiles"] == [6, 7, 8]


def test_what_is_no_store_is_one_line(tmp_path):
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "none.zarr")])
    assert done.exit_code == 1
    assert "no store here" in done.stderr
