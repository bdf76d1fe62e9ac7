"""DALI's graph and the network's inputs equal their NumPy reference."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import ndimage

from glacier.pipeline.augment import D4, Augment, d4, lights, matrices
from glacier.pipeline.backends import make_batcher
from glacier.pipeline.buffer import Buffer, Window
from glacier.pipeline.graph import build, run
from glacier.pipeline.inputs import Inputs
from glacier.pipeline.order import SAMPLE
from glacier.pipeline.reference import reference_graph, reference_inputs, reference_light, reference_warp
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
    matrix = matrices(samples(count), Augment(preset), patch)
    pipeline = build(count, moves=matrix is not None, size=patch, threads=2, device=None)
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
    drawn = matrices(made, D4, 32)
    counts = [(drawn == m).all(axis=(1, 2)).sum() for m in d4(32)]
    assert sum(counts) == 4000
    assert min(counts) > 400


@pytest.mark.parametrize("preset", ["d4", "affine"])
def test_a_batch_is_a_pure_function_of_its_samples(preset):
    """Alone or among others, first or last, a sample is moved and lit the same way."""
    made, augment = samples(9), Augment(preset, brightness=0.2, contrast=0.2)
    one = [made[i : i + 1] for i in range(9)]
    alone = np.concatenate([matrices(sample, augment, 64) for sample in one])
    np.testing.assert_array_equal(matrices(made, augment, 64), alone)
    alone = np.concatenate([lights(sample, augment, np.ones(5, bool)) for sample in one])
    np.testing.assert_array_equal(lights(made, augment, np.ones(5, bool)), alone)


def many(count=4000):
    made = np.zeros(count, SAMPLE)
    made["key"] = np.arange(count)
    return made


def test_affine_stays_within_its_bounds_and_fills_them():
    made, patch = many(), 64
    made["y"], made["x"] = 100, 200
    augment = Augment("affine", rotate=30, scale=0.2, shift=0.1)
    matrix = matrices(made, augment, patch).astype(np.float64)
    symmetry = matrices(made, D4, patch)[:, :, :2]
    linear = matrix[:, :, :2] @ np.linalg.inv(symmetry)  # rotation and scale without the symmetry
    side = np.sqrt(np.linalg.det(linear))
    angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    centre = matrix @ np.array([patch / 2, patch / 2, 1])
    shift = (centre - [200 + patch / 2, 100 + patch / 2]) / patch
    for values, most, middle in (
        (side, 0.2, 1),
        (angle, 30, 0),
        (shift[:, 0], 0.1, 0),
        (shift[:, 1], 0.1, 0),
    ):
        assert abs(values - middle).max() <= most * 1.0001
        assert abs(values - middle).max() > most * 0.99
        assert abs(values.mean() - middle) < 0.05 * most


def test_affine_without_any_amount_is_d4():
    made = many(50)
    still = Augment("affine", rotate=0, scale=0, shift=0)
    np.testing.assert_allclose(matrices(made, still, 64), matrices(made, D4, 64), atol=1e-4)


def test_light_falls_on_optical_bands_alone_and_mostly_alike():
    optical = np.array([True, True, False, True])
    drawn = lights(many(), Augment("d4", brightness=0.3, contrast=0.2), optical)
    gain, bias = drawn[:, 0], drawn[:, 1]
    assert (gain[:, 2] == 1).all()
    assert not bias[:, 2].any()
    for values, middle, most in ((gain, 1, 0.2), (bias, 0, 0.3)):
        own = values[:, optical] - middle
        assert abs(own).max() <= most * 1.0001
        assert abs(own).max() > 0.95 * most
        assert np.corrcoef(own.T)[0, 1] > 0.9
        assert np.ptp(own, axis=1).min() > 0


@pytest.mark.parametrize("preset", ["none", "d4"])
def test_without_brightness_and_contrast_nothing_is_lit(preset):
    drawn = lights(many(9), Augment(preset, brightness=0.2 * (preset == "none")), np.ones(3, bool))
    np.testing.assert_array_equal(drawn, np.tile([[1.0], [0.0]], (9, 1, 3)))


class Memory:
    """Whole tiles in memory, as a source of windows."""

    def __init__(self, tiles):
        self.tiles = tiles

    def read_into(self, samples, out):
        side = out.label.shape[1]
        for i, sample in enumerate(samples):
            y, x, tile = (int(sample[name]) for name in ("y", "x", "tile"))
            out.image[i] = self.tiles.image[tile, y : y + side, x : x + side]
            out.label[i] = self.tiles.label[tile, y : y + side, x : x + side]


def batch_of(tiles, made, augment, patch, inputs, device="cpu", backend=None):
    """One batch of these samples from these tiles, by the loader's own back end."""
    size, bands = tiles.label.shape[1], tiles.image.shape[-1]
    read = Window(size if augment.interpolates else patch, bands, tiles.image.dtype.name)
    batcher = make_batcher(
        Memory(tiles), read, largest=len(made), augment=augment, patch=patch, device=device, inputs=inputs,
        backend=backend,
    )  # fmt: skip
    with ThreadPoolExecutor(2) as workers:
        batch = batcher.finish(batcher.begin(made, workers))
    return batch.image.permute(0, 2, 3, 1).cpu().numpy(), batch.label.cpu().numpy()


CODES = {"uint8": 0, "int16": -32768, "float32": float("nan")}


def scene_of(dtype, seed=0):
    """Three smooth tiles with gaps, their bands, and what standardises them."""
    rng = np.random.default_rng(seed)
    hills = ndimage.gaussian_filter(rng.normal(size=(3, 160, 160, 5)), (0, 3, 3, 0))
    image = (120 + 400 * hills).clip(1, 254).astype(dtype)
    image[rng.random(image.shape) < 0.02] = CODES[dtype]
    image[0, 40:44] = CODES[dtype]
    label = (ndimage.gaussian_filter(rng.normal(size=(3, 160, 160)), (0, 6, 6)) > 0).astype(np.uint8)
    roles = ["optical"] * 3 + ["thermal", "texture"]
    bands = [
        Band(name=f"b{i}", role=role, code="b", dtype=dtype, nodata=CODES[dtype], scale=1.0, offset=0.0)
        for i, role in enumerate(roles)
    ]
    return Buffer(image, label), bands


def expected_of(tiles, bands, made, augment, patch):
    """The same batch in NumPy."""
    mean, std = [120.0] * 5, [20.0, 25.0, 30.0, 35.0, 40.0]
    inputs = Inputs(bands, [stats(m, s) for m, s in zip(mean, std, strict=True)])
    raw = tiles.image[made["tile"]]
    missing = np.isnan(raw) if raw.dtype == np.float32 else raw == bands[0].nodata
    seen = reference_inputs(raw, bands, mean, std)
    seen = reference_light(seen, missing, lights(made, augment, inputs.optical))
    label = tiles.label[made["tile"]]
    if augment.interpolates:
        return inputs, *reference_warp(seen, label, matrices(made, augment, patch), patch)
    cut = [(slice(s["y"], s["y"] + patch), slice(s["x"], s["x"] + patch)) for s in made]
    windows = Buffer(
        np.stack([s[c] for s, c in zip(seen, cut, strict=True)]),
        np.stack([s[c] for s, c in zip(label, cut, strict=True)]),
    )
    moved = reference_graph(windows, matrices(made, augment, patch))
    return inputs, moved.image, moved.label


def some_samples(count=40, patch=64):
    made = many(count)
    rng = np.random.default_rng(1)
    made["tile"], made["y"], made["x"] = (
        rng.integers(0, 3, count),
        *rng.integers(0, 161 - patch, (2, count)),
    )
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("preset", ["none", "d4"])
@pytest.mark.parametrize("backend", ["dali", "numba"])
def test_exact_presets_equal_the_reference_in_normalised_units(backend, preset, dtype):
    """Labels identical, images within 1e-4, under brightness and contrast."""
    (tiles, bands), made = scene_of(dtype), some_samples()
    augment = Augment(preset, brightness=0.2, contrast=0.2)
    inputs, image, label = expected_of(tiles, bands, made, augment, 64)
    found, found_label = batch_of(tiles, made, augment, 64, inputs, backend=backend)
    np.testing.assert_array_equal(found_label, label)
    np.testing.assert_allclose(found, image, atol=1e-4)


def check_affine(dtype, device="cpu", augment=None):
    """Labels agree on 99.9 % of pixels, images within 1 % of a deviation on 99.9 %."""
    (tiles, bands), made = scene_of(dtype), some_samples()
    augment = augment or Augment("affine", rotate=90, scale=0.3, shift=0.2, brightness=0.3, contrast=0.3)
    inputs, image, label = expected_of(tiles, bands, made, augment, 64)
    found, found_label = batch_of(tiles, made, augment, 64, inputs, device)
    assert found.dtype == np.float32
    assert (found_label == label).mean() >= 0.999
    assert (abs(found - image) <= 0.01).mean() >= 0.999
    assert (label == 255).any()
    assert len(np.unique(found_label)) == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_equals_the_reference(dtype):
    check_affine(dtype)


def test_affine_of_the_default_amounts_without_light_equals_the_reference():
    check_affine("int16", augment=Augment("affine"))


def test_no_data_does_not_bleed():
    """A gap amid a bright field is the mean, and its neighbours lie between: never a code's own value."""
    (tiles, bands), made = scene_of("int16"), some_samples()
    tiles.image[...] = 220
    tiles.image[:, ::7] = -32768
    inputs, *_ = expected_of(tiles, bands, made, Augment("affine"), 64)
    found, _ = batch_of(tiles, made, Augment("affine"), 64, inputs)
    assert found.min() >= 0
    assert found.max() <= 5.0001
    assert (found > 4.9).any()


def test_raw_codes_are_neither_interpolated_nor_lit():
    (tiles, _), made = scene_of("int16"), some_samples()
    for augment in (Augment("affine"), Augment("d4", contrast=0.1)):
        with pytest.raises(ValueError, match="expected inputs"):
            batch_of(tiles, made, augment, 64, None)


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
