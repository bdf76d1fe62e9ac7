"""Losses: golden values, oracles, gradients, and what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef
from torch.nn import functional

from glacier.errors import UsageError
from glacier.model.losses import NEAR, TERMS, CombinedLoss, target_of

ALPHA = {"1": 2.0, "2": 3.0, "3": 4.0}
EVERY = sorted(TERMS)


def combined(terms, classes=4, **options):
    return CombinedLoss(terms, [str(c) for c in range(classes)], **options)


def terms(names, logits, label, alpha=None):
    """The value of each term."""
    made = combined(dict.fromkeys(names, 1.0), logits.shape[1], alpha=alpha)
    target = made.target(label)
    return made.terms(made.sums(logits, target), made.weight(target))


def term(name, logits, label, alpha=None):
    return terms([name], logits, label, alpha)[0]


def batch(n=3, classes=4, size=8, ignored=0.2, seed=0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, size, size, generator=made, dtype=dtype)
    label = torch.randint(0, classes, (n, size, size), generator=made).to(torch.uint8)
    label[torch.rand(n, size, size, generator=made) < ignored] = 255
    return logits, label


def one_hot(label, classes=4, factor=50.0):
    """Scores that leave no doubt."""
    return (
        factor
        * functional.one_hot(label.long().clamp(max=classes - 1), classes).permute(0, 3, 1, 2).double()
    )


# Oracles: pixel by pixel in NumPy


def shares_of(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def held_pixels(logits, label):
    """Shares (n, C) and classes (n,) of the labelled pixels."""
    held = label != 255
    return np.moveaxis(shares_of(logits), 1, -1)[held], label[held]


def cross_entropy_by_numpy(logits, label):
    share, truth = held_pixels(logits, label)
    return -np.log(share[np.arange(len(truth)), truth]).mean()


def focal_by_numpy(logits, label, alpha=(1, 2, 3, 4)):
    share, truth = held_pixels(logits, label)
    p = share[np.arange(len(truth)), truth]
    return (np.array(alpha)[truth] * -((1 - p) ** 2) * np.log(p)).mean()


def dice_by_numpy(logits, label):
    share, truth = held_pixels(logits, label)
    parts = [
        1 - (2 * share[truth == c, c].sum() + 1) / (share[:, c].sum() + (truth == c).sum() + 1)
        for c in np.unique(truth)
    ]
    return np.mean(parts)


def mcc_by_numpy(logits, label):
    """From the soft confusion matrix, by Gorodkin's sums over triples of classes."""
    share, truth = held_pixels(logits, label)
    m = np.stack([share[truth == c].sum(axis=0) for c in range(share.shape[1])])
    covariance = sum(
        m[k, k] * m[lo, n] - m[k, lo] * m[n, k]
        for k in range(len(m)) for lo in range(len(m)) for n in range(len(m))
    )  # fmt: skip
    rows = sum(m[k].sum() * (m.sum() - m[k].sum()) for k in range(len(m)))
    columns = sum(m[:, k].sum() * (m.sum() - m[:, k].sum()) for k in range(len(m)))
    return 1 - covariance / np.sqrt(rows * columns)


def around(value, i, y, x, reach):
    return value[i, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]


def boundary_error_by_numpy(logits, label):
    error, count, share = 0.0, 0, shares_of(logits)
    for i, y, x in np.argwhere(label != 255):
        near = around(label, i, y, x, NEAR)
        if (near[near != 255] != label[i, y, x]).any():
            error -= np.log(share[i, label[i, y, x], y, x])
            count += 1
    return error / max(count, 1)


def boundary_f1_by_numpy(logits, label):
    share, held, losses = shares_of(logits), label != 255, []
    for c in range(logits.shape[1]):
        edges = []
        for value in ((label == c).astype(float), share[:, c]):
            other, edge = (1 - value) * held, np.zeros_like(value)
            for i, y, x in np.argwhere(held):
                edge[i, y, x] = around(other, i, y, x, 1).max() - other[i, y, x]
            edges.append(edge)
        wide = [np.zeros_like(edge) for edge in edges]
        for edge, out in zip(edges, wide, strict=True):
            for i, y, x in np.ndindex(*label.shape):
                out[i, y, x] = around(edge, i, y, x, 2).max()
        true, predicted = edges
        precision = ((predicted * wide[0]).sum() + 1) / (predicted.sum() + 1)
        recall = ((true * wide[1]).sum() + 1) / (true.sum() + 1)
        if true.sum():
            losses.append(1 - 2 * precision * recall / (precision + recall))
    return np.mean(losses) if losses else 0.0


ORACLES = {
    "cross_entropy": cross_entropy_by_numpy,
    "focal": focal_by_numpy,
    "dice": dice_by_numpy,
    "mcc": mcc_by_numpy,
    "boundary_error": boundary_error_by_numpy,
    "boundary_f1": boundary_f1_by_numpy,
}


def patches(seed, size=16):
    """Labels in patches, as on the ground, with a gap."""
    label = torch.from_numpy(
        np.random.default_rng(seed).integers(0, 4, (2, size // 4, size // 4), np.uint8)
    )
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[:, 5:9, 2:6] = 255
    return label


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", EVERY)
def test_value_equals_numpys(name, seed):
    logits, noise = batch(n=2, size=16, seed=seed)
    for label in (noise, patches(seed)):
        expected = ORACLES[name](logits.numpy(), label.numpy())
        found = float(term(name, logits, label, ALPHA))
        assert found == pytest.approx(expected, rel=2e-5 if name == "mcc" else 1e-9)


GOLDEN = {
    "cross_entropy": 0.220095,
    "focal": 0.023560,
    "dice": 0.129705,
    "mcc": 0.381167,
    "boundary_error": 0.220095,
    "boundary_f1": 0.107464,
}
"""Of two pixels, of classes 0 and 1, whose shares of class 0 are 0.880797 and 0.268941."""


@pytest.mark.parametrize("name", EVERY)
def test_golden_values(name):
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    label = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    assert float(term(name, logits, label, {"1": 2.0})) == pytest.approx(GOLDEN[name], abs=2e-6)


def test_cross_entropy_is_torchs():
    logits, label = batch()
    expected = functional.cross_entropy(logits, label.long(), ignore_index=255)
    torch.testing.assert_close(term("cross_entropy", logits, label), expected)


@given(st.integers(0, 2**32))
def test_mcc_of_sure_predictions_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(0, 4, (2, 1, 12, 12))
    value = float(term("mcc", one_hot(torch.from_numpy(found)), torch.from_numpy(truth).to(torch.uint8)))
    assert 1 - value == pytest.approx(matthews_corrcoef(truth.ravel(), found.ravel()), abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_equal_finite_differences(name):
    logits, label = batch(n=2, classes=3, size=5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(name, x, label, {"1": 2.0}), (logits,))


@pytest.mark.parametrize("name", EVERY)
def test_ignored_pixels_change_nothing(name):
    logits, label = batch()
    other = logits.clone()
    other[label[:, None].expand_as(other) == 255] = 99.0
    torch.testing.assert_close(term(name, other, label), term(name, logits, label))
    logits.requires_grad_()
    term(name, logits, label).backward()
    assert (logits.grad.permute(0, 2, 3, 1)[label == 255] == 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_classes_changes_nothing(name):
    logits, label = batch(ignored=0)
    renamed = torch.tensor([1, 3, 0, 2], dtype=torch.uint8)[label.long()]
    alpha = {"0": 3.0, "1": 1.0, "2": 4.0, "3": 2.0}
    torch.testing.assert_close(
        term(name, logits[:, [2, 0, 3, 1]], renamed, alpha), term(name, logits, label, ALPHA)
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_perfect_prediction_costs_nothing(name):
    label = patches(0)
    assert float(term(name, one_hot(label), label, ALPHA)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("fill", [0, 3, 255])
@pytest.mark.parametrize("name", EVERY)
def test_batches_of_one_class_or_none_stay_finite(name, fill):
    logits, label = batch()
    for scores in (logits, one_hot(torch.full_like(label, 2)), one_hot(torch.full_like(label, 3))):
        scores = scores.clone().requires_grad_()
        value = term(name, scores, torch.full_like(label, fill))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", EVERY)
def test_one_class_everywhere_predicted_stays_finite(name):
    _, label = batch()
    scores = one_hot(torch.full_like(label, 1), factor=1e4).float().requires_grad_()
    value = term(name, scores, label, ALPHA)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", ["boundary_error", "boundary_f1"])
def test_along_no_data_there_is_no_boundary(name):
    label = torch.full((1, 16, 16), 2, dtype=torch.uint8)
    label[:, :, 8:] = 255
    logits = batch(n=1, size=16)[0]
    assert float(term(name, logits, label)) == 0
    # of an edge between classes, one side of which is not labelled near it, nothing is left either
    label[:, :, 12:] = 1
    assert float(term("boundary_error", logits, label)) == 0


def test_boundary_error_looks_near_boundaries_only():
    label = torch.zeros(1, 16, 16, dtype=torch.uint8)
    label[:, :, 8:] = 1
    wrong = one_hot(label, 2, 5.0)
    wrong[:, :, :, 0] = -wrong[:, :, :, 0]
    assert float(term("boundary_error", wrong, label)) == pytest.approx(0.0067, abs=1e-4)
    wrong[:, :, :, 7] = -wrong[:, :, :, 7]
    assert float(term("boundary_error", wrong, label)) > 0.8


def test_boundary_f1_allows_for_two_pixels():
    label = torch.zeros(1, 32, 32, dtype=torch.uint8)
    label[:, :, 16:] = 1
    values = [float(term("boundary_f1", one_hot(label.roll(k, 2), 2)[:, :, :, 8:24], label[:, :, 8:24]))
              for k in (0, 1, 2, 6)]  # fmt: skip
    assert values[:2] == pytest.approx([0, 0], abs=1e-9)
    assert values[2] < 0.5 < values[3]


@pytest.mark.parametrize("name", EVERY)
def test_sums_of_parts_are_the_sums_of_the_whole(name):
    """So ranks, micro-batches and tiles may add them."""
    logits, label = batch(n=4)
    made = combined({name: 1.0})
    parts = [(logits[i : i + 1], made.target(label[i : i + 1])) for i in range(4)]
    target = made.target(label)
    torch.testing.assert_close(sum(made.sums(x, t)[0] for x, t in parts), made.sums(logits, target)[0])
    torch.testing.assert_close(sum(made.weight(t) for _, t in parts), made.weight(target))


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_scores_do_not_overflow(name):
    logits, label = batch(n=2, size=160, dtype=torch.float32)
    half = (logits * 1e4).to(torch.float16).requires_grad_()
    assert torch.isfinite(half).all()
    value = term(name, half, label, ALPHA)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(half.grad).all()
    single = term(name, half.detach().float(), label, ALPHA)
    torch.testing.assert_close(value.detach(), single)


def test_counts_beyond_half_precisions_are_exact():
    label = torch.zeros(1, 128, 128, dtype=torch.uint8)
    assert float(combined({"dice": 1.0}).weight(target_of(label, 4))) == 128 * 128


def test_a_phase_is_a_weighted_sum_and_terms_are_let_in():
    phase = {"focal": 0.25, "dice": 0.25, "mcc": 0.35, "boundary_error": 0.15}
    made = combined(phase, ramp={"mcc": 30, "boundary_error": 30})
    assert made.factors(0) == pytest.approx([0.25, 0.25, 0.35 * 0.05, 0.15 * 0.05])
    assert made.factors(15) == pytest.approx([0.25, 0.25, 0.35 * 0.525, 0.15 * 0.525])
    assert made.factors(30) == made.factors(99) == list(phase.values())
    logits, label = batch()
    each = terms(phase, logits, label)
    torch.testing.assert_close(
        made.combine(each, 30), 0.25 * each[0] + 0.25 * each[1] + 0.35 * each[2] + 0.15 * each[3]
    )


@pytest.mark.parametrize(
    ("weights", "options", "words"),
    [
        ({"focl": 1.0}, {}, "no term 'focl'; expected cross_entropy, focal"),
        ({}, {}, "expected weights of 0 or more, one above 0"),
        ({"dice": 0.0}, {}, "one above 0"),
        ({"dice": -1.0}, {}, "weights of 0 or more"),
        ({"dice": 1.0}, {"ramp": {"mcc": 3}}, "loss.ramp: mcc has no weight"),
    ],
)
def test_what_cannot_be_combined_is_named(weights, options, words):
    with pytest.raises(UsageError, match=words):
        combined(weights, **options)
