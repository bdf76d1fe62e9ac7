"""Texture is what scikit-image's co-occurrence matrices give for every pixel's window by itself."""

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.feature import graycomatrix, graycoprops

from glacier.scenes import glcm
from glacier.scenes.glcm import FEATURES, grey_levels, texture

ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]


def by_matrices(grey, levels, window):
    """Every feature from scikit-image's matrices of each pixel's window, cut off at the edge.

    No data is a grey level more, whose row and column are struck out.
    """
    half, marked = window // 2, np.where(grey < 0, levels, grey).astype(np.uint16)
    expected = {name: np.full(grey.shape, np.nan) for name in FEATURES}
    for row, column in np.argwhere(grey >= 0):
        near = marked[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        counts = graycomatrix(near, [1], ANGLES, levels + 1, symmetric=True)[:levels, :levels]
        counts = counts[..., counts.sum((0, 1, 2)) > 0]
        for name in FEATURES if counts.size else ():
            by_angle = graycoprops(counts, {"asm": "ASM"}.get(name, name))
            expected[name][row, column] = by_angle.mean()
    return expected


def same(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, **tolerance, err_msg=name)


@st.composite
def scenes(draw):
    """Grey levels with gaps, smaller and larger than the window."""
    levels = draw(st.sampled_from([2, 5, 32]))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    kinds = st.integers(-1, levels - 1) if draw(st.booleans()) else st.sampled_from([-1, 0, levels - 1])
    grey = draw(hnp.arrays(np.int32, shape, elements=kinds, fill=st.just(levels // 2)))
    return grey, levels, draw(st.sampled_from([3, 5, 7]))


@given(scenes())
def test_every_pixel_equals_scikit_images_matrices(made):
    grey, levels, window = made
    found = texture(grey, FEATURES, levels=levels, window=window)
    same(found, by_matrices(grey, levels, window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("levels", "window"), [(32, 7), (128, 3), (40, 15)])
def test_a_larger_image_equals_scikit_images_matrices(levels, window):
    rng = np.random.default_rng(0)
    grey = (rng.random((17, 13)).cumsum(0).cumsum(1) % levels).astype(np.int32)
    grey[5:9, 3:11] = -1
    found = texture(grey, FEATURES, levels=levels, window=window)
    assert all(values.dtype == np.float32 for values in found.values())
    same(found, by_matrices(grey, levels, window), rtol=1e-5, atol=1e-6)


@given(scenes(), st.integers(0, 3), st.booleans())
def test_the_texture_of_a_turned_image_is_the_turned_texture(made, turns, mirrored):
    """Or augmentation by `d4` would show what no sensor sees."""
    grey, levels, window = made

    def turn(values):
        return np.rot90(values.T if mirrored else values, turns)

    whole = texture(grey, FEATURES, levels=levels, window=window)
    found = texture(turn(grey), FEATURES, levels=levels, window=window)
    same(found, {name: turn(values) for name, values in whole.items()}, rtol=1e-6, atol=1e-6)


def test_few_pairs_at_once_and_many_are_the_same(monkeypatch):
    grey = np.random.default_rng(0).integers(-1, 9, (30, 20)).astype(np.int32)
    whole = texture(grey, FEATURES, levels=9, window=5)
    monkeypatch.setattr(glcm, "AT_ONCE", 7 * 20 * 20)
    same(texture(grey, FEATURES, levels=9, window=5), whole, rtol=0)


def test_a_flat_band_has_no_texture():
    found = texture(np.full((9, 9), 3, np.int32), FEATURES, levels=4, window=3)
    for name, value in zip(FEATURES, (0, 0, 1, 1, 1, 1, 0), strict=True):
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_grey_levels_are_equal_steps_and_ends_take_what_lies_beyond():
    band = np.array([[-5, 0, 2.4, 2.6, 9.99, 10, 1e30, np.nan]], np.float32)
    assert grey_levels(band, 0, 10, 4).tolist() == [[0, 0, 0, 1, 3, 3, 3, -1]]


class Foreign(np.ndarray):
    """An array of another module, which NumPy's functions refuse."""

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called on a foreign array")


def test_every_array_function_is_taken_from_the_arrays_module(monkeypatch):
    """What can be said of CuPy where there is none: nothing of NumPy's is called on its arrays."""
    foreign, called = ModuleType("foreign"), set()

    def function(name):
        def call(*args, **kwargs):
            called.add(name)
            plain = [[np.asarray(a) for a in x] if isinstance(x, list) else x for x in args]
            plain = [x.view(np.ndarray) if isinstance(x, Foreign) else x for x in plain]
            return getattr(np, name)(*plain, **kwargs).view(Foreign)

        return call

    foreign.__getattr__ = lambda name: getattr(np, name) if name[-1].isdigit() else function(name)
    monkeypatch.setitem(sys.modules, "foreign", foreign)
    monkeypatch.setattr(Foreign, "__module__", "foreign")
    band = np.random.default_rng(0).random((12, 11)).astype(np.float32)
    band[3] = np.nan
    expected = texture(grey_levels(band, 0, 1, 8), FEATURES, levels=8, window=5)
    found = texture(grey_levels(band.view(Foreign), 0, 1, 8), FEATURES, levels=8, window=5)
    assert all(isinstance(values, Foreign) for values in found.values())
    same({name: values.view(np.ndarray) for name, values in found.items()}, expected, rtol=0)
    known = "asarray full isnan log maximum minimum pad sqrt stack where zeros"  # CuPy has these
    assert called <= set(known.split())


@pytest.mark.parametrize("name", FEATURES)
def test_features_come_alone_as_together(name):
    grey = np.random.default_rng(1).integers(-1, 6, (9, 8)).astype(np.int32)
    together = texture(grey, FEATURES, levels=6, window=3)
    same(texture(grey, (name,), levels=6, window=3), {name: together[name]}, rtol=0)
