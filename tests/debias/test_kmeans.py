import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.debias import SizeConstrainedKMeans, cluster_features, minimum_size
from deblora.debias.lloyd import lloyd
from deblora.errors import DataError


def test_minimum_size_by_hand() -> None:
    assert minimum_size(98_990, 32, 10) == 310
    assert minimum_size(10, 3, 1) == 3
    assert minimum_size(100, 4, float("inf")) == 0
    with pytest.raises(ValueError, match="rho"):
        minimum_size(10, 2, 0.5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n_clusters=st.integers(1, 6), rho=st.sampled_from([1.0, 2.0, 10.0]))
def test_floor_means_and_monotone_objective(seed: int, n_clusters: int, rho: float) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 3))
    features[:4] *= 30
    floor = minimum_size(60, n_clusters, rho)
    result = lloyd(features, features[:n_clusters], min_size=floor, tol=0)
    sizes = np.bincount(result.labels, minlength=n_clusters)
    assert sizes.sum() == 60
    assert sizes.min() >= floor
    means = np.array([features[result.labels == k].mean(axis=0) for k in range(n_clusters)])
    np.testing.assert_allclose(result.centers, means, atol=1e-9)
    assert (np.diff(result.history) <= 0).all()
    assert result.inertia == pytest.approx(((features - means[result.labels]) ** 2).sum())


def test_permuting_samples_permutes_labels(rng: np.random.Generator) -> None:
    features = rng.normal(size=(80, 4))
    order = rng.permutation(80)
    straight = lloyd(features, features[:5], min_size=14)
    permuted = lloyd(features[order], features[:5], min_size=14)
    assert np.array_equal(straight.labels[order], permuted.labels)


def test_same_seed_same_result_and_float32_stays(rng: np.random.Generator) -> None:
    features = rng.normal(size=(200, 5)).astype(np.float32)
    first, second = (SizeConstrainedKMeans(6, min_size=20, random_state=3).fit(features) for _ in range(2))
    assert np.array_equal(first.labels_, second.labels_)
    assert first.cluster_centers_.dtype == np.float32


def test_predict_is_nearest_center(rng: np.random.Generator) -> None:
    features = rng.normal(size=(100, 3))
    model = SizeConstrainedKMeans(4, random_state=0, tol=0).fit(features)
    distances = ((features[:, None] - model.cluster_centers_) ** 2).sum(axis=2)
    assert np.array_equal(model.predict(features), distances.argmin(axis=1))
    assert np.array_equal(model.predict(features), model.labels_)


def test_empty_cluster_restarts_at_the_farthest_row() -> None:
    features = np.array([[0.0], [1.0], [2.0], [10.0]])
    result = lloyd(features, np.array([[1.0], [500.0]]))
    assert np.bincount(result.labels, minlength=2).tolist() == [3, 1]
    assert result.centers.ravel().tolist() == [1.0, 10.0]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 2)), "lower n_clusters"),
        (np.ones((20, 2)), "distinct"),
        (np.full((20, 2), np.nan), "row 0"),
        (np.zeros((0, 2)), "non-empty"),
    ],
)
def test_unusable_features_are_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SizeConstrainedKMeans(5, random_state=0).fit(features)


def test_floor_that_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="at least 4"):
        SizeConstrainedKMeans(3, min_size=4, random_state=0).fit(rng.normal(size=(10, 2)))


@pytest.mark.parametrize("space", ["standardize", "raw", "l2", "pca"])
def test_centers_are_means_of_raw_members_in_every_space(space: str, rng: np.random.Generator) -> None:
    features = rng.normal(size=(120, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    labels, centers, floor, inertia = cluster_features(features, n_clusters=4, rho=2, space=space, seed=0)
    assert floor == 15
    assert np.bincount(labels, minlength=4).min() >= 15
    for k in range(4):
        np.testing.assert_allclose(centers[k], features[labels == k].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert inertia > 0


def test_standardized_space_ignores_units_and_constant_dimensions(rng: np.random.Generator) -> None:
    features = rng.normal(size=(90, 3))
    scaled = np.column_stack([features * [1.0, 100.0, 0.01], np.full(90, 7.1)])
    first = cluster_features(features, n_clusters=3, rho=10, seed=1)
    second = cluster_features(scaled, n_clusters=3, rho=10, seed=1)
    assert np.array_equal(first[0], second[0])


def test_zero_row_has_no_direction() -> None:
    with pytest.raises(DataError, match="row 1"):
        cluster_features(np.array([[1.0, 0.0], [0.0, 0.0]]), n_clusters=1, rho=1, space="l2", seed=0)


def test_import_loads_no_torch() -> None:
    code = "import sys, deblora.debias; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
