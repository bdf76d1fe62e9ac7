"""Weights reach the mix asked for, or come as near as windows allow; sums over chunks lose nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from glacier.errors import GlacierError, UsageError
from glacier.pipeline import balance, windows
from glacier.pipeline.augment import D4, NOTHING, Augment, matrices
from glacier.pipeline.order import epoch_order
from glacier.pipeline.plan import Balance, make_plan, resolve_target
from glacier.pipeline.windows import FINE, JITTER, candidates

NAMES = ["background", "glacier", "debris", "lake"]
TARGET = {"background": 0.1, "glacier": 0.35, "debris": 0.4, "lake": 0.15}


def histogram(tiles, blocks=8, *, lake=1.0, seed=0):
    """Blocks of mountains: ice in a third of the tiles, debris on it, lakes of `lake` blocks in a tenth."""
    rng = np.random.default_rng(seed)
    made = np.zeros((tiles, blocks, blocks, 4), np.uint16)
    ice = (rng.random((tiles, 1, 1)) < 0.3) * rng.random((tiles, blocks, blocks)) ** 0.1
    dirt = ice * (rng.random((tiles, 1, 1)) < 0.3) * rng.random((tiles, blocks, blocks)) ** 0.1
    made[..., 1], made[..., 2] = 1024 * (ice - dirt), 1024 * dirt
    for tile in range(0, tiles, 10):
        y, x = rng.integers(0, blocks - 3, 2)
        side = max(1, int(lake))
        made[tile, y : y + side, x : x + side] = (0, 0, 0, int(1024 * min(lake, 1)))
    made[..., 0] = 1024 - made[..., 1:].sum(-1)
    return made


def planned(made, target=TARGET, *, patch=64, samples=4096, ease=0.0, augment=D4, **settings):
    wanted = Balance(target, **settings)
    found = candidates(made, np.arange(len(made)), patch, augment, wanted.min_labelled)
    return make_plan(found, NAMES, wanted, samples, ease)


# --- masses ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([32, 64, 96, 128]))
def test_masses_are_means_over_the_places_a_window_may_start_at(seed, patch):
    """Against pixels: a window at every place it may start at, but for rounding to parts of a block."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 300, (2, 4, 4, 3)).astype(np.uint16)
    found = candidates(made, np.arange(2), patch, D4).masses(0)
    pixels = np.repeat(np.repeat(made / 1024, 32, axis=1), 32, axis=2)
    side = 4 - patch // 32 + 1
    seen = np.zeros((side, 128))
    for corner in range(side):
        for drift in range(-JITTER, JITTER + 1):
            start = min(max(32 * corner + drift, 0), 128 - patch)
            seen[corner, start : start + patch] += 1 / (2 * JITTER + 1)
    expected = np.einsum("ky,lx,nyxc->nklc", seen, seen, pixels).reshape(-1, 3)
    if patch == 128:
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.005 * patch**2)


def test_masses_of_affine_are_means_over_its_matrices():
    """Against the pixels that drawn matrices see, within what independent rows and columns leave."""
    made = histogram(1, 8, seed=3)
    augment, patch = Augment("affine"), 64
    found = candidates(made, np.arange(1), patch, augment).masses(0).reshape(7, 7, 4)
    label = np.pad(made[0].repeat(32, 0).repeat(32, 1) / 1024, ((64, 64), (64, 64), (0, 0)))
    rng = np.random.default_rng(0)
    samples = np.zeros(3000, [("y", "i4"), ("x", "i4"), ("key", "u8")])
    samples["key"] = rng.integers(0, 2**63, 3000)
    at = np.stack([*np.meshgrid(*[np.arange(2, 64, 4)] * 2), np.ones((16, 16))]).reshape(3, -1)
    for row, column in [(1, 1), (2, 3), (5, 4)]:
        samples["y"], samples["x"] = (
            32 * row + rng.integers(-JITTER, JITTER + 1, 3000),
            32 * column + rng.integers(-JITTER, JITTER + 1, 3000),
        )
        x, y = np.moveaxis(np.floor(matrices(samples, augment, patch) @ at).astype(int), 1, 0)
        seen = label[(y + 64).clip(0, 383), (x + 64).clip(0, 383)].mean(axis=(0, 1)) * patch**2
        assert abs(found[row, column] - seen).max() < 0.02 * patch**2


def test_masses_are_exact_in_any_order():
    made = histogram(30, 16)
    for augment in (D4, Augment("affine")):
        for patch in (64, 256, 512):
            found = candidates(made, np.arange(30), patch, augment)
            again = candidates(made, np.arange(30)[::-1], patch, augment)
            parts = found.masses(0) * FINE**2
            np.testing.assert_array_equal(parts, np.rint(parts))
            both = parts.reshape(30, -1)[::-1], (again.masses(0) * FINE**2).reshape(30, -1)
            np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("patch", [0, 16, 100, 288])
def test_a_patch_that_does_not_fit_is_refused(patch):
    with pytest.raises(UsageError, match=f"data.patch: {patch} px, expected a multiple of 32 up to"):
        planned(histogram(2), patch=patch)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [32, 64, 96])
def test_a_target_within_reach_is_reached(patch):
    made = planned(histogram(600, lake=3), patch=patch, repeats=1e9)
    np.testing.assert_allclose(made.reached, list(TARGET.values()), atol=1e-3)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.lists(st.floats(0.02, 1), min_size=4, max_size=4))
def test_weights_are_those_of_greatest_entropy(seed, shares):
    """Against scipy's minimiser of the same dual without cap, on few windows."""
    made = histogram(60, lake=2, seed=seed)
    target = dict(zip(NAMES, shares, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance, "RHO", 1e-7)
        found = planned(made, target, repeats=1e9, min_labelled=0.0)
    m = found.windows.as_shares(found.windows.masses(0))
    t = np.array(shares) / sum(shares)
    d = m - np.outer(m.sum(1), t)

    def dual(free):
        slope = np.append(free, 0)
        z = d @ slope
        return np.log(np.exp(z - z.max()).mean()) + z.max()

    best = minimize(dual, np.zeros(3), method="BFGS", tol=1e-9)
    if np.linalg.norm(best.jac) > 1e-4 or abs(best.x).max() > 50:
        return  # out of reach: there is no minimum
    w = np.exp(d @ np.append(best.x, 0))
    weight, _ = found.weigh(0)
    np.testing.assert_allclose(weight / weight.sum(), w / w.sum(), atol=1e-4 * (w / w.sum()).max())


def test_no_window_repeats_more_often_than_it_may():
    for repeats in (1.0, 2.5, 8.0):
        made = planned(histogram(400, lake=2), repeats=repeats)
        assert made.most * 4096 <= repeats * (1 + 1e-6)
        weight = np.concatenate([made.weigh(c)[0] for c in range(made.windows.chunks)])
        assert np.ceil(4096 * weight.max() / weight.sum() - 1e-6) <= np.ceil(repeats)


def test_a_cap_costs_mix_and_gives_windows():
    free, held = (planned(histogram(400, lake=2), repeats=r) for r in (1e9, 2.0))
    want = np.array(list(TARGET.values()))
    assert abs(free.reached - want).max() < 1e-3
    assert abs(held.reached - want).max() > 1e-2
    assert held.effective > 1.5 * free.effective


def test_the_more_windows_may_repeat_the_nearer_the_mix_comes():
    """In relative entropy, with half of the tiles hardly labelled: those do not hide what is missed."""
    made = histogram(200, lake=0.05)
    made[::2] //= 8
    misses = []
    for repeats in (2.0, 8.0, 32.0, 128.0, 1e9):
        reached = planned(made, repeats=repeats, samples=2048).reached
        want = np.array(list(TARGET.values()))
        misses.append(float((want * np.log(want / reached)).sum()))
    assert misses == sorted(misses, reverse=True)
    assert misses[-1] < 0.7 * misses[0]


def test_more_samples_than_the_cap_allows_lift_it():
    made = planned(histogram(20), samples=10**6, repeats=1.0)
    np.testing.assert_allclose(made.reached, made.natural, atol=1e-6)


def test_a_rare_class_out_of_reach_is_not_given_up_for_the_others():
    made = planned(histogram(400, lake=0.05), repeats=8.0)
    natural, reached = made.natural[3], made.reached[3]
    assert reached < 0.05
    assert reached > 5 * natural


def test_without_a_target_all_windows_are_equally_likely():
    made = planned(histogram(50), {})
    assert made.effective == pytest.approx(made.count)
    np.testing.assert_allclose(made.reached, made.natural)


@pytest.mark.parametrize("ease", [0.25, 0.5, 1.0])
def test_easing_goes_back_to_the_natural_mix(ease):
    made = planned(histogram(600, lake=3), ease=ease, repeats=1e9)
    want = (1 - ease) * np.array(list(TARGET.values())) + ease * made.natural
    np.testing.assert_allclose(made.reached, want, atol=1e-3)


def test_windows_with_few_labelled_pixels_are_left_out():
    made = histogram(10)
    made[:5] = 0
    made[:5, 0, 0, 0] = 100
    assert planned(made, {}).count == 5 * 49
    assert planned(made, {}, min_labelled=0.0).count == 5 * 49 + 5 * 4


def test_many_tiles_weigh_as_few_do(monkeypatch):
    """Small chunks, and a search that starts from a part, come to the same weights."""
    made = histogram(600, lake=2)
    whole = planned(made)
    orders = [epoch_order(whole, 3, 0, 4096)]
    monkeypatch.setattr(windows, "CHUNK", 7)
    monkeypatch.setattr(balance, "FEW", 50)
    parts = planned(made)
    assert parts.windows.chunks == 86
    np.testing.assert_allclose(parts.tilt.slope, whole.tilt.slope, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(parts.reached, whole.reached, atol=1e-5)
    orders.append(epoch_order(parts, 3, 0, 4096))
    mixes = []
    for order in orders:
        block = order["y"] // 32, order["x"] // 32
        mixes.append(made[order["tile"], *block].sum(axis=0) / made[order["tile"], *block].sum())
    np.testing.assert_allclose(*mixes, atol=0.02)


@pytest.mark.parametrize("labelled", [slice(None), slice(1, None, 2)])
def test_a_part_that_lacks_a_class_is_not_started_from(monkeypatch, labelled):
    """A class in one tile that the part misses; and a part that holds no label at all."""
    made = histogram(400, lake=0.001)
    made[..., 3] = 0
    made[1, 2:5, 2:5] = (0, 0, 0, 1024)
    kept = np.zeros_like(made)
    kept[labelled] = made[labelled]
    whole = planned(kept)
    monkeypatch.setattr(balance, "FEW", 100)
    parts = planned(kept)
    np.testing.assert_allclose(parts.reached, whole.reached, atol=1e-5)
    assert parts.most * 4096 <= 8 * (1 + 1e-6)


def test_affine_of_no_amount_sees_what_d4_sees():
    still = Augment("affine", rotate=0, scale=0, shift=0)
    for patch in (32, 64, 256):
        one, two = (candidates(histogram(3), np.arange(3), patch, a).masses(0) for a in (still, D4))
        np.testing.assert_allclose(one, two, atol=0.02 * patch**2)
    full = candidates(histogram(3), np.arange(3), 256, still).masses(0).sum(axis=1)
    np.testing.assert_allclose(full, 256**2, rtol=1e-3)


# --- what is refused ------------------------------------------------------------------------------


def test_a_class_that_there_is_not_is_dropped():
    natural = np.array([0.5, 0.5, 0, 0])
    shares, absent = resolve_target(TARGET, NAMES, natural)
    np.testing.assert_allclose(shares, [0.1 / 0.45, 0.35 / 0.45, 0, 0])
    assert absent == ["debris", "lake"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: planned(histogram(9), {"glacier": 1.0}), "no share for background, debris, lake"),
        (lambda: Balance({"lake": -1}), "lake = -1.0, expected a share"),
        (lambda: Balance({"lake": float("nan")}), "lake = nan, expected a share"),
        (lambda: Balance({"lake": 0}), "all shares are 0"),
        (lambda: Balance(repeats=0.5), "data.repeats: 0.5, expected at least 1"),
        (lambda: Balance(min_labelled=2), "data.min_labelled: 2, expected 0 to 1"),
        (lambda: Augment("d5"), "data.augment: 'd5', expected one of none, d4, affine"),
        (lambda: Augment("affine", scale=1.5), "data.scale: 1.5, expected 0 to 0.9"),
        (lambda: Augment(rotate=-1), "data.rotate: -1, expected 0 to 180"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_tiles_without_labels_are_an_error():
    with pytest.raises(
        GlacierError, match="no window of 64 px with at least 5% labelled pixels in the 2 tiles"
    ):
        planned(np.zeros((2, 4, 4, 4), np.uint16))


def test_exact_presets_see_the_same_pixels():
    assert (
        candidates(histogram(3), np.arange(3), 64, NOTHING).coverage
        == candidates(histogram(3), np.arange(3), 64, D4).coverage
    ).all()
