"""DALI's graph and the network's inputs equal their NumPy reference."""

import numpy as np
import pytest
import torch

from glacier.errors import UsageError
from glacier.pipeline.augment import check_preset, d4, matrices
from glacier.pipeline.buffer import Buffer
from glacier.pipeline.graph import build, run
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import SAMPLE
from glacier.pipeline.reference import reference_graph, reference_inputs
from glacier.store.bands import Band, Statistics

SHAPES = [(1, 32, 1), (5, 64, 7), (3, 96, 15)]
DTYPES = ["uint8", "int16", "float32"]


def windows(count, patch, bands, dtype, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (count, patch, patch, bands)).astype(dtype)
    if dtype == "int16":
        image = (image.astype(np.int32) * 257 - 32768).astype(dtype)
    if dtype == "float32":
        image[rng.random(image.shape) < 0.1] = np.nan
    return Buffer(image, rng.integers(0, 256, (count, patch, patch)).astype(np.uint8))


def samples(count):
    made = np.zeros(count, SAMPLE)
    made["key"] = np.random.default_rng(3).integers(0, 2**64, count, np.uint64)
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "patch", "bands"), SHAPES)
@pytest.mark.parametrize("preset", ["none", "d4"])
def test_dali_equals_the_reference_bit_for_bit(preset, count, patch, bands, dtype):
    raw = windows(count, patch, bands, dtype)
    matrix = matrices(samples(count), preset, patch)
    pipeline = build(count, moves=matrix is not None, threads=2, device=None)
    image, label = run(pipeline, raw, matrix)
    expected = reference_graph(raw, matrix)
    np.testing.assert_array_equal(np.asarray(image), expected.image)
    np.testing.assert_array_equal(np.asarray(label)[..., 0], expected.label)


def test_the_eight_symmetries_are_those_of_numpy():
    raw = windows(8, 32, 2, "int16")
    moved = reference_graph(raw, d4(32))
    for g in range(8):
        image = raw.image[g]
        image = image.transpose(1, 0, 2) if g & 4 else image
        image = image[::-1] if g & 2 else image
        image = image[:, ::-1] if g & 1 else image
        np.testing.assert_array_equal(moved.image[g], image)


def test_all_symmetries_are_drawn_about_equally_often():
    made = np.zeros(4000, SAMPLE)
    made["key"] = np.arange(4000)
    drawn = matrices(made, "d4", 32)
    counts = [(drawn == m).all(axis=(1, 2)).sum() for m in d4(32)]
    assert sum(counts) == 4000
    assert min(counts) > 400


def test_a_batch_is_a_pure_function_of_its_samples():
    """Alone or among others, first or last, a sample is moved the same way."""
    made = samples(9)
    together = matrices(made, "d4", 64)
    alone = np.concatenate([matrices(made[i : i + 1], "d4", 64) for i in range(9)])
    np.testing.assert_array_equal(together, alone)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match=r"data.augment: 'd5', expected one of none, d4"):
        check_preset("d5")


def band(dtype, nodata, scale=1.0, offset=0.0):
    return Band(name="b", role="other", code="b", dtype=dtype, nodata=nodata, scale=scale, offset=offset)


def stats(mean, std):
    return Statistics(mean=mean, std=std, minimum=0, maximum=0, p2=0, p98=0)


@pytest.mark.parametrize(
    ("dtype", "bands"),
    [
        ("uint8", [band("uint8", 0), band("uint8", 255)]),
        ("int16", [band("int16", -32768, offset=32768), band("int16", 0, scale=0.002, offset=67.9)]),
        ("float32", [band("float32", float("nan")), band("float32", float("nan"))]),
    ],
)
@pytest.mark.parametrize("pick", [None, [3, 1]])
def test_inputs_equal_the_reference(dtype, bands, pick):
    raw = windows(2, 32, 4 if pick else 2, dtype).image
    raw[0, :5, :5] = np.array([bands[0].nodata], dtype)
    mean, std = [120.0, 63.5], [40.0, 11.25]
    if dtype == "int16":
        mean, std = [30000.0, 60.0], [9000.0, 20.0]
    layer = Inputs(bands, [stats(m, s) for m, s in zip(mean, std, strict=True)], pick)
    out = layer(torch.from_numpy(raw).permute(0, 3, 1, 2))
    expected = reference_inputs(raw[..., pick or [0, 1]], bands, mean, std)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(out.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


def test_no_data_becomes_the_mean_that_is_nought():
    layer = Inputs([band("int16", -7)], [stats(50.0, 5.0)])
    seen = layer(torch.tensor([[[[-7, 50, 55]]]], dtype=torch.int16)).flatten()
    assert seen[0] == 0
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_a_constant_band_and_a_band_without_data_stay_finite():
    layer = Inputs([band("int16", -7)] * 2, [stats(50.0, 0.0), stats(float("nan"), float("nan"))])
    raw = torch.tensor([50, -7], dtype=torch.int16).reshape(1, 2, 1, 1)
    assert torch.isfinite(layer(raw)).all()


def test_inputs_travel_with_the_weights():
    layer = Inputs([band("int16", -7)], [stats(50.0, 5.0)])
    other = Inputs([band("int16", 0)], [stats(0.0, 1.0)])
    other.load_state_dict(layer.state_dict())
    raw = torch.arange(-8, 60, dtype=torch.int16).reshape(1, 1, 1, -1)
    assert torch.equal(layer(raw), other(raw))
