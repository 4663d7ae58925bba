import numpy as np
import pytest

from deblora.debias import class_means, debiased_centers, global_mean_centers, random_head_centers
from deblora.errors import DataError

FEATURES = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 4.0], [6.0, 4.0]])
LABELS = np.array([0, 1, 0, 0])


def test_four_points_by_hand() -> None:
    cluster_centers = np.array([[1.0, 0.0], [5.0, 4.0]])
    centers, weights = debiased_centers(cluster_centers, np.array([0, 0, 1, 1]), LABELS, [0, 1])
    np.testing.assert_allclose(weights, [[1 / 3, 2 / 3], [1.0, 0.0]])
    np.testing.assert_allclose(centers, [[11 / 3, 8 / 3], [1.0, 0.0]])


def test_one_cluster_gives_the_global_mean() -> None:
    mean = FEATURES.mean(axis=0, keepdims=True)
    centers, _ = debiased_centers(mean, np.zeros(4, dtype=int), LABELS, [0, 1])
    np.testing.assert_allclose(centers, global_mean_centers(FEATURES, [0, 1]))


def test_pure_clusters_give_class_means() -> None:
    means = class_means(FEATURES, LABELS, 2)
    np.testing.assert_allclose(debiased_centers(means, LABELS, LABELS, [0, 1])[0], means)
    np.testing.assert_allclose(means[1], [2.0, 0.0])


def test_random_head_center_is_a_head_mean(rng: np.random.Generator) -> None:
    centers = random_head_centers(FEATURES, LABELS, [1], [0], rng)
    np.testing.assert_allclose(centers[0], FEATURES[LABELS == 0].mean(axis=0))


def test_class_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match="class 2"):
        debiased_centers(np.zeros((1, 2)), np.zeros(4, dtype=int), LABELS, [2])
    with pytest.raises(DataError, match="class 2"):
        class_means(FEATURES, LABELS, 3)
