"""Tiles straight from the file: as zarr-python reads them; nothing a damaged file claims is believed."""

import gc
import json
import os
import shutil
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import zarr
from crc32c import crc32c
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, ZipStore

from glacier.errors import GlacierError
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.order import SAMPLE
from glacier.store import reader
from glacier.store.place import Place
from glacier.store.reader import Store
from glacier.store.shards import HEADER, MISSING, Shards, index_bytes, parse_index

NAMES = ["image", "label"]


@pytest.fixture
def copy(store, tmp_path):
    """A store of one's own to break."""
    return shutil.copytree(store.path, tmp_path / "copy.zarr")


def shard_file(path, name, number):
    return path.joinpath(name, "c", str(number), *"0" * (3 if name == "image" else 2))


def read(store, name, tile):
    return store.image(tile) if name == "image" else store.label(tile)


def read_or_named_error(store, name, tile):
    """None where a GlacierError says which tile it was; any other exception is passed on."""
    try:
        return read(store, name, tile)
    except GlacierError as error:
        message = str(error)
    assert f"{name} of tile {tile} cannot be decoded (" in message
    return None


def every_tile(store):
    out = Buffer.empty(len(store), store.meta.tile_size, len(store.meta.bands), store.meta.dtype)
    samples = np.zeros(len(store), SAMPLE)
    samples["tile"] = np.arange(len(store))
    store.read_into(samples, out)
    return out


def open_as(kind, path, tmp_path):
    if kind == "zarr":
        return Store(LocalStore(path, read_only=True))
    if kind == "memory":
        memory = {}
        for file in path.rglob("*"):
            if file.is_file():
                content = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(file.read_bytes())
                memory[str(file.relative_to(path))] = content
        return Store(MemoryStore(memory, read_only=True))
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "packed"), "zip", path)
        return Store(ZipStore(tmp_path / "packed.zip", mode="r", read_only=True))
    return Store(f"file://{path}" if kind == "address" else path)


@pytest.mark.parametrize("kind", ["folder", "zarr", "memory", "zip", "address"])
def test_every_way_in_reads_the_same(store, tmp_path, kind):
    group = zarr.open_group(store.path, mode="r")
    with open_as(kind, store.path, tmp_path) as opened:
        assert isinstance(opened._image, Shards) == (kind in ("folder", "address"))
        assert len(opened) == len(store)
        assert opened.meta == store.meta
        np.testing.assert_array_equal(opened.fold, store.fold)
        found = every_tile(opened)
        np.testing.assert_array_equal(found.image, group["image"][...])
        np.testing.assert_array_equal(found.label, group["label"][...])
        window = Buffer.empty(2, 32, 7, "int16")
        opened.read_into(np.array([(5, 0, 32, 0), (1, 7, 9, 0)], SAMPLE), window)
        np.testing.assert_array_equal(window.image[1], group["image"][1, 7:39, 9:41])
        np.testing.assert_array_equal(window.label[0], group["label"][5, :32, 32:])


CHAINS = {
    "zstd": {"chunks": (1, 64, 64, 7), "shards": (3, 64, 64, 7), "compressors": ZstdCodec()},
    "no checksum": {"chunks": (1, 64, 64, 7), "shards": (3, 64, 64, 7), "compressors": BloscCodec()},
    "another item size": {
        "chunks": (1, 64, 64, 7),
        "shards": (3, 64, 64, 7),
        "compressors": [BloscCodec(typesize=1, shuffle="shuffle"), Crc32cCodec()],
    },
    "no shards": {"chunks": (1, 64, 64, 7)},
    "several tiles to a chunk": {"chunks": (2, 32, 64, 7), "shards": (4, 64, 64, 7)},
    "parts of tiles": {"chunks": (1, 32, 32, 7)},
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_other_codec_chains_are_read_by_zarr_python(store, copy, chain):
    image = zarr.open_array(store.path / "image", mode="r")[...]
    rewrite(copy, image, chain)
    with Store(copy) as opened:
        assert not isinstance(opened._image, Shards)
        np.testing.assert_array_equal(every_tile(opened).image, image)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_missing_chunk_is_an_error_in_other_chains_too(store, copy, chain):
    image = zarr.open_array(store.path / "image", mode="r")[...]
    image[16:24] = 0
    with zarr.config.set({"array.write_empty_chunks": False}):  # what is all fill value is left out
        rewrite(copy, image, chain)
    with pytest.raises(GlacierError, match=r"image of tiles? \d+.*missing"):
        every_tile(Store(copy))


def rewrite(path, image, chain):
    shutil.rmtree(path / "image")
    array = zarr.create_array(
        LocalStore(path / "image"), shape=image.shape, dtype=image.dtype, fill_value=0, **chain
    )
    array[...] = image
    root = json.loads((path / "zarr.json").read_text())
    written = json.loads((path / "image" / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["image"] = written
    (path / "zarr.json").write_text(json.dumps(root))


def seal(body):
    """A chunk or index with a checksum that fits."""
    return bytes(body) + crc32c(bytes(body)).to_bytes(4, "little")


class Shard:
    """One shard file, to be damaged."""

    def __init__(self, path, count):
        self.path, self.count = path, count
        self.data = path.read_bytes()
        self.size = index_bytes(count)
        self.index = parse_index(self.data[-self.size :], count).astype(np.uint64)

    def chunk(self, i):
        start, length = self.index[i].tolist()
        return start, start + length

    def write(self, data):
        self.path.write_bytes(data)

    def with_index(self, index):
        return self.data[: -self.size] + seal(index.astype("<u8").tobytes())

    def with_chunk(self, i, chunk):
        """Another chunk of the same length in its place."""
        start, stop = self.chunk(i)
        assert len(chunk) == stop - start
        return self.data[:start] + bytes(chunk) + self.data[stop:]


def flipped(shard, i, rng):
    start, stop = shard.chunk(i)
    data = bytearray(shard.data)
    for at in rng.integers(start, stop, rng.integers(1, 4)):
        data[at] ^= 1 << rng.integers(8)
    return data


def flipped_index(shard, i, rng):
    data = bytearray(shard.data)
    data[len(data) - rng.integers(1, shard.size + 1)] ^= 1 << rng.integers(8)
    return data


def zeroed(shard, i, rng):
    start, stop = shard.chunk(i)
    first, last = sorted(rng.integers(start, stop + 1, 2))
    return shard.data[:first] + bytes(last - first) + shard.data[last:]


def zeroed_whole(shard, i, rng):
    start, stop = shard.chunk(i)
    return shard.data[:start] + bytes(stop - start) + shard.data[stop:]


def truncated_file(shard, i, rng):
    return shard.data[: rng.integers(0, len(shard.data))]


def truncated_chunk(shard, i, rng):
    """Shorter, and the index says so."""
    index = shard.index.copy()
    index[i, 1] = rng.integers(0, index[i, 1])
    return shard.with_index(index)


def truncated_and_sealed(shard, i, rng):
    """Shorter, with a checksum of its own."""
    start, stop = shard.chunk(i)
    keep = int(rng.integers(0, stop - start - 4))
    index = shard.index.copy()
    index[i, 1] = keep + 4
    changed = shard.with_index(index)
    part = seal(shard.data[start : start + keep])
    return changed[:start] + part + changed[start + len(part) :]


def false_index(shard, i, rng):
    index = shard.index.copy()
    lies = [0, 1, 2**31, 2**32, 2**63, 2**64 - 2, len(shard.data), len(shard.data) - shard.size]
    index[i, rng.integers(2)] = lies[rng.integers(len(lies))]
    return shard.with_index(index)


def missing(shard, i, rng):
    index = shard.index.copy()
    index[i] = MISSING
    return shard.with_index(index)


def false_header(shard, i, rng):
    """A size in blosc's header changed, under a checksum that fits."""
    start, stop = shard.chunk(i)
    fields = list(HEADER.unpack_from(shard.data, start))
    place = rng.choice([3, 4, 6])
    old = fields[place]
    choices = [0, 1, old - 1, old + 1, old // 2, old * 2, 2**31 - 1, 2**31, 2**32 - 1]
    limit = 255 if place == 3 else 2**32 - 1
    fields[place] = int(rng.choice([c for c in choices if 0 <= c <= limit and c != old]))
    return shard.with_chunk(i, seal(HEADER.pack(*fields) + shard.data[start + HEADER.size : stop - 4]))


def false_block(shard, i, rng):
    """The size of blosc's blocks changed, under a checksum that fits."""
    start, stop = shard.chunk(i)
    fields = list(HEADER.unpack_from(shard.data, start))
    fields[5] = int(rng.choice([0, 1, fields[5] - 1, fields[5] + 1, 2**31 - 1, 2**32 - 1]))
    return shard.with_chunk(i, seal(HEADER.pack(*fields) + shard.data[start + HEADER.size : stop - 4]))


DAMAGES = [
    flipped, flipped_index, zeroed, zeroed_whole, truncated_file, truncated_chunk, truncated_and_sealed,
    false_index, missing, false_header, false_block,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_chunk_is_the_right_tile_or_a_named_error(store, copy, name, damage):
    """36 tiles, six times each: with 2 arrays and 11 damages 4 752 cases."""
    rng = np.random.default_rng(0)
    expected = every_tile(store)
    expected = expected.image if name == "image" else expected.label
    per_shard, errors = 3, 0
    with Store(copy) as opened:
        for tile in np.repeat(np.arange(len(store)), 6).tolist():
            shard = Shard(shard_file(copy, name, tile // per_shard), per_shard)
            shard.write(damage(shard, tile % per_shard, rng))
            setattr(opened, f"_{name}", opened._tiles(name))
            found = read_or_named_error(opened, name, tile)
            if found is None:
                errors += 1
            else:
                np.testing.assert_array_equal(found, expected[tile])
            shard.write(shard.data)
    assert errors > 150, "the damage does little"


@pytest.mark.parametrize(
    "damage", [flipped, zeroed, truncated_file, truncated_chunk, missing, false_header]
)
@pytest.mark.parametrize("name", NAMES)
def test_zarr_python_lets_no_damage_through_either(store, copy, name, damage):
    rng = np.random.default_rng(1)
    for tile in range(len(store)):
        shard = Shard(shard_file(copy, name, tile // 3), 3)
        shard.write(damage(shard, tile % 3, rng))
        with Store(LocalStore(copy, read_only=True)) as opened:
            found = read_or_named_error(opened, name, tile)
            if found is not None:
                np.testing.assert_array_equal(found, read(store, name, tile))
        shard.write(shard.data)


def test_an_unwritten_chunk_is_never_read_as_zeros(copy):
    shard = Shard(shard_file(copy, "label", 4), 3)
    shard.write(missing(shard, 1, None))
    for opened in (Store(copy), Store(LocalStore(copy, read_only=True))):
        with opened, pytest.raises(GlacierError, match=r"label of tile 13 cannot be decoded \(.*missing"):
            opened.label(13)
        opened.close()


def test_a_file_that_shrinks_while_it_is_open_is_an_error(copy):
    """Touching what is gone of a mapped file would end the process."""
    with Store(copy) as opened:
        opened.image(0)
        file = shard_file(copy, "image", 0)
        os.truncate(file, 100)
        with pytest.raises(GlacierError, match="image of tile 0 .* was .* bytes and is 100 now"):
            opened.image(0)


def test_shards_are_let_go_and_opened_again(store, monkeypatch):
    monkeypatch.setattr(reader, "OPEN", 2)
    with Store(store.path) as opened:
        for tile in np.random.default_rng(0).integers(0, 36, 100).tolist():
            np.testing.assert_array_equal(opened.image(tile), store.image(tile))
            assert len(opened._image._open) <= 2


def files_held(path):
    """How many files under `path` this process has open."""
    held = 0
    for file in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            held += str(path) in os.readlink(f"/proc/self/fd/{file}")
    return held


def test_closing_leaves_no_file_and_no_thread(copy):
    before = set(threading.enumerate())
    with Store(copy, threads=4) as opened:
        every_tile(opened)
        during = {each for each in threading.enumerate() if each.name.startswith("glacier")} - before
        assert files_held(copy) == 25  # twelve shards of either array, and the folder
    assert files_held(copy) == 0
    assert during
    assert not any(thread.is_alive() for thread in during)


def test_threads_that_come_at_once_open_the_folder_once(copy, monkeypatch):
    reopen = Place._reopen
    asked = []

    def slow(place, folder):
        asked.append(folder)
        time.sleep(0.05)
        return reopen(place, folder)

    monkeypatch.setattr(Place, "_reopen", slow)
    with Store(copy, threads=8) as opened:
        every_tile(opened)
    assert asked == [copy]
    assert files_held(copy) == 0


def test_a_store_lets_go_of_its_files_when_told_and_when_forgotten(copy):
    opened = Store(copy)
    for _ in range(2):
        opened.image(0)
        assert files_held(copy) == 2
        opened.close_files()
        assert files_held(copy) == 0
    opened.image(0)
    del opened
    gc.collect()
    assert files_held(copy) == 0


def test_several_threads_read_the_same(store):
    with Store(store.path, threads=8) as opened:
        samples = np.zeros(400, SAMPLE)
        samples["tile"] = np.random.default_rng(0).integers(0, 36, 400)
        out = Buffer.empty(400, 64, 7, "int16")
        opened.will_read(samples)
        opened.read_into(samples, out)
        for i, tile in enumerate(samples["tile"].tolist()):
            np.testing.assert_array_equal(out.image[i], store.image(tile))


@pytest.mark.parametrize("name", ["fold", "histogram", "origin", "moments"])
def test_a_missing_small_array_is_an_error_wherever_the_store_is(copy, name):
    shutil.rmtree(copy / name / "c")
    for place in (copy, LocalStore(copy, read_only=True)):
        with Store(place) as opened, pytest.raises(GlacierError, match=f"{name} of tiles .* is missing"):
            opened.array(name)


def test_memory_in_any_order_is_filled_right(store):
    image = np.empty((1, 64, 64, 7), np.int16, order="F")
    store.read_into(np.array([(4, 0, 0, 0)], SAMPLE), Buffer(image, np.empty((1, 64, 64), np.uint8)))
    np.testing.assert_array_equal(image[0], store.image(4))


def test_a_tile_beyond_the_end_is_an_index_error(store):
    with pytest.raises(IndexError, match="no tile 36, expected 0 to 35"):
        store.image(36)
