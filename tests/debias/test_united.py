"""Centers that unite neighbors and clusters, and the pull without a parameter: by hand, limits, bad input."""

import numpy as np
import pytest

from deblora.debias.neighbors import LARGEST_KAPPA, kernel_neighbor_centers, posterior_kappa, united_centers
from deblora.errors import DataError

COUNTS = (30, 20, 12, 4, 2)
C, D = len(COUNTS), 6


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(C), COUNTS)
    x = rng.normal(size=(C, D))[y] + 0.5 * rng.normal(size=(len(y), D))
    return x, y, rng.integers(0, 4, size=len(y))


def test_every_center_by_hand(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, k = data
    k = k.copy()
    k[y == 4] = 3
    k[(y == 1) & (k == 3)] = 0  # class 1 shares no cluster with class 4 and counts with its mean
    _, w, _ = kernel_neighbor_centers(x, y, C)
    found = united_centers(x, y, k, C)
    for c in range(C):
        share = np.array([np.mean(k[y == c] == cluster) for cluster in range(4)])
        center = np.zeros(D)
        for j in range(C):
            v = share[k[y == j]]
            part = (v[:, None] * x[y == j]).sum(axis=0) / v.sum() if v.sum() > 0 else x[y == j].mean(axis=0)
            center += w[c, j] * part
        np.testing.assert_allclose(found[c], center, atol=1e-12)


def test_one_cluster_gives_the_neighbor_center(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, k = data
    expected, _, _ = kernel_neighbor_centers(x, y, C)
    np.testing.assert_allclose(united_centers(x, y, np.zeros_like(k), C), expected, atol=1e-12)
    with pytest.raises(ValueError, match="assignments but"):
        united_centers(x, y, k[:-1], C)
    with pytest.raises(DataError):
        united_centers(x, y, k, C + 1)


@pytest.mark.parametrize(("between", "within"), [(1.0, 1.0), (1.0, 3.0), (2.0, 1.0)])
def test_the_pull_is_that_of_the_model_that_made_the_data(between: float, within: float) -> None:
    rng = np.random.default_rng(0)
    n_classes, d = 60, 40
    y = np.repeat(np.arange(n_classes), rng.integers(2, 20, size=n_classes))
    centers = rng.normal(size=(n_classes, d))
    means = centers + np.sqrt(between / d) * rng.normal(size=(n_classes, d))
    x = means[y] + np.sqrt(within / d) * rng.normal(size=(len(y), d))
    found = posterior_kappa(x, y, centers, np.ones(n_classes, dtype=bool))
    assert found == pytest.approx(within / between, rel=0.1)


def test_the_pull_by_hand_and_at_its_limits() -> None:
    x = np.array([[0.0], [2.0], [10.0], [12.0]])
    y = np.array([0, 0, 1, 1])
    # within: 4 of squares over 2 spare samples = 2; chance explains 1 of each squared gap
    assert posterior_kappa(x, y, np.array([[3.0], [9.0]]), np.array([True, True])) == pytest.approx(2 / 3)
    assert posterior_kappa(x, y, np.array([[1.0], [11.0]]), np.array([True, True])) == LARGEST_KAPPA
    assert posterior_kappa(x, y, np.array([[3.0], [9.0]]), np.array([False, False])) == 0
    assert posterior_kappa(x[::2], y[::2], np.array([[3.0], [9.0]]), np.array([True, True])) == 0
    assert posterior_kappa(np.repeat(x[::2], 2, 0), y, np.array([[3.0], [9.0]]), np.array([True, True])) == 0
