import itertools

import numpy as np
import pytest
import torch

from benchmarks.peers import PEERS, Memmap, TensorstoreReader, ZarrReader, ZarrTiles, check, open_peer
from benchmarks.tiles import make_store, make_tiles


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return make_tiles(tmp_path_factory.mktemp("tiles") / "tiles", "noise", count=8, size=64)


@pytest.fixture(scope="module")
def store(tiles):
    return make_store(tiles, tiles.folder.parent / "tiles.zarr")


@pytest.fixture
def opened(tiles, store, tmp_path, request):
    peer = open_peer(request.param, tiles, store, tmp_path, batch=3, workers=1)
    if isinstance(peer, str):
        pytest.skip(f"{request.param.name}: {peer}")
    yield peer
    peer.close()


@pytest.mark.parametrize("opened", PEERS, indirect=True, ids=lambda kind: kind.name)
def test_every_peer_does_the_same_job(opened, tiles):
    for _ in range(2):
        check(opened, tiles)


@pytest.mark.parametrize("opened", [Memmap], indirect=True, ids=["memmap"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda image, label: (image.flip(2), label),
        lambda image, label: (image + 0.01, label),
        lambda image, label: (image, label.flip(0)),
        lambda image, label: (image[:-1], label[:-1]),
    ],
    ids=["flipped without its label", "shifted", "labels swapped", "one dropped"],
)
def test_the_check_notices(opened, tiles, spoil):
    epoch = opened.epoch
    opened.epoch = lambda: itertools.starmap(spoil, epoch())
    with pytest.raises(ValueError, match="no tile|did not come"):
        check(opened, tiles)


def test_order_and_flips_differ_between_epochs(tiles, store, tmp_path):
    peer = open_peer(PEERS[-1], tiles, store, tmp_path, batch=8, workers=1)
    if isinstance(peer, str):
        pytest.skip(f"{PEERS[-1].name}: {peer}")
    first, second = (torch.cat([image.clone() for image, _ in peer.epoch()]) for _ in range(2))
    assert not torch.equal(first, second)


def test_readers_read_what_is_there(tiles, store):
    reader = ZarrReader(store)
    reader.read(range(len(tiles)))
    pytest.importorskip("tensorstore", reason="missing (pip install .[peers])")
    other = TensorstoreReader(store, threads=2)
    other.read(np.arange(len(tiles)))
    for expected, found in zip(ZarrTiles(store), other.samples(range(len(tiles))), strict=False):
        np.testing.assert_array_equal(expected[0], found[0])
        np.testing.assert_array_equal(expected[1], found[1])
