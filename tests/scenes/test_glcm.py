import numpy as np

from glacier.scenes.glcm import ANGLES, texture


def by_matrices(grey, levels, row, column, half):
    """Contrast and homogeneity of one window, from its co-occurrence matrices."""
    results = []
    i, j = np.indices((levels, levels))
    for dy, dx in ANGLES:
        matrix = np.zeros((levels, levels))
        for y in range(row - half, row + half + 1):
            for x in range(column - half, column + half + 1):
                matrix[grey[y, x], grey[y + dy, x + dx]] += 1
        matrix /= matrix.sum()
        results.append(((matrix * (i - j) ** 2).sum(), (matrix / (1 + (i - j) ** 2)).sum()))
    return np.mean(results, axis=0)


def test_texture_equals_the_sums_over_co_occurrence_matrices():
    band = np.random.default_rng(0).uniform(0, 100, (16, 18)).astype(np.float32)
    found = texture(band, low=0, high=100, levels=8, window=5)
    grey = np.minimum(band / 100 * 8, 7).astype(int)
    for row, column in ((4, 4), (8, 9), (12, 14)):
        contrast, homogeneity = by_matrices(grey, 8, row, column, 2)
        np.testing.assert_allclose(found["contrast"][row, column], contrast, rtol=1e-5)
        np.testing.assert_allclose(found["homogeneity"][row, column], homogeneity, rtol=1e-5)


def test_a_flat_band_has_no_texture():
    found = texture(np.full((9, 9), 3, np.float32), low=0, high=9, levels=4, window=3)
    assert (found["contrast"] == 0).all()
    np.testing.assert_allclose(found["homogeneity"], 1, rtol=1e-6)
