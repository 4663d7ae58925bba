"""DBSCAN clusters: separated blobs are found, noise joins the nearest, bad settings are named."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from deblora.debias.density import density_clusters
from deblora.errors import DataError


def blobs(n_noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    labels = np.repeat([0, 1, 2], [60, 40, 20])
    rows = places[labels] + 0.3 * rng.standard_normal((len(labels), 2))
    far = np.array([[9.0, 4.0], [4.0, 9.5]])[:n_noise]
    return np.concatenate([rows, far]), np.concatenate([labels, np.array([1, 2])[:n_noise]])


@pytest.mark.parametrize("eps", [3.0, 6.0, 12.0])
def test_separated_blobs_are_found_whatever_eps(eps: float) -> None:
    rows, labels = blobs()
    found, centers, _ = density_clusters(rows, eps=eps, space="raw")
    assert adjusted_rand_score(labels, found) == 1.0
    expected = np.stack([rows[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(sorted(centers.tolist()), sorted(expected.tolist()))


def test_noise_joins_the_nearest_cluster_and_counts_in_its_center() -> None:
    rows, labels = blobs(n_noise=2)
    found, centers, inertia = density_clusters(rows, eps=3.0, space="raw")
    assert adjusted_rand_score(labels, found) == 1.0
    np.testing.assert_allclose(centers[found[-1]], rows[found == found[-1]].mean(axis=0))
    assert inertia == pytest.approx(((rows - centers[found]) ** 2).sum())


def test_scaling_all_features_changes_nothing() -> None:
    rows, _ = blobs()
    np.testing.assert_array_equal(
        density_clusters(rows, space="raw")[0], density_clusters(1000 * rows, space="raw")[0]
    )


def test_what_cannot_be_clustered_is_named() -> None:
    rows, _ = blobs()
    with pytest.raises(DataError, match="finds no cluster"):
        density_clusters(rows, eps=0.01, space="raw")
    with pytest.raises(DataError, match="duplicates"):
        density_clusters(np.ones((30, 2)), space="raw")
    with pytest.raises(ValueError, match="eps"):
        density_clusters(rows, eps=0.0)


@pytest.mark.parametrize("seed", range(4))
def test_copies_do_not_decide_about_the_radius(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.normal(size=(150, 16)), rng.normal(size=(150, 16)) + 8]).astype(np.float32)
    copied = np.concatenate([rows, rows[rng.integers(0, 5, 700)]])
    found, centers, _ = density_clusters(copied, eps=1.5)
    assert len(centers) == 2 and len(set(found[:150].tolist())) == len(set(found[150:300].tolist())) == 1
