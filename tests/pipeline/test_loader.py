"""Batches as a training loop gets them."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import glacier
from glacier.errors import GlacierError, UsageError
from glacier.pipeline.augment import D4, NOTHING, matrices
from glacier.pipeline.buffer import Buffer, Recycled
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.loader import Loader, tile_feed
from glacier.pipeline.reference import reference_graph, reference_inputs
from glacier.pipeline.split import split, statistics
from glacier.store.reader import Store


def raw_loader(store, **options):
    settings = {"tiles": np.arange(len(store)), "patch": 32, "batch": 6, "seed": 4} | options
    return Loader(store, **settings)


def threads():
    names = {t.name for t in threading.enumerate()}
    return {name for name in names if name.startswith(("glacier-feed", "glacier-work"))}


@pytest.mark.parametrize("augment", [NOTHING, D4])
@pytest.mark.parametrize("backend", ["dali", "numba"])
def test_every_sample_equals_a_direct_read(store, backend, augment):
    loader = raw_loader(store, samples_per_epoch=60, backend=backend, augment=augment)
    seen = []
    for batch in loader:
        expected = Buffer.empty(6, 32, 7, "int16")
        store.read_into(batch.samples, expected)
        expected = reference_graph(expected, matrices(batch.samples, augment, 32))
        assert batch.image.shape == (6, 7, 32, 32)
        assert batch.image.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(batch.image.permute(0, 2, 3, 1).numpy(), expected.image)
        np.testing.assert_array_equal(batch.label.numpy(), expected.label)
        seen.append((batch.image, batch.image.clone()))
    assert len(seen) == len(loader) == 10
    assert all(torch.equal(held, then) for held, then in seen), "a batch changed after it was yielded"
    assert not threads()


def test_ranks_share_the_batches_of_one(store):
    whole = [b.samples for b in raw_loader(store)]
    parts = [[b.samples for b in raw_loader(store, rank=r, world=3)] for r in range(3)]
    assert [len(p) for p in parts] == [len(whole)] * 3
    for step, expected in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([p[step] for p in parts]), expected)


def test_each_epoch_has_its_own_order(store):
    loader = raw_loader(store)
    first, second = ([b.samples.tobytes() for b in loader] for _ in range(2))
    assert first != second
    again = raw_loader(store)
    assert [b.samples.tobytes() for b in again] == first


def test_leaving_a_loop_early_leaves_no_thread(store):
    for _ in raw_loader(store):
        break
    assert not threads()


def test_an_error_in_the_reading_thread_reaches_the_loop(store):
    class Broken:
        def __getattr__(self, name):
            return getattr(store, name)

        def __len__(self):
            return len(store)

        def read_into(self, samples, out):
            raise GlacierError("store: tile 7 cannot be decoded")

    with pytest.raises(GlacierError, match="tile 7"):
        list(raw_loader(Broken()))
    assert not threads()


@pytest.mark.parametrize("backend", ["dali", "numba"])
def test_standardised_batches_equal_the_reference(store, backend):
    parts = split(store, 0)
    found = statistics(store, parts.train)
    mean, std = [s.mean for s in found], [s.std for s in found]
    inputs = Inputs(store.meta.bands, found)
    gaps = 0
    for batch in raw_loader(store, samples_per_epoch=60, inputs=inputs, backend=backend, patch=64):
        raw = Buffer.empty(6, 64, 7, "int16")
        store.read_into(batch.samples, raw)
        raw = reference_graph(raw, matrices(batch.samples, D4, 64))
        expected = reference_inputs(raw.image, store.meta.bands, mean, std)
        seen = batch.image.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(seen, expected, atol=1e-4)
        missing = raw.image == np.array([band.nodata for band in store.meta.bands], np.int16)
        assert (seen[missing] == 0).all()
        gaps += missing.sum()
    assert gaps > 0


@pytest.mark.parametrize("damage", ["flip", "unlink"])
def test_a_damaged_tile_ends_the_loop_with_its_name(store, tmp_path, damage):
    path = shutil.copytree(store.path, tmp_path / "copy.zarr")
    with Store(path) as opened:
        shard = path / "image" / "c" / "3" / "0" / "0" / "0"
        if damage == "flip":
            data = bytearray(shard.read_bytes())
            data[100] ^= 4
            shard.write_bytes(data)
        else:
            shard.unlink()
        with pytest.raises(GlacierError, match=r"copy.zarr: image of tile (9|10|11) cannot be decoded"):
            list(raw_loader(opened))
    assert not threads()


@pytest.mark.parametrize("backend", ["dali", "numba"])
def test_two_loops_over_one_loader_do_not_mix(store, backend):
    loader = raw_loader(store, samples_per_epoch=120, backend=backend)
    for pair in zip(iter(loader), iter(loader), strict=True):
        for batch in pair:
            expected = Buffer.empty(6, 32, 7, "int16")
            store.read_into(batch.samples, expected)
            expected = reference_graph(expected, matrices(batch.samples, D4, 32))
            np.testing.assert_array_equal(batch.image.permute(0, 2, 3, 1).numpy(), expected.image)
            np.testing.assert_array_equal(batch.label.numpy(), expected.label)


@pytest.mark.parametrize("bands", [[0, 1], [1, 0, 2, 3, 4, 5, 6]])
def test_inputs_for_other_bands_are_refused(store, bands):
    found = statistics(store, np.arange(5))
    pick = bands if len(bands) == 7 else None
    inputs = Inputs([store.meta.bands[i] for i in bands], [found[i] for i in bands], pick)
    with pytest.raises(ValueError, match="expected all 7"):
        raw_loader(store, inputs=inputs)


def test_memory_is_used_again_only_when_nothing_refers_to_it():
    recycled = Recycled((4, 8), "int16")
    first = recycled.take()
    address = first.ctypes.data
    tensor = torch.from_numpy(first).view(-1)[3:]
    view = first[1:3].T
    del first
    assert recycled.take().ctypes.data != address
    del view
    assert recycled.take().ctypes.data != address
    del tensor
    assert address in {recycled.take().ctypes.data for _ in range(3)}


def test_what_a_loop_keeps_is_its_own(store):
    """Parts of batches kept at random, while the loader goes on."""
    rng = np.random.default_rng(0)
    kept = []
    for batch in raw_loader(store, samples_per_epoch=1200, augment=NOTHING):
        if rng.random() < 0.2:
            part = batch.image[int(rng.integers(6)), :, 3:9]
            kept.append((part, part.clone()))
            kept.append((batch.label.flatten()[7:], batch.label.flatten()[7:].clone()))
    assert len(kept) > 40
    assert all(torch.equal(part, then) for part, then in kept)


@pytest.mark.slow
def test_five_thousand_batches(store, capsys):
    """At random delays of their consumer: every sample is the store's, memory stays, nothing is left."""
    rng = np.random.default_rng(0)
    whole = Buffer.empty(len(store), 64, 7, "int16")
    for tile in range(len(store)):
        whole.image[tile], whole.label[tile] = store.image(tile), store.label(tile)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    def files():
        return len(list(Path("/proc/self/fd").iterdir()))

    curve, before = [], (threading.active_count(), files())
    with Store(store.path) as opened:
        loader = raw_loader(opened, samples_per_epoch=30_000, patch=64)
        for step, batch in enumerate(loader):
            tiles = batch.samples["tile"]
            raw = Buffer(whole.image[tiles], whole.label[tiles])
            expected = reference_graph(raw, matrices(batch.samples, D4, 64))
            assert np.array_equal(batch.image.permute(0, 2, 3, 1).numpy(), expected.image)
            assert np.array_equal(batch.label.numpy(), expected.label)
            if rng.random() < 0.2:
                time.sleep(rng.exponential(0.01))
            if step % 500 == 499:
                curve.append(resident())
    assert step == 4999
    assert (threading.active_count(), files()) == before
    with capsys.disabled():
        print(f"\nresident memory at batch 500 and 5000: {curve[0]:.1f} and {curve[-1]:.1f} MiB")
    assert curve[-1] - curve[0] < 8


def test_waiting_is_counted(store):
    loader = raw_loader(store)
    list(loader)
    assert loader.waited > 0


def test_whole_tiles_come_once_each_in_order(store):
    tiles = np.array([5, 1, 30, 2, 9])
    batches = list(tile_feed(store, tiles, batch=2, device="cpu"))
    assert [len(b.samples) for b in batches] == [2, 2, 1]
    assert np.concatenate([b.samples["tile"] for b in batches]).tolist() == tiles.tolist()
    for batch in batches:
        for sample, image, label in zip(batch.samples, batch.image, batch.label, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), store.image(int(sample["tile"])))
            np.testing.assert_array_equal(label.numpy(), store.label(int(sample["tile"])))


def test_four_lines_of_python(store):
    opened = glacier.open(store.path)
    seen = 0
    for batch in glacier.loader(opened, batch=4, patch=32):
        assert batch.image.dtype == torch.float32
        assert torch.isfinite(batch.image).all()
        seen += len(batch.label)
    assert seen > 0


def test_on_batch_is_called_with_each_batch(store):
    shapes = list(glacier.loader(store, batch=4, on_batch=lambda batch: tuple(batch.image.shape)))
    assert set(shapes) == {(4, 7, 64, 64)}


def test_standardised_bands_have_mean_nought_and_deviation_one(store):
    """Over one pass of the training tiles, uniformly."""
    loader = glacier.loader(store, batch=1, augment="none", samples_per_epoch=10**6)
    tiles = split(store, 0).train
    loader.steps = len(tiles)
    images = torch.cat([b.image for b in loader])
    assert len(images) == len(tiles)
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
    assert mean.abs().max() < 0.02
    assert (std - 1).abs().max() < 0.06  # no data stands at the mean


def test_training_tiles_keep_away_from_the_fold(store):
    for fold in range(store.meta.folds):
        parts = split(store, fold)
        assert set(store.fold[parts.val].tolist()) == {fold}
        assert len(parts.train) + len(parts.val) + len(parts.left_out) == len(store)
        corners = store.array("transform")[:, [2, 5]] / (30 * 64)
        gaps = np.abs(corners[parts.train][:, None] - corners[parts.val][None]).max(axis=-1)
        assert gaps.min() > 1.5, "a training tile touches one of the fold"
        assert sorted(parts.tiles("all").tolist()) == list(range(len(store)))


def test_training_statistics_are_those_of_the_training_tiles(store):
    parts = split(store, 1)
    found = statistics(store, parts.train)
    pixels = np.concatenate([store.image(t)[..., 0].ravel() for t in parts.train])
    values = store.meta.bands[0].unpack(pixels)
    np.testing.assert_allclose(
        [found[0].mean, found[0].std], [np.nanmean(values), np.nanstd(values)], rtol=1e-9
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fold": 9}, UsageError, "train.fold: 9, expected 0 to 4"),
        ({"batch": 3, "world": 2}, UsageError, "3 samples cannot be shared evenly by 2 ranks"),
        ({"patch": 50}, UsageError, "data.patch: 50 px"),
        ({"augment": "mirror"}, UsageError, "data.augment: 'mirror'"),
        ({"split": "valid"}, UsageError, "split: 'valid', expected train, val, test or all"),
        ({"rank": 2, "world": 2}, UsageError, "rank: 2, expected 0 to 1"),
        ({"batch": 0}, UsageError, "0 samples"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(store, options, error, words):
    with pytest.raises(error, match=words):
        glacier.loader(store, **{"batch": 4} | options)


def test_a_loop_that_takes_just_the_epochs_batches_goes_on_to_the_next(store):
    loader = raw_loader(store)
    first, second = (
        [b.samples.tobytes() for _, b in zip(range(len(loader)), loader, strict=False)] for _ in "ab"
    )
    assert len(first) == len(second) == len(loader)
    assert first != second


def test_a_loop_that_is_left_early_has_had_its_epoch(store):
    """As with PyTorch's loader: what comes is new. Only a state brings a loader back into an epoch."""
    whole, left = raw_loader(store), raw_loader(store)
    epochs = [[b.samples.tobytes() for b in whole] for _ in range(3)]
    for number, taken in enumerate((1, 3, 2)):
        assert [b.samples.tobytes() for _, b in zip(range(taken), left, strict=False)] == epochs[number][
            :taken
        ]
    state = left.state_dict()
    assert (state["epoch"], state["step"]) == (2, 2)
    left.load_state_dict(state)
    assert [b.samples.tobytes() for b in left] == epochs[2][2:]
    assert not threads()


def test_several_loaders_share_a_store(store):
    """Training and validation side by side give what each gives alone."""
    train, other = (glacier.loader(store, batch=4, seed=seed, samples_per_epoch=32) for seed in (0, 1))
    val = glacier.tiles(store, batch=2)
    alone = [[b.image.clone() for b in one] for one in (train, other, val)]
    train.load_state_dict({**train.state_dict(), "epoch": 0})
    other.load_state_dict({**other.state_dict(), "epoch": 0})
    for number, batches in enumerate(zip(train, other, val, strict=False)):
        for batch, before in zip(batches, alone, strict=True):
            assert torch.equal(batch.image, before[number])


def test_tiles_to_validate_come_once_each_standardised_as_in_training(store):
    tiles = glacier.tiles(store, batch=3, fold=1)
    expected = split(store, 1)
    inputs = Inputs(store.meta.bands, statistics(store, expected.train))
    for _ in range(2):  # as often as one likes
        batches = list(tiles)
        assert len(batches) == len(tiles)
        assert np.concatenate([b.samples["tile"] for b in batches]).tolist() == expected.val.tolist()
        for image, label, samples in batches:
            raw = torch.from_numpy(np.stack([store.image(int(t)) for t in samples["tile"]]))
            torch.testing.assert_close(image, inputs(raw.permute(0, 3, 1, 2)))
            np.testing.assert_array_equal(label, [store.label(int(t)) for t in samples["tile"]])
    next(iter(tiles))  # and left
    assert not threads()


def test_ranks_share_the_tiles_to_validate(store):
    parts = [glacier.tiles(store, batch=2, split="all", rank=r, world=5) for r in range(5)]
    seen = [int(t) for part in parts for batch in part for t in batch.samples["tile"]]
    assert sorted(seen) == list(range(len(store)))
    assert [len(part) for part in parts] == [4, 4, 4, 4, 4]


@pytest.mark.parametrize("options", [{"batch": 0}, {"rank": 2, "world": 2}, {"rank": -1}])
def test_tiles_refuse_what_does_not_fit(store, options):
    with pytest.raises(UsageError, match="expected one tile or more, and ranks from 0"):
        glacier.tiles(store, **{"batch": 4} | options)


def test_a_feed_that_nobody_iterates_starts_no_thread(store):
    tile_feed(store, np.arange(3), batch=1, device="cpu").close()
    assert not threads()
    feed = tile_feed(store, np.arange(3), batch=1, device="cpu")
    assert len(list(feed)) == 3
    with pytest.raises(RuntimeError):
        list(feed)
