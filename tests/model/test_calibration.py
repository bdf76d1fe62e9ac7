"""Reliability, the calibration error and the temperature, against NumPy and SciPy."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from glacier.model.calibration import (
    BINS,
    COLDEST,
    HOTTEST,
    best_temperature,
    calibration_error,
    reliability,
)


@pytest.fixture(scope="module")
def pixels():
    """Scores (n, 4) and classes drawn from the shares that they would be at temperature 1.7."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60_000, 4)) * 3
    shares = np.exp(log_softmax(scores / 1.7, axis=1))
    truth = (rng.random((60_000, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=3)
    return scores, truth


def by_hand(shares, truth):
    """ECE of shares (n, C), a bin at a time, from the definition."""
    confidence, right, error = shares.max(axis=1), shares.argmax(axis=1) == truth, 0.0
    for b in range(BINS):
        within = (confidence > b / BINS) & (confidence <= (b + 1) / BINS)
        if within.any():
            error += within.mean() * abs(right[within].mean() - confidence[within].mean())
    return error


def softmax(scores):
    return torch.tensor(scores).softmax(dim=1)


def test_the_error_is_that_of_its_definition(pixels):
    scores, truth = pixels
    shares = softmax(scores)
    table = reliability(torch.tensor(truth), shares)
    assert table[0].sum() == len(truth)
    assert calibration_error(table.numpy()) == pytest.approx(by_hand(shares.numpy(), truth), abs=1e-12)
    assert calibration_error(table.numpy()) > 0.05


def test_tables_of_parts_add_up_and_label_255_counts_nowhere():
    rng = np.random.default_rng(1)
    label = torch.from_numpy(rng.choice([0, 1, 2, 255], (4, 9, 7)).astype(np.uint8))
    shares = softmax(rng.normal(size=(4, 3, 9, 7)))
    whole = reliability(label, shares)
    torch.testing.assert_close(
        reliability(label[:1], shares[:1]) + reliability(label[1:], shares[1:]), whole
    )
    held = label != 255
    assert whole[0].sum() == held.sum()
    assert whole[1].sum() == (shares.argmax(dim=1) == label)[held].sum()
    assert float(whole[2].sum()) == pytest.approx(float(shares.amax(dim=1)[held].sum()))


@pytest.mark.parametrize(
    ("share", "place"), [(1 / BINS, 0), (0.5, 7), (1.0, BINS - 1), (1.0000001, BINS - 1), (0.0, 0)]
)
def test_a_bin_holds_its_upper_edge(share, place):
    shares = torch.tensor([[share, -1.0]], dtype=torch.float64)
    assert reliability(torch.tensor([1]), shares)[0].nonzero().item() == place


def test_a_table_without_pixels_is_of_the_same_dtype():
    """Ranks add theirs to others'."""
    table = reliability(torch.full((1, 4), 255, dtype=torch.uint8), torch.full((1, 2, 4), 0.5))
    assert table.dtype == torch.float64
    assert not table.any()


def test_pixels_that_are_as_often_right_as_they_say_have_no_error():
    shares = torch.tensor([[0.75, 0.25]] * 4)
    assert calibration_error(reliability(torch.tensor([0, 0, 0, 1]), shares).numpy()) == 0
    assert calibration_error(reliability(torch.tensor([1, 1, 1, 1]), shares).numpy()) == 0.75
    assert math.isnan(calibration_error(np.zeros((3, BINS))))


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_labels_drawn_from_a_temperature_give_it_back(pixels, scale):
    scores, truth = pixels
    found = best_temperature(torch.tensor(scores * scale), torch.tensor(truth))
    assert found == pytest.approx(1.7 * scale, rel=0.02)
    table = reliability(torch.tensor(truth), softmax(scores * scale / found))
    assert calibration_error(table.numpy()) < 0.01


def test_the_temperature_is_scipys(pixels):
    """On scores that no temperature fits, too."""
    for scores in (pixels[0], pixels[0] + np.array([2.0, 0.0, -1.0, 0.0])):
        few, truth = scores[:3000], pixels[1][:3000]

        def loss(logarithm, few=few, truth=truth):
            return -log_softmax(few / math.exp(logarithm), axis=1)[np.arange(3000), truth].mean()

        best = math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x)
        for dtype, most in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
            found = best_temperature(torch.tensor(few, dtype=dtype), torch.tensor(truth))
            assert found == pytest.approx(best, rel=most)


def test_who_holds_a_part_finds_what_who_holds_all_does(pixels):
    """Two threads that sum as ranks do; each part alone asks for another temperature."""
    scores, truth = torch.tensor(pixels[0][:2500]), torch.tensor(pixels[1][:2500])
    scores[1000:] *= 3
    parts = [(scores[:1000], truth[:1000]), (scores[1000:], truth[1000:])]
    met, said = Barrier(2), {}

    def add(place, mine):
        said[place] = mine
        met.wait(60)
        total = said[0] + said[1]
        met.wait(60)
        return total

    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda k: best_temperature(*parts[k], partial(add, k)), range(2)))
    alone = [best_temperature(*part) for part in parts]
    assert both[0] == both[1] == pytest.approx(best_temperature(scores, truth), rel=1e-5)
    assert alone[0] < both[0] - 0.1 < both[0] + 0.1 < alone[1]


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        (torch.zeros(0, 4), [], 1.0),
        (torch.zeros(3, 2), [0, 1, 1], 1.0),
        (torch.tensor([[1.0, 0.0]]), [0], COLDEST),
        (torch.tensor([[1.0, 0.0]]), [1], HOTTEST),
    ],
)
def test_where_there_is_nothing_to_fit_it_stays_within_bounds(scores, truth, expected):
    found = best_temperature(scores, torch.tensor(truth, dtype=torch.long))
    assert found == pytest.approx(expected, rel=1e-5)
