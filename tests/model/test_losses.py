"""Losses: golden values, gradients, and what must not change them."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from glacier.model.losses import cross_entropy_dice, soft_counts


def loss(logits, label):
    return cross_entropy_dice(soft_counts(logits, label))


def batch(n=3, classes=4, size=8, ignored=0.2, seed=0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, size, size, generator=made, dtype=dtype)
    label = torch.randint(0, classes, (n, size, size), generator=made).to(torch.uint8)
    label[torch.rand(n, size, size, generator=made) < ignored] = 255
    return logits, label


def by_numpy(logits, label):
    """The same loss, pixel by pixel."""
    held = label != 255
    scores = np.moveaxis(logits, 1, -1)[held]
    truth = label[held]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    entropy = -np.log(shares[np.arange(len(truth)), truth]).mean()
    dice = [
        1 - (2 * shares[truth == c, c].sum() + 1) / (shares[:, c].sum() + (truth == c).sum() + 1)
        for c in np.unique(truth)
    ]
    return 0.5 * entropy + 0.5 * np.mean(dice)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 4, 7])
def test_value_equals_numpys(seed, classes):
    logits, label = batch(classes=classes, seed=seed)
    np.testing.assert_allclose(loss(logits, label), by_numpy(logits.numpy(), label.numpy()), rtol=1e-12)


def test_the_entropy_part_is_torchs():
    logits, label = batch()
    sums = soft_counts(logits, label)
    expected = functional.cross_entropy(logits, label.long(), ignore_index=255)
    torch.testing.assert_close(sums[-2] / sums[-1], expected)


def test_a_golden_value():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    label = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    # shares of class 0: 0.880797, 0.268941; entropy (0.126928 + 0.313262) / 2
    dice = 1 - ((2 * 0.880797 + 1) / (1.149738 + 2) + (2 * 0.731059 + 1) / (0.850262 + 2)) / 2
    assert float(loss(logits, label)) == pytest.approx(0.5 * 0.220095 + 0.5 * dice, abs=1e-5)


def test_gradients_equal_finite_differences():
    logits, label = batch(n=2, classes=3, size=3)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, label), (logits,))


def test_ignored_pixels_change_nothing():
    logits, label = batch()
    other = logits.clone()
    other[label[:, None].expand_as(other) == 255] = 99.0
    torch.testing.assert_close(loss(other, label), loss(logits, label))
    logits.requires_grad_()
    loss(logits, label).backward()
    assert (logits.grad.permute(0, 2, 3, 1)[label == 255] == 0).all()


def test_the_order_of_classes_changes_nothing():
    logits, label = batch(ignored=0)
    renamed = torch.tensor([1, 3, 0, 2], dtype=torch.uint8)[label.long()]
    torch.testing.assert_close(loss(logits[:, [2, 0, 3, 1]], renamed), loss(logits, label))


def test_a_perfect_prediction_costs_next_to_nothing():
    _, label = batch(ignored=0.3)
    perfect = 50.0 * functional.one_hot(label.long().clamp(max=3), 4).permute(0, 3, 1, 2).double()
    assert float(loss(perfect, label)) < 1e-9


@pytest.mark.parametrize("fill", [0, 3, 255])
def test_batches_of_one_class_or_none_stay_finite(fill):
    logits, label = batch()
    logits.requires_grad_()
    value = loss(logits, torch.full_like(label, fill))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_sums_of_parts_are_the_sums_of_the_whole():
    """So ranks may add them."""
    logits, label = batch(n=4)
    parts = sum(soft_counts(logits[i : i + 1], label[i : i + 1]) for i in range(4))
    torch.testing.assert_close(parts, soft_counts(logits, label))


def test_half_precision_scores_do_not_overflow():
    logits, label = batch(dtype=torch.float32)
    half = (logits * 1e4).to(torch.float16)
    assert torch.isfinite(half).all()
    assert torch.isfinite(loss(half, label))
