"""What the network sees: each channel against NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from glacier.config import InputsConfig
from glacier.errors import UsageError
from glacier.model.features import Features

NAMES, ROLES = ["green", "nir", "thermal"], ["optical", "optical", "thermal"]
MEAN, STD = [9000.0, 4000.0, 290.0], [6000.0, 3000.0, 9.0]


def features(**settings) -> Features:
    return Features(InputsConfig(**settings), NAMES, ROLES, MEAN, STD)


def image(seed=0, size=64):
    """Standardised bands of log-normal values (2, 3, size, size), and where they lack data."""
    rng = np.random.default_rng(seed)
    ratio = np.array(STD) / MEAN
    sigma = np.sqrt(np.log1p(ratio**2))[:, None, None]
    physical = np.array(MEAN)[:, None, None] * np.exp(
        sigma * rng.normal(size=(2, 3, size, size)) - sigma**2 / 2
    )
    values = (physical - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    gaps = rng.random((2, 3, size, size)) < 0.1
    gaps[:, :, 10:20, 30:50] = True
    return np.where(gaps, 0, values), physical, gaps


def test_bands_alone_pass_as_they_are():
    values = torch.randn(2, 3, 8, 8)
    made = features()
    assert [*made.channels] == NAMES
    assert made(values) is values


def test_optical_bands_become_logarithms_of_mean_0_and_deviation_1():
    values, physical, gaps = image(size=200)
    seen = features(log=True)(torch.from_numpy(values).float()).numpy()
    for band in (0, 1):
        variance = np.log1p((STD[band] / MEAN[band]) ** 2)
        expected = (np.log(physical[:, band]) - np.log(MEAN[band]) + variance / 2) / np.sqrt(variance)
        expected = np.where(gaps[:, band], 0, np.maximum(expected, -4))
        np.testing.assert_allclose(seen[:, band], expected, atol=2e-4)
        assert seen[:, band][~gaps[:, band]].mean() == pytest.approx(0, abs=0.02)
        assert seen[:, band][~gaps[:, band]].std() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(seen[:, 2], values[:, 2].astype(np.float32))


def test_values_down_to_none_and_below_have_the_lowest_logarithm():
    darkest = torch.full((1, 3, 4, 4), -50.0)
    np.testing.assert_allclose(features(log=True)(darkest)[:, :2], -4, atol=1e-5)


def test_a_band_whose_mean_is_not_above_0_stays_linear():
    made = Features(InputsConfig(log=True), ["a"], ["optical"], [-3.0], [2.0])
    values = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(made(values), values)


def test_the_validity_plane_is_1_where_any_band_has_data():
    values, _, gaps = image()
    made = features(validity=True)
    seen = made(torch.from_numpy(values).float())
    assert [*made.channels] == [*NAMES, "validity"]
    np.testing.assert_array_equal(seen[:, 3].numpy(), ~gaps.all(axis=1))
    assert gaps.all(axis=1).any()


@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_local_contrast_is_the_distance_from_the_gaussian_mean_of_what_is_valid(sigma):
    values, _, gaps = image()
    made = features(contrast=("nir",), sigma=sigma)
    seen = made(torch.from_numpy(values))
    assert [*made.channels] == [*NAMES, "contrast nir"]
    for i in range(2):
        held = (~gaps[i, 1]).astype(float)
        options = {"sigma": sigma, "mode": "constant", "radius": int(np.ceil(3 * sigma))}
        mean = gaussian_filter(values[i, 1] * held, **options) / gaussian_filter(held, **options)
        expected = np.where(gaps[i, 1], 0, values[i, 1] - mean)
        np.testing.assert_allclose(seen[i, 3].numpy(), expected, atol=1e-6)


def test_no_data_changes_nothing_around_it():
    """Whatever lies in a gap of the raw codes is 0 by then; contrast does not mix it in."""
    values = torch.ones(1, 3, 32, 32)
    values[:, :, 8:20, 8:20] = 0
    seen = features(contrast=("nir",), sigma=3.0)(values)
    torch.testing.assert_close(seen[:, 3], torch.zeros(1, 32, 32))


def test_contrast_of_a_band_that_is_not_there_is_named():
    with pytest.raises(
        UsageError, match="inputs.contrast: no band swir; expected some of green, nir, thermal"
    ):
        features(contrast=("swir",))


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (["red", "red"], {}),
        (["red", "nir"], {"contrast": ("red", "red")}),
        (["red", "validity"], {"validity": True}),
    ],
)
def test_a_channel_that_comes_twice_is_refused_by_name(names, settings):
    with pytest.raises(UsageError, match="comes twice among red, "):
        Features(InputsConfig(**settings), names, ["optical", "other"], [1.0, 1.0], [1.0, 1.0])
