"""Sources and stores in a bucket of a real S3 server process, by the same commands as in folders."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import obstore
import pytest
import rasterio
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ObjectStore

from glacier.addresses import open_address
from glacier.errors import GlacierError
from glacier.ingest import append as adding
from glacier.ingest import write as writing
from glacier.ingest.plan import Options
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.order import SAMPLE
from glacier.scenes.layouts import find_scenes
from glacier.store.reader import Store
from glacier.store.shards import Shards
from glacier.verify import verify
from tests.helpers import make_store, one_line, write_raster, write_scene
from tests.integration.server import serve_bucket

SMALL = ("--set", "train.epochs=1", "--set", "data.patch=32", "--set", "train.samples_per_epoch=16",
         "--set", "train.batch=8")  # fmt: skip


@pytest.fixture(scope="module")
def there(bucket, store):
    """The address of a copy of the local store."""
    return bucket.put(store.path, "stores/the mountains.zarr")


def windows(store, samples):
    out = Buffer.empty(len(samples), 32, 7, "int16")
    store.read_into(samples, out)
    return out


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_store_in_a_bucket_reads_the_same(bucket, there, store, kind):
    key = there.partition("//")[2].replace(" ", "%20")
    rng = np.random.default_rng(0)
    samples = np.zeros(200, SAMPLE)
    samples["tile"] = rng.integers(0, 36, 200)
    samples["y"], samples["x"] = rng.integers(0, 33, (2, 200))
    with Store(there if kind == "s3" else f"{bucket.endpoint}/{key}") as opened:
        assert isinstance(opened._image, Shards)
        assert isinstance(opened._label, Shards)
        assert (len(opened), opened.meta, opened.scene_names) == (36, store.meta, store.scene_names)
        for name in ("histogram", "moments", "fold", "origin", "transform"):
            np.testing.assert_array_equal(opened.array(name), store.array(name))
        opened.will_read(samples)
        here, far = windows(store, samples), windows(opened, samples)
        np.testing.assert_array_equal(far.image, here.image)
        np.testing.assert_array_equal(far.label, here.label)
        np.testing.assert_array_equal(opened.image(17), store.image(17))


def test_each_index_is_fetched_once_and_each_chunk_by_one_request(bucket, there, tmp_path):
    with serve_bucket(tmp_path / "log.txt") as other:
        made = other.put(bucket_copy(bucket, there, tmp_path / "copy"), "x.zarr")
        with Store(made) as opened:
            before = (tmp_path / "log.txt").read_text().count("image/c/")
            for tile in (3, 4, 5, 3):
                opened.image(tile)
            time.sleep(0.2)
            assert (tmp_path / "log.txt").read_text().count("image/c/") - before == 1 + 4


def bucket_copy(bucket, address, out):
    prefix = address.partition(f"{bucket.name}/")[2]
    for key in bucket.keys(prefix):
        file = out / key.removeprefix(prefix).lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    return out


def test_other_codec_chains_are_read_by_zarr_python(bucket, store, tmp_path):
    copy = shutil.copytree(store.path, tmp_path / "copy.zarr")
    label = zarr.open_array(store.path / "label", mode="r")[...]
    shutil.rmtree(copy / "label")
    array = zarr.create_array(
        LocalStore(copy / "label"), shape=label.shape, dtype=label.dtype, fill_value=0,
        chunks=(1, 64, 64), shards=(3, 64, 64), compressors=ZstdCodec(),
    )  # fmt: skip
    array[...] = label
    root = json.loads((copy / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["label"] = json.loads((copy / "label/zarr.json").read_text())
    (copy / "zarr.json").write_text(json.dumps(root))
    with Store(bucket.put(copy, "zstd.zarr")) as opened:
        assert not isinstance(opened._label, Shards)
        np.testing.assert_array_equal(opened.label(7), label[7])


def test_the_commands_take_an_address(bucket, call, there, mountains, store, tmp_path):
    seen = json.loads(call("inspect", there, "--json").stdout)
    assert seen == json.loads(call("inspect", store.path, "--json").stdout)
    assert call("inspect", there, "--png", "sheet.png").exit_code == 0
    assert "all is right" in call("verify", there).stderr
    assert "all is right" in call("verify", there, "--quick").stderr
    assert call("train", "--store", there, "--out", "far", *SMALL).exit_code == 0
    assert call("train", "--store", store.path, "--out", "near", *SMALL).exit_code == 0
    far, near = (
        [json.loads(line) for line in (tmp_path / run / "history.jsonl").read_text().splitlines()]
        for run in ("far", "near")
    )
    assert len(far[0]["losses"]) == 2
    assert [(epoch["losses"], epoch["scores"]) for epoch in far] == [
        (epoch["losses"], epoch["scores"]) for epoch in near
    ]
    scores = [json.loads(call("evaluate", run, "--json").stdout) for run in ("far", "near")]
    assert scores[0] == scores[1]
    for file in mountains.rglob("*00_00.tif"):
        (tmp_path / "one" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "one" / file.parent.name)
    for source, out in (("one", "near maps"), (bucket.put(tmp_path / "one", "one"), "far maps")):
        assert call("predict", "near", source, out).exit_code == 0
    (near_map,), (far_map,) = (list((tmp_path / out).glob("*.tif")) for out in ("near maps", "far maps"))
    with rasterio.open(far_map) as far_file, rasterio.open(near_map) as near_file:
        np.testing.assert_array_equal(far_file.read(), near_file.read())


def test_an_empty_shard_is_named(bucket, store, call):
    address = bucket.put(store.path, "empty.zarr")
    obstore.put(open_address(address), "image/c/2/0/0/0", b"")
    done = call("verify", address)
    assert done.exit_code == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("tiles 6 to 8 (scene")
    assert "is empty" in line


def test_a_lost_shard_is_named(bucket, store, call):
    address = bucket.put(store.path, "lost.zarr")
    bucket.delete("lost.zarr/image/c/2/0/0/0")
    with (
        Store(address) as opened,
        pytest.raises(GlacierError, match=r"image of tile 7 .*c/2/0/0/0 is missing"),
    ):
        opened.image(7)
    done = call("verify", address)
    assert done.exit_code == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("tiles 6 to 8 (scene")
    bucket.delete("lost.zarr/fold/c/0")
    assert "fold of tiles 0 to 35 is missing" in one_line(call("train", "--store", address, *SMALL))


def test_an_object_that_changes_meanwhile_is_an_error(bucket, store):
    address = bucket.put(store.path, "changing.zarr")
    with Store(address) as opened:
        opened.image(0)
        other = store.path / "image/c/1/0/0/0"
        bucket.client.put_object(
            Bucket=bucket.name, Key="changing.zarr/image/c/0/0/0/0", Body=other.read_bytes()
        )
        with pytest.raises(GlacierError, match=r"image of tile 1 .* has changed since it was opened"):
            opened.image(1)
        with pytest.raises(GlacierError, match="image of tile 2 .* has changed"):
            opened.image(2)


WRONG = {
    "key": ("s3://glaciers/none.zarr", "no store here"),
    "bucket": ("s3://nobody/none.zarr", "no store here"),
    "kind": ("ftp://host/x.zarr", "expected a path, s3://BUCKET/KEY or https://HOST/PATH"),
    "host": ("https://no-such-host.invalid/x.zarr", "cannot be reached"),
}


@pytest.mark.parametrize(("address", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_address_is_one_line(bucket, call, address, words):
    line = one_line(call("inspect", address))
    assert address in line
    assert words in line


def test_a_store_that_nobody_may_read_is_one_line(bucket, there, call, monkeypatch):
    bucket.client.put_object(Bucket=bucket.name, Key="private.zarr/zarr.json", Body=b"{}")
    assert "403 Forbidden" in one_line(call("inspect", f"{bucket.endpoint}/{bucket.name}/private.zarr"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    assert "set AWS_ACCESS_KEY_ID" in one_line(call("inspect", there))


def test_a_server_that_dies_is_one_line_within_seconds(store, call, tmp_path):
    with serve_bucket(tmp_path / "log.txt") as mortal:
        address = mortal.put(store.path, "x.zarr")
        opened = Store(address)
        opened.image(0)
        mortal.stop()
        with opened, pytest.raises(GlacierError, match="image of tile 1 cannot be reached"):
            opened.image(1)
        assert "cannot be reached" in one_line(call("verify", address))
        assert "cannot be reached" in one_line(call("train", "--store", address, *SMALL))
        assert "cannot be reached" in one_line(call("ingest", mortal.address("scenes"), "--out", "y.zarr"))
        assert not (tmp_path / "y.zarr").exists()


def same(one, other):
    assert one.meta.bands == other.meta.bands
    assert one.scene_names == other.scene_names
    for name in ("histogram", "moments", "fold", "origin", "transform", "scene"):
        np.testing.assert_array_equal(one.array(name), other.array(name))
    for tile in range(len(other)):
        np.testing.assert_array_equal(one.image(tile), other.image(tile))
        np.testing.assert_array_equal(one.label(tile), other.label(tile))


def test_band_folders_in_a_bucket_give_the_same_store(bucket, mountains, store, call, tmp_path):
    source = bucket.put(mountains, "in/the möuntains")
    for key in ("in/the möuntains/", "in/the möuntains/Band1/"):  # as some programs mark folders
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"")
    done = call("ingest", source, "--out", "m.zarr", "--tile-size", 64, "--workers", 2)
    assert "36 tiles of 64 px" in done.stderr
    same(Store(tmp_path / "m.zarr"), store)


def test_scenes_with_outlines_in_a_bucket_give_the_same_store(bucket, call, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    for name in ("a", "b"):
        pixels = rng.integers(1, 5000, (2, 96, 96)).astype(np.uint16)
        write_raster(folder / f"{name}.tif", pixels, nodata=0, names=("red", "nir"), tiled=True)
    ring = [[500300, 3099700], [501800, 3099700], [501800, 3098200], [500300, 3098200], [500300, 3099700]]
    outlines = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32645"}},
        "features": [
            {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        ],
    }
    (folder / "ice.geojson").write_text(json.dumps(outlines))
    made = make_store(folder, tmp_path / "near.zarr", tile_size=64)
    source = bucket.put(folder, "outlined")
    assert call("ingest", source, "--out", "far.zarr", "--tile-size", 64, "--workers", 1).exit_code == 0
    same(Store(tmp_path / "far.zarr"), made)
    assert 0 < made.histogram[..., 1].sum() < made.histogram.sum()


def test_the_default_name_of_a_store_from_a_bucket(bucket, call, tmp_path):
    write_raster(tmp_path / "in" / "s.tif", np.ones((2, 64, 64), np.uint8), nodata=0)
    write_raster(tmp_path / "in" / "s_label.tif", np.zeros((64, 64), np.uint8))
    options = ("--tile-size", 64, "--workers", 1, "--classes", "0=a,1=b")
    assert call("ingest", bucket.put(tmp_path / "in", "one/alps"), *options).exit_code == 0
    assert len(Store(tmp_path / "alps.zarr")) == 1


def test_a_source_that_is_not_there_is_one_line(bucket, call):
    assert "s3://glaciers/nowhere: no such file or folder" in one_line(
        call("ingest", "s3://glaciers/nowhere")
    )
    assert "s3://glaciers/bad/a.tif: cannot be read" in one_line(call("ingest", put_junk(bucket)))
    assert "expected a path, or s3://BUCKET/KEY" in one_line(call("ingest", "gopher://x/y"))


def put_junk(bucket):
    bucket.client.put_object(Bucket=bucket.name, Key="bad/a.tif", Body=b"junk")
    return bucket.address("bad")


def test_a_store_is_written_to_a_bucket_as_to_a_folder(bucket, mountains, store, call):
    out = bucket.address("out/my store.zarr")
    command = ("ingest", mountains, "--out", out, "--tile-size", 64)
    assert f"{out}: 36 tiles of 64 px" in call(*command, "--workers", 2).stderr
    with Store(out) as written:
        assert isinstance(written._image, Shards)
        same(written, store)
    assert "all is right" in call("verify", out).stderr
    assert not bucket.keys("out/my store.zarr/unfinished")
    before = bucket.keys("out")
    assert "complete already, 36 tiles" in call(*command).stderr
    other = ("ingest", mountains, "--out", out, "--tile-size", 32, "--overwrite")
    assert "remove it first, or give another --out" in one_line(call(*other))
    assert bucket.keys("out") == before


def test_who_reads_a_store_in_a_bucket_goes_on_while_it_is_added_to(bucket, call, tmp_path):
    """The last shard is another object then, in which the tiles that it held are where they were."""
    write_scene(tmp_path / "a", "a", size=224, seed=0)
    write_scene(tmp_path / "b", "b", size=96, seed=1)
    whole = make_store(tmp_path / "a", tmp_path / "a.zarr", tile_size=32, classes="0=a,1=b")
    out = bucket.put(whole.path, "grown.zarr")
    last = len(whole) - 1
    with Store(out) as opened:
        opened.image(last)
        opened.label(last)
        (key,) = bucket.keys("grown.zarr/image/c/12/")
        before = bucket.client.head_object(Bucket=bucket.name, Key=key)["ETag"]
        assert call("ingest", "b", "--append", out, "--workers", 1).exit_code == 0
        assert bucket.client.head_object(Bucket=bucket.name, Key=key)["ETag"] != before
        np.testing.assert_array_equal(opened.image(last), whole.image(last))
        np.testing.assert_array_equal(opened.label(last), whole.label(last))
    assert call("ingest", "b", "--append", whole.path, "--workers", 1).exit_code == 0
    with Store(out) as far, Store(whole.path) as near:
        same(far, near)
    assert "all is right" in call("verify", out).stderr
    assert "complete already" in call("ingest", "b", "--append", out, "--workers", 1).stderr


def test_from_bucket_to_bucket(bucket, call, tmp_path):
    whole = make_store(write_scene(tmp_path / "in", "s", size=160), tmp_path / "s.zarr", tile_size=32,
                       classes="0=a,1=b")  # fmt: skip
    source, out = bucket.put(tmp_path / "in", "both/in"), bucket.address("both/s.zarr")
    command = ("ingest", source, "--out", out, "--tile-size", 32, "--classes", "0=a,1=b", "--workers", 1)
    assert call(*command).exit_code == 0
    with Store(out) as written:
        same(written, whole)
    assert "complete already" in call(*command[:1], f"{source}/", *command[2:]).stderr
    write_scene(tmp_path / "in", "s", size=160, seed=1)
    bucket.put(tmp_path / "in", "both/in")
    assert "another source" in one_line(call(*command))


@pytest.mark.parametrize("out", ["https://localhost/x.zarr", "s4://x/y.zarr"])
def test_what_cannot_be_written_to_is_one_line(call, mountains, out):
    result = call("ingest", mountains, "--out", out, "--tile-size", 64)
    assert "expected a" in one_line(result, result.exit_code)


def test_killed_under_way_the_same_command_finishes_in_a_bucket(bucket, tmp_path):
    source = tmp_path / "in"
    for i in range(3):
        write_scene(source / str(i), f"s{i}", seed=i, size=256)
    whole = make_store(source, tmp_path / "whole.zarr", tile_size=32, classes="0=a,1=b")
    out = bucket.address("killed.zarr")
    command = [sys.executable, "-m", "glacier", "ingest", str(source), "--out", out,
               "--tile-size", "32", "--classes", "0=a,1=b", "--workers", "1"]  # fmt: skip
    for least in (1, 6):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while sum(key.endswith(".npz") for key in bucket.keys("killed.zarr")) < least:
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
        process.communicate()
        with pytest.raises(GlacierError, match=r"incomplete.*same `glacier ingest`"):
            Store(out)
        with pytest.raises(FileNotFoundError):
            zarr.open_group(ObjectStore(open_address(out), read_only=True), mode="r")
    other = subprocess.run([*command, "--folds", "3"], capture_output=True, text=True, check=False)
    assert "unfinished ingest of another source" in other.stderr
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "shards were written before" in done.stderr
    with Store(out) as written:
        same(written, whole)
    assert not bucket.keys("killed.zarr/unfinished")


def test_a_server_that_dies_while_a_store_is_written_is_one_line(mountains, store, tmp_path):
    with serve_bucket(tmp_path / "log.txt") as mortal:
        command = [sys.executable, "-m", "glacier", "ingest", str(mountains), "--out",
                   mortal.address("x.zarr"), "--tile-size", "64", "--workers", "1"]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not any(key.endswith(".npz") for key in mortal.keys("x.zarr")):
            assert process.poll() is None
            assert time.monotonic() < deadline
        mortal.stop()
        said = process.communicate(timeout=60)[1].strip().splitlines()
    assert process.returncode == 1
    assert said[-1].startswith("error: s3://glaciers/x.zarr: cannot be reached")


def test_two_ingests_to_one_address_lose_nothing(bucket, tmp_path, monkeypatch):
    """There is no lock: the one that comes later sees what the other put, and stops."""
    sources = [write_scene(tmp_path / name, name, size=96, seed=ord(name)) for name in "abc"]
    scenes = [find_scenes(source) for source in sources]
    options = Options(tile_size=32, classes="0=a,1=b", folds=2)
    out = bucket.address("race.zarr")
    with monkeypatch.context() as patch:
        true_survey = writing.survey_all

        def meanwhile(*given):
            patch.undo()
            writing.ingest(sources[0], scenes[0], out, options)
            return true_survey(*given)

        patch.setattr(writing, "survey_all", meanwhile)
        with pytest.raises(GlacierError, match="another ingest wrote here meanwhile"):
            writing.ingest(sources[1], scenes[1], out, options)
    with monkeypatch.context() as patch:
        true_commit = adding.commit

        def late(*given):
            patch.undo()
            adding.append(sources[1], scenes[1], out, {})
            return true_commit(*given)

        patch.setattr(adding, "commit", late)
        with pytest.raises(GlacierError, match="another ingest wrote here meanwhile"):
            adding.append(sources[2], scenes[2], out, {})
    with Store(out) as store:
        assert store.scene_names == ["a", "b"]
        assert not verify(store).faults


@pytest.mark.parametrize(
    "out", ["memory:///x.zarr", "gs://bucket/x.zarr", "https://host/x.zarr", "file:///x.zarr"]
)
def test_addresses_that_hold_no_store_are_refused_at_once(call, mountains, out):
    assert f"--out {out}: expected a folder, or s3://BUCKET/KEY" in one_line(
        call("ingest", mountains, "--out", out), 2
    )
