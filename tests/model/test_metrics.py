import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from glacier.model.metrics import confusion, scores


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 300))
def test_scores_equal_scikit_learns(seed, classes, pixels):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, pixels)
    found = np.where(rng.random(pixels) < 0.6, truth, rng.integers(0, classes, pixels))
    matrix = confusion(torch.from_numpy(truth), torch.from_numpy(found), classes).numpy()
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(truth, found, labels=range(classes)))
    names = [str(c) for c in range(classes)]
    rated = scores(matrix, names)
    several = len(set(truth) | set(found)) > 1
    assert rated.mcc == pytest.approx(sk.matthews_corrcoef(truth, found) if several else 0, abs=1e-12)
    options = {"labels": range(classes), "average": None, "zero_division": math.nan}
    for name, function in (("iou", sk.jaccard_score), ("precision", sk.precision_score),
                           ("recall", sk.recall_score), ("f1", sk.f1_score)):  # fmt: skip
        if name == "iou":
            expected = sk.jaccard_score(truth, found, labels=range(classes), average=None, zero_division=0)
            expected[(matrix.sum(0) + matrix.sum(1)) == 0] = math.nan
        else:
            expected = function(truth, found, **options)
        np.testing.assert_allclose([getattr(rated.classes[n], name) for n in names], expected, err_msg=name)
    assert rated.pixels == pixels


def test_ignored_pixels_count_nowhere():
    label = torch.tensor([[0, 1, 255], [255, 1, 0]], dtype=torch.uint8)
    found = torch.tensor([[0, 0, 1], [0, 1, 1]])
    assert confusion(label, found, 2).tolist() == [[1, 1], [1, 1]]


def test_perfect_and_constant_predictions():
    assert scores(np.diag([5, 7, 9]), ["a", "b", "c"]).mcc == 1
    constant = scores(np.array([[5, 0], [7, 0]]), ["a", "b"])
    assert constant.mcc == 0
    assert math.isnan(constant.classes["b"].precision)


def test_no_pixel_at_all_is_no_crash():
    rated = scores(np.zeros((2, 2), np.int64), ["a", "b"])
    assert rated.mcc == 0
    assert math.isnan(rated.mean_iou)


def test_json_has_null_for_what_could_not_be_judged():
    record = scores(np.array([[5, 0], [0, 0]]), ["a", "b"]).to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["classes"]["b"] == {"iou": None, "precision": None, "recall": None, "f1": None}
    assert set(record) == {"mcc", "mean_iou", "classes"}


def test_counts_beyond_32_bits_keep_mcc_exact():
    matrix = np.array([[3_000_000_000, 1_000_000], [1_000_000, 3_000_000_000]])
    assert scores(matrix, ["a", "b"]).mcc == pytest.approx(2 * 3000 / 3001 - 1, abs=1e-12)
