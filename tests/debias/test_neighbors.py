import numpy as np
import pytest

from deblora.debias import fit_kappa, kernel_neighbor_centers

COUNTS = (40, 40, 10, 4)


@pytest.fixture
def table(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(4), COUNTS)
    means = np.array([[4.0, 0.0], [-4.0, 0.0], [0.0, 3.0], [3.0, 1.0]])
    return means[labels] + rng.normal(size=(len(labels), 2)) * 0.1, labels


def test_donors_are_twice_as_large_and_at_least_the_median(table: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = table
    centers, weights, has_donors = kernel_neighbor_centers(features, labels, 4)
    # The median of the counts is 25, so class 2 (10 samples) is no donor of class 3.
    assert has_donors.tolist() == [False, False, True, True]
    assert (weights[2:, 2:] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(centers[0], features[labels == 0].mean(axis=0))


def test_weights_by_formula(table: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = table
    _, weights, _ = kernel_neighbor_centers(features, labels, 4, temperature=0.5)
    means = np.array([features[labels == c].mean(axis=0) for c in range(4)])
    offsets = means - features.mean(axis=0)
    unit = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    raw = np.sqrt([40.0, 40.0]) * np.exp(unit[:2] @ unit[3] / 0.5)
    np.testing.assert_allclose(weights[3, :2], raw / raw.sum())


def test_low_temperature_follows_the_nearest_donor(table: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = table
    centers, _, _ = kernel_neighbor_centers(features, labels, 4, temperature=0.01)
    np.testing.assert_allclose(centers[3], features[labels == 0].mean(axis=0), atol=1e-6)


def test_temperature_must_be_positive(table: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        kernel_neighbor_centers(*table, 4, temperature=0.0)


def clusters(spread: float, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(12), [100] * 8 + [3] * 4)
    means = rng.normal(size=(12, 20)) * spread
    return means[labels] + rng.normal(size=(len(labels), 20)) * noise, labels


def test_kappa_is_large_where_neighbors_know_more(rng: np.random.Generator) -> None:
    alike = fit_kappa(*clusters(0.1, 1.0, rng), 12, rng=np.random.default_rng(0))
    distinct = fit_kappa(*clusters(5.0, 0.1, rng), 12, rng=np.random.default_rng(0))
    assert alike > 5
    assert distinct < 0.5


def test_kappa_is_zero_without_rare_classes(rng: np.random.Generator) -> None:
    labels = np.repeat(np.arange(3), 20)
    assert fit_kappa(rng.normal(size=(60, 4)), labels, 3, rng=rng) == 0.0
