"""The order of samples is arithmetic: nothing lost, nothing twice, the same for any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glacier.errors import GlacierError, UsageError
from glacier.pipeline.order import check_share, epoch_order, rank_part, steps_per_epoch
from glacier.pipeline.plan import uniform_plan

SEEDS, EPOCHS = st.integers(0, 2**63), st.integers(0, 1000)


def plan(tiles=7, blocks=4, patch=64):
    return uniform_plan(np.ones((tiles, blocks, blocks, 2), np.uint16), np.arange(tiles), patch)


@given(SEEDS, EPOCHS, st.integers(1, 300))
def test_an_order_is_a_pure_function(seed, epoch, count):
    one, two = (epoch_order(plan(), seed, epoch, count) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@given(SEEDS, EPOCHS)
def test_each_window_comes_once_before_any_comes_twice(seed, epoch):
    made = plan()
    order = epoch_order(made, seed, epoch, 2 * len(made) + 5)
    windows = list(zip(made.tile.tolist(), made.y.tolist(), made.x.tolist(), strict=True))
    places = [s[:3] for s in order.tolist()]
    assert sorted(places[: len(made)]) == sorted(windows)
    assert sorted(places[len(made) : 2 * len(made)]) == sorted(windows)
    assert len(set(order["key"].tolist())) == len(order)


def test_seeds_and_epochs_give_other_orders():
    orders = {epoch_order(plan(), s, e, 50).tobytes() for s in range(5) for e in range(5)}
    assert len(orders) == 25


@given(SEEDS, st.sampled_from([12, 24, 60]), st.integers(1, 5))
def test_the_global_order_does_not_depend_on_the_world(seed, batch, steps):
    order = epoch_order(plan(), seed, 0, batch * steps)
    for world in (1, 2, 3, 4, 6):
        taken = [
            np.concatenate([rank_part(order, step, batch, rank, world) for rank in range(world)])
            for step in range(steps)
        ]
        np.testing.assert_array_equal(np.concatenate(taken), order)


@given(SEEDS, st.integers(0, 9))
def test_starting_late_gives_the_tail(seed, start):
    order = epoch_order(plan(), seed, 3, 120)
    rest = [rank_part(order, step, 12, 1, 2) for step in range(start, 10)]
    whole = [rank_part(order, step, 12, 1, 2) for step in range(10)]
    np.testing.assert_array_equal(np.concatenate(rest), np.concatenate(whole)[start * 6 :])


@pytest.mark.parametrize(
    ("batch", "rank", "world", "words"),
    [
        (16, 0, 3, "16 samples cannot be shared evenly by 3 ranks"),
        (0, 0, 1, "0 samples"),
        (4, 2, 2, "rank: 2"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused(batch, rank, world, words):
    with pytest.raises(UsageError, match=words):
        check_share(batch, rank, world)


@pytest.mark.parametrize(("count", "batch", "steps"), [(100, 10, 10), (109, 10, 10), (3, 10, 1)])
def test_epochs_hold_whole_batches(count, batch, steps):
    assert steps_per_epoch(count, batch) == steps


@given(st.integers(0, 2**32), st.sampled_from([32, 64, 96, 128]))
def test_a_plan_holds_the_windows_with_a_labelled_pixel(seed, patch):
    rng = np.random.default_rng(seed)
    histogram = (rng.random((4, 4, 4, 2)) < 0.1).astype(np.uint16)
    histogram[0, 0, 0, 0] = 1
    tiles = np.array([0, 2, 3])
    made = uniform_plan(histogram, tiles, patch)
    side = patch // 32
    expected = {
        (tile, 32 * y, 32 * x)
        for tile in tiles.tolist()
        for y in range(5 - side)
        for x in range(5 - side)
        if histogram[tile, y : y + side, x : x + side].any()
    }
    windows = list(zip(made.tile.tolist(), made.y.tolist(), made.x.tolist(), strict=True))
    assert set(windows) == expected
    assert len(windows) == len(expected)


@pytest.mark.parametrize("patch", [0, 16, 100, 160])
def test_a_patch_that_does_not_fit_is_refused(patch):
    with pytest.raises(UsageError, match=f"data.patch: {patch} px, expected a multiple of 32 up to"):
        plan(patch=patch)


def test_tiles_without_labels_are_an_error():
    with pytest.raises(GlacierError, match="no labelled pixel in the 2 tiles"):
        uniform_plan(np.zeros((2, 4, 4, 2), np.uint16), np.arange(2), 64)
