"""Windows cover a scene, add up to one, and are shared out so that ranks map each pixel once."""

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from glacier.classes import IGNORE
from glacier.maps.blend import OVERLAP, corners, weights
from glacier.maps.canvas import Canvas
from glacier.maps.rows import order_of, pieces_of
from glacier.scenes.scene import Grid

SIZES = st.sampled_from([32, 64, 96])


@given(length=st.integers(1, 700), size=SIZES)
def test_windows_cover_an_axis_and_overlap_by_a_quarter(length, size):
    found = corners(length, size)
    assert found[0] == 0
    if length <= size:
        assert found == [0]
        return
    assert found[-1] + size == length
    steps = np.diff(found)
    assert (steps > 0).all()
    assert steps.max() <= size - size // OVERLAP + 1
    assert np.ptp(steps) <= 1


@given(length=st.integers(1, 700), size=SIZES)
def test_weights_add_up_to_one_and_begin_near_nothing(length, size):
    starts, found = corners(length, size), weights(length, size)
    total = torch.zeros(starts[-1] + size)
    for start, row in zip(starts, found, strict=True):
        total[start : start + size] += row
        assert (row > 0).all()
    torch.testing.assert_close(total, torch.ones_like(total))
    for before, row in zip(starts, found[1:], strict=False):
        if before + size - starts[1] >= size // OVERLAP:  # nothing jumps where a window begins
            assert row[0] < 0.01
    if len(starts) == 1:
        assert (found == 1).all()


GRIDS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 200)), min_size=1, max_size=4)


@given(sizes=GRIDS, size=SIZES, world=st.integers(1, 5))
def test_ranks_map_each_row_of_pixels_once_and_have_all_windows_for_it(sizes, size, world):
    grids = [Grid(h, w, Affine.identity(), "") for h, w in sizes]
    order, rows = order_of(grids, size)
    mapped = [np.zeros(grid.height, int) for grid in grids]
    for rank in range(world):
        for piece in pieces_of(grids, size, rows, len(order), rank, world):
            mapped[piece.scene][piece.top : piece.bottom] += 1
            reaching = (
                (order["tile"] == piece.scene)
                & (order["y"] + size > piece.top)
                & (order["y"] < piece.bottom)
            )
            assert list(piece.windows) == list(np.flatnonzero(reaching))
    assert all((rows == 1).all() for rows in mapped)


@given(sizes=GRIDS, size=SIZES, world=st.integers(1, 3), seed=st.integers(0, 99))
def test_what_looks_at_single_pixels_is_blended_to_itself(sizes, size, world, seed):
    """Shares that do not depend on their surroundings are the same by windows, however these lie."""
    random = np.random.default_rng(seed)
    grids = [Grid(h, w, Affine.identity(), "") for h, w in sizes]
    truth = [torch.from_numpy(random.random((3, h, w), np.float32)) for h, w in sizes]
    held = [torch.from_numpy(random.random(size) < 0.8) for size in sizes]
    order, rows = order_of(grids, size)
    found = [[] for _ in grids]
    for rank in range(world):
        for piece in pieces_of(grids, size, rows, len(order), rank, world):
            grid, strips = grids[piece.scene], found[piece.scene]
            pad = (0, max(0, size - grid.width), 0, max(0, size - grid.height))
            shares, data = (nn.functional.pad(v[piece.scene], pad) for v in (truth, held))
            canvas = Canvas(piece, grid, size, 3, torch.device("cpu"), shares=True)
            for number in piece.windows:
                y, x = int(order["y"][number]), int(order["x"][number])
                place = (..., slice(y, y + size), slice(x, x + size))
                strips.append(canvas.add(y, x, shares[place], data[place]))
            strips.append(canvas.rest())
    for strips, shares, data in zip(found, truth, held, strict=True):
        whole = [strip for strip in strips if strip]
        classes = np.concatenate([strip.classes for strip in whole])
        np.testing.assert_array_equal(classes == IGNORE, ~data.numpy())
        expected = np.where(data, shares, np.nan)
        made = np.concatenate([strip.shares for strip in whole], axis=1)
        np.testing.assert_allclose(made, expected, rtol=1e-5)
        confidence = np.concatenate([strip.confidence for strip in whole])
        np.testing.assert_array_equal(confidence, made.max(axis=0))
        clear = data.numpy() & (np.ptp(np.sort(shares.numpy(), axis=0)[1:], axis=0) > 1e-5)
        np.testing.assert_array_equal(classes[clear], shares.numpy().argmax(axis=0)[clear])


@pytest.mark.parametrize(("length", "size"), [(32, 32), (20, 32)])
def test_one_window_counts_as_it_is(length, size):
    assert (weights(length, size) == 1).all()
