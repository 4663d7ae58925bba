import numpy as np
import pytest
from k_means_constrained import KMeansConstrained
from k_means_constrained.k_means_constrained_ import (
    minimum_cost_flow_problem_graph,
    solve_min_cost_flow_graph,
)
from sklearn.cluster import KMeans, kmeans_plusplus

from deblora.debias import constrained_assignment, minimum_size
from deblora.debias.kmeans.lloyd import greedy_start, lloyd
from deblora.debias.rows import Rows, row_squares


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    table = rng.normal(size=(600, 8)) + rng.normal(size=(6, 8))[rng.integers(6, size=600)] * 2
    table[:5] *= 15
    return table - table.mean(axis=0)


@pytest.mark.parametrize("n_clusters", [1, 4, 12])
def test_no_floor_equals_scikit_learn(features: np.ndarray, n_clusters: int) -> None:
    start = features[100 : 100 + n_clusters]
    theirs = KMeans(n_clusters, init=start, n_init=1, tol=0, algorithm="lloyd").fit(features)
    ours = lloyd(features, start, tol=0)
    assert np.array_equal(ours.labels, theirs.labels_)
    np.testing.assert_allclose(ours.centers, theirs.cluster_centers_, atol=1e-9)
    assert ours.inertia == pytest.approx(theirs.inertia_)


@pytest.mark.parametrize("rho", [1.0, 1.5, 4.0])
def test_assignment_equals_min_cost_flow(features: np.ndarray, rho: float) -> None:
    floor = minimum_size(len(features), 6, rho)
    centers = features[:6]
    squared = ((features[:, None] - centers) ** 2).sum(axis=2)
    graph = minimum_cost_flow_problem_graph(features, centers, squared, floor, len(features))
    theirs = solve_min_cost_flow_graph(*graph)
    ours, _ = constrained_assignment(squared.T, floor)
    rows = np.arange(len(features))
    # Their flow rounds each cost to 0.001.
    assert squared[rows, ours].sum() == pytest.approx(squared[rows, theirs].sum(), abs=1e-3 * len(features))


@pytest.mark.parametrize("rho", [1.0, 1.5, 4.0])
def test_continuing_their_solution_never_raises_its_inertia(features: np.ndarray, rho: float) -> None:
    # Their fit minimizes plain distances in the assignment, so only this direction of the comparison must hold.
    floor = minimum_size(len(features), 6, rho)
    start = features[:6]
    theirs = KMeansConstrained(6, size_min=floor, init=start, n_init=1, tol=0, max_iter=100).fit(features)
    ours = lloyd(features, theirs.cluster_centers_, min_size=floor, tol=0)
    assert np.bincount(ours.labels).min() >= floor
    assert ours.inertia <= theirs.inertia_ * (1 + 1e-9)


def test_starts_are_as_good_as_scikit_learns(features: np.ndarray) -> None:
    squares = row_squares(Rows(features))

    def potential(centers: np.ndarray) -> float:
        return float(((features[:, None] - centers) ** 2).sum(axis=2).min(axis=1).sum())

    ours = [potential(greedy_start(features, squares, 12, np.random.default_rng(s))) for s in range(40)]
    theirs = [potential(kmeans_plusplus(features, 12, random_state=s)[0]) for s in range(40)]
    spread = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(40)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * spread


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_capped_iterations_equal_scikit_learn(features: np.ndarray, dtype: type) -> None:
    # After its last iteration scikit-learn assigns once more.
    rows = features.astype(dtype)
    for n_iterations in (1, 3, 6):
        theirs = KMeans(9, init=rows[:9], n_init=1, tol=0, max_iter=n_iterations).fit(rows)
        ours = lloyd(rows, rows[:9], tol=0, max_iter=n_iterations + 1)
        assert np.array_equal(ours.labels, theirs.labels_)
