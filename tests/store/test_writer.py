"""Shards written directly: what zarr-python reads of them, and what an interrupted write leaves."""

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr

from glacier.classes import coloured
from glacier.errors import GlacierError
from glacier.store.bands import Band
from glacier.store.folder import Folder
from glacier.store.schema import Meta
from glacier.store.shards import MISSING, index_bytes, parse_index
from glacier.store.writer import NOTE, StoreWriter, Tile, _document

TILES = 19
"""Two to a shard, the last one partial."""


def make_writer(path, dtype="int16", codec="lz4") -> StoreWriter:
    bands = tuple(Band(name=n, role="optical", code=n, dtype=dtype, nodata=0) for n in ("red", "nir"))
    meta = Meta(tile_size=32, dtype=dtype, bands=bands, classes=coloured([("a", 0), ("b", 1)]), crs=(),
                folds=2, codec=codec, created_by="test", source={})  # fmt: skip
    return StoreWriter(Folder(path), meta, TILES, 1)


def make_tiles(dtype="int16"):
    """Of every kind: all zero, noise, smooth."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 50, (TILES, 32, 32, 2)).astype(dtype)
    label = rng.integers(0, 2, (TILES, 32, 32), np.uint8)
    image[3], label[3] = 0, 0
    image[4], label[4] = 7, 255
    return image, label


def arrays(writer) -> zarr.Group:
    """What zarr-python sees of a writer's arrays, described as a commit does."""
    for name, spec in writer.specs.items():
        writer.folder.put(f"{name}/zarr.json", json.dumps(_document(spec, writer.meta.codec)).encode())
    writer.folder.put("zarr.json", b'{"zarr_format": 3, "node_type": "group"}')
    return zarr.open_group(writer.folder.path, mode="r+")


def tiles_of(writer, shard, image, label):
    return (Tile(image[t], label[t], {"number": np.array(t)}) for t in writer.shards[shard])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_zarr_reads_what_was_written_directly(tmp_path, dtype, codec):
    writer = make_writer(tmp_path / "s.zarr", dtype, codec)
    image, label = make_tiles(dtype)
    for shard in range(len(writer.shards)):
        writer.write_shard(shard, tiles_of(writer, shard, image, label))
    for name, values in (("image", image), ("label", label)):
        np.testing.assert_array_equal(arrays(writer)[name][...], values)
    assert [k["number"].tolist() for k in writer.kept()] == [list(t) for t in writer.shards.values()]
    assert writer.finished() == set(range(len(writer.shards)))


def test_a_shard_is_what_zarr_writes(tmp_path):
    """The same array through zarr-python: chunks, index and checksums, to the byte."""
    ours, theirs = make_writer(tmp_path / "ours"), make_writer(tmp_path / "theirs")
    image, label = make_tiles()
    for shard in range(len(ours.shards)):
        ours.write_shard(shard, tiles_of(ours, shard, image, label))
    with zarr.config.set({"array.write_empty_chunks": True}):
        arrays(theirs)["image"][...] = image
    files = [file for file in (tmp_path / "ours" / "image" / "c").rglob("0") if file.is_file()]
    assert len(files) == len(ours.shards)
    for file in files:
        assert file.read_bytes() == (tmp_path / "theirs" / file.relative_to(tmp_path / "ours")).read_bytes()


def test_every_tile_has_a_chunk_and_what_lies_beyond_has_none(tmp_path):
    writer = make_writer(tmp_path / "s.zarr")
    image, label = make_tiles()
    assert writer.per_shard == 2
    for shard in (1, 9):
        writer.write_shard(shard, tiles_of(writer, shard, image, label))
    for shard, beyond in ((1, [False, False]), (9, [False, True])):
        data = (tmp_path / "s.zarr" / "image" / "c" / str(shard) / "0" / "0" / "0").read_bytes()
        index = parse_index(data[-index_bytes(2) :], 2)
        assert (index == MISSING).all(axis=1).tolist() == beyond
        assert index[0, 0] == 0


def test_an_error_in_a_shard_leaves_nothing_of_it(tmp_path):
    writer = make_writer(tmp_path / "s.zarr")
    image, label = make_tiles()

    def broken():
        yield Tile(image[0], label[0], {})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write_shard(0, broken())
    assert [f.name for f in tmp_path.rglob("*") if f.is_file() and f.name != "zarr.json"] == []


@pytest.mark.parametrize("name", ["image", "label"])
@pytest.mark.parametrize("damage", ["missing", "cut", "cut at its index", "empty"])
def test_a_shard_that_is_not_whole_counts_as_not_written(tmp_path, name, damage):
    writer = make_writer(tmp_path / "s.zarr")
    image, label = make_tiles()
    for shard in (0, 1):
        writer.write_shard(shard, tiles_of(writer, shard, image, label))
    file = tmp_path / "s.zarr" / name / "c" / "1" / "0" / "0"
    file = file / "0" if name == "image" else file
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"cut": data[:-9], "cut at its index": data[-index_bytes(2) :], "empty": b""}[damage]
        )
    assert writer.finished() == {0}


def test_a_damaged_file_of_small_values_counts_as_not_written(tmp_path):
    writer = make_writer(tmp_path / "s.zarr")
    image, label = make_tiles()
    writer.write_shard(0, tiles_of(writer, 0, image, label))
    kept = tmp_path / "s.zarr" / "unfinished" / "0.npz"
    kept.write_bytes(kept.read_bytes()[:-30])
    assert writer.finished() == set()


def test_a_worker_writes_only_where_its_ingest_does(tmp_path):
    """Not in a folder that is not shared, nor after another ingest has taken it or a commit ended it."""
    writer = make_writer(tmp_path / "s.zarr")
    writer.note = {"mine": 1}
    image, label = make_tiles()

    def taken():
        yield from tiles_of(writer, 0, image, label)
        writer.folder.put(NOTE, b'{"mine": 2}')

    with pytest.raises(GlacierError, match="is not, or no longer, where this ingest writes"):
        writer.write_shard(0, tiles_of(writer, 0, image, label))
    assert writer.folder.files() == []
    writer.folder.put(NOTE, b'{"mine": 1}')
    with pytest.raises(GlacierError, match="is not, or no longer, where this ingest writes"):
        writer.write_shard(0, taken())
    assert writer.folder.files() == [NOTE]


PROGRAM = """
import os, signal, sys
from pathlib import Path
from tests.store.test_writer import make_tiles, make_writer
from glacier.store.writer import Tile

writer = make_writer(Path(sys.argv[1]))
image, label = make_tiles()

def killed():
    yield Tile(image[0], label[0], {})
    os.kill(os.getpid(), signal.SIGKILL)

writer.write_shard(0, killed())
"""


def test_killed_half_way_leaves_no_half_shard(tmp_path):
    out = tmp_path / "s.zarr"
    assert subprocess.run([sys.executable, "-c", PROGRAM, str(out)], check=False).returncode == -9
    for name in ("image", "label"):
        assert not (out / name / "c").exists()
    writer = make_writer(out)
    assert writer.finished() == set()
    image, label = make_tiles()
    writer.write_shard(0, tiles_of(writer, 0, image, label))
    np.testing.assert_array_equal(arrays(writer)["image"][:2], image[:2])
