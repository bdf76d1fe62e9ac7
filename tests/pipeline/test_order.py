"""The order of samples is arithmetic: nothing lost, nothing twice, the same for any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier.errors import UsageError
from glacier.pipeline import order as order_module
from glacier.pipeline.augment import D4
from glacier.pipeline.order import check_share, epoch_order, rank_part, steps_per_epoch
from glacier.pipeline.plan import Balance, make_plan
from glacier.pipeline.windows import JITTER, candidates

SEEDS, EPOCHS = st.integers(0, 2**63), st.integers(0, 1000)
NAMES = ["rock", "ice", "lake"]


def histogram(tiles, blocks, seed=0):
    """Ice over rock, unlabelled corners, and a lake in every third tile."""
    rng = np.random.default_rng(seed)
    made = np.zeros((tiles, blocks, blocks, 3), np.uint16)
    made[..., 1] = rng.integers(0, 600, made.shape[:-1])
    made[..., 0] = 1024 - made[..., 1]
    made[::3, 1, 1] = (124, 100, 800)
    made[:, 0, 0] = 0
    return made


def plan(tiles=7, blocks=4, patch=64, samples=200, target=None, repeats=8.0):
    windows = candidates(histogram(tiles, blocks), np.arange(tiles), patch, D4, 0.05)
    return make_plan(windows, NAMES, Balance(target or {}, repeats), samples)


BALANCED = plan(target={"rock": 0.3, "ice": 0.3, "lake": 0.4})
UNIFORM = plan()
PLANS = st.sampled_from([UNIFORM, BALANCED])


@given(PLANS, SEEDS, EPOCHS, st.integers(1, 300))
def test_an_order_is_a_pure_function(made, seed, epoch, count):
    one, two = (epoch_order(made, seed, epoch, count) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert len(set(one["key"].tolist())) == count
    assert np.isin(one["tile"], made.windows.tiles).all()
    for axis in ("y", "x"):
        assert one[axis].min() >= 0
        assert one[axis].max() <= 128 - 64


def still(made, *arguments):
    """An order of samples that start at their windows' corners, so that those can be told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "JITTER", 0)
        return epoch_order(made, *arguments)


@given(PLANS, SEEDS, EPOCHS, st.integers(1, 600))
def test_a_window_comes_as_often_as_its_weight_says(made, seed, epoch, count):
    order = still(made, seed, epoch, count)
    weight, _ = made.weigh(0)
    expected = count * weight / weight.sum()
    cell = 9 * order["tile"] + 3 * (order["y"] // 32) + order["x"] // 32
    found = np.bincount(cell, minlength=len(weight))
    assert found.sum() == count
    assert (found >= np.floor(expected - 1e-6)).all()
    assert (found <= np.ceil(expected + 1e-6)).all()


@given(SEEDS, EPOCHS)
def test_uniform_windows_each_come_once_before_any_comes_twice(seed, epoch):
    windows = UNIFORM.count
    order = still(UNIFORM, seed, epoch, windows)
    assert len({s[:3] for s in order.tolist()}) == windows


def test_seeds_and_epochs_give_other_orders():
    orders = {epoch_order(BALANCED, s, e, 50).tobytes() for s in range(5) for e in range(5)}
    assert len(orders) == 25


@settings(max_examples=2000)
@given(PLANS, SEEDS, EPOCHS, st.sampled_from([12, 24, 60]), st.integers(1, 5))
def test_the_global_order_does_not_depend_on_the_world(made, seed, epoch, batch, steps):
    """At one global batch: the same for any number of ranks, which are disjoint and take equal steps."""
    order = epoch_order(made, seed, epoch, batch * steps)
    for world in (1, 2, 3, 4, 6):
        parts = [[rank_part(order, s, batch, r, world) for s in range(steps)] for r in range(world)]
        assert {len(part) for rank in parts for part in rank} == {batch // world}
        keys = [set(np.concatenate(rank)["key"].tolist()) for rank in parts]
        assert sum(map(len, keys)) == len(set.union(*keys)) == batch * steps
        whole = [np.concatenate([rank[s] for rank in parts]) for s in range(steps)]
        np.testing.assert_array_equal(np.concatenate(whole), order)


@given(SEEDS, st.integers(0, 9), st.sampled_from([1, 2, 3]))
def test_starting_late_gives_the_tail(seed, start, world):
    order = epoch_order(BALANCED, seed, 3, 120)
    rest = [rank_part(order, s, 12, r, world) for s in range(start, 10) for r in range(world)]
    np.testing.assert_array_equal(np.concatenate(rest), order[start * 12 :])


def test_samples_start_anywhere_around_their_corner():
    order = epoch_order(plan(samples=20000), 1, 2, 20000)
    for axis in ("y", "x"):
        near = {c + d for c in (0, 32, 64) for d in range(-JITTER, JITTER + 1)}
        assert set(order[axis].tolist()) == {place for place in near if 0 <= place <= 64}
        assert abs(order[axis].mean() - 32) < 1


def test_windows_as_large_as_tiles_do_not_move():
    order = epoch_order(plan(patch=128), 0, 0, 70)
    assert not order["y"].any()
    assert not order["x"].any()
    assert np.bincount(order["tile"]).tolist() == [10] * 7


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
