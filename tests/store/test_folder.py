"""Files of a store appear whole or not at all; chunks do not depend on the number of tiles."""

from dataclasses import replace

import numpy as np
import pytest

from glacier.store.folder import Folder
from glacier.store.schema import SMALL_BYTES, array_specs


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "s.zarr")


def test_a_file_is_there_when_it_is_whole(folder):
    with folder.writing("a/b") as file:
        file.write(b"12")
        assert folder.get("a/b") is None
        file.write(b"34")
    assert folder.get("a/b") == b"1234"
    assert folder.tail("a/b", 3) == (4, b"234")
    assert folder.tail("a/b", 9) == (4, b"1234")
    assert folder.files() == ["a/b"]


def test_an_error_leaves_what_was_there(folder):
    folder.put("a", b"old")

    def broken():
        with folder.writing("a") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert folder.get("a") == b"old"
    assert folder.files() == ["a"]


def test_what_is_not_there_is_none(folder):
    for key in ("a", "a/b"):
        assert folder.get(key) is None
        assert folder.tail(key, 3) is None
    assert folder.files() == []
    folder.delete("a")
    folder.put("a", b"")
    assert folder.get("a/b") is None


def test_deleting_takes_a_folder_and_no_more(folder):
    for key in ("a/1", "a/b/2", "ab"):
        folder.put(key, b"")
    folder.delete("a")
    assert folder.files() == ["ab"]


@pytest.mark.parametrize("size", [32, 512, 8192])
def test_chunks_do_not_depend_on_how_many_tiles_there_are(store, size):
    meta = replace(store.meta, tile_size=size)
    few, many = (array_specs(meta, n, n, 4) for n in (1, 10**6))
    for name, spec in few.items():
        assert (spec.chunk, spec.shard) == (many[name].chunk, many[name].shard)
        assert spec.shape[1:] == many[name].shape[1:]
        raw = np.prod(spec.chunk) * np.dtype(spec.dtype).itemsize
        assert spec.shard or spec.chunk[0] == 1 or raw <= SMALL_BYTES
