import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from deblora.debias import constrained_assignment
from deblora.debias.kmeans import assignment
from deblora.debias.kmeans.assignment import Flow
from deblora.debias.kmeans.prices import scan, settled_prices


def linear_program_cost(costs: np.ndarray, min_size: int) -> float:
    n_clusters, n_samples = costs.shape
    one_each = sparse.hstack([sparse.eye(n_samples)] * n_clusters)
    sizes = sparse.kron(sparse.eye(n_clusters), np.ones((1, n_samples)))
    result = linprog(
        costs.ravel(),
        A_ub=-sizes,
        b_ub=np.full(n_clusters, -min_size),
        A_eq=one_each,
        b_eq=np.ones(n_samples),
    )
    return float(result.fun)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n_clusters=st.integers(1, 6), ties=st.booleans(), warm=st.booleans())
def test_cost_equals_the_linear_program(seed: int, n_clusters: int, ties: bool, warm: bool) -> None:
    rng = np.random.default_rng(seed)
    n_samples = int(rng.integers(n_clusters, 50))
    min_size = int(rng.integers(0, n_samples // n_clusters + 1))
    costs = rng.random((n_clusters, n_samples))
    costs[0] += rng.random()
    if ties:
        costs = np.round(costs * 3)
    prices = rng.random(n_clusters) if warm else None
    labels, _ = constrained_assignment(costs, min_size, prices=prices)
    assert np.bincount(labels, minlength=n_clusters).min() >= min_size
    cost = costs[labels, np.arange(n_samples)].sum()
    assert cost == pytest.approx(linear_program_cost(costs, min_size), rel=1e-9, abs=1e-9)


def test_nearest_is_kept_where_floors_hold() -> None:
    costs = np.array([[0.0, 0.0, 5.0, 5.0], [5.0, 5.0, 0.0, 0.0]])
    labels, prices = constrained_assignment(costs, 2)
    assert labels.tolist() == [0, 0, 1, 1]
    assert prices.tolist() == [0.0, 0.0]


def test_chain_of_moves_by_hand() -> None:
    # Cluster 2 is cheapest to fill through cluster 1, which then takes a sample from cluster 0.
    costs = np.array([[0.0, 0.0, 0.0, 9.0], [1.0, 9.0, 9.0, 0.0], [50.0, 50.0, 50.0, 1.0]])
    labels, _ = constrained_assignment(costs, 1)
    assert labels.tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(("n_samples", "floor"), [(200, 30), (20_000, 3_000), (20_000, 4_000)])
def test_returned_prices_certify_the_optimum(n_samples: int, floor: int, rng: np.random.Generator) -> None:
    costs = rng.random((5, n_samples))
    costs[0] += 2.0
    labels, prices = constrained_assignment(costs, floor)
    reduced = costs - prices[:, None]
    assert (prices >= 0).all()
    np.testing.assert_allclose(reduced[labels, np.arange(n_samples)], reduced.min(axis=0), atol=1e-9)
    sizes = np.bincount(labels, minlength=5)
    assert sizes.min() >= floor
    assert (sizes[prices > prices.min() + 1e-9] == floor).all()


def test_far_outliers_do_not_spoil_the_order_of_small_costs(rng: np.random.Generator) -> None:
    points = rng.normal(size=(60, 1))
    points[0] = 1e5
    squared = (points - np.array([0.0, 0.5, 1e5])) ** 2
    labels, prices = constrained_assignment(squared.T, 15)
    reduced = squared - prices
    # Total costs near 1e11 would hide a wrong choice between the two near clusters; the dual gap shows it.
    np.testing.assert_allclose(reduced[np.arange(60), labels], reduced.min(axis=1), rtol=0, atol=1e-3)
    assert np.bincount(labels, minlength=3).min() >= 15


def test_identical_samples_fill_all_floors() -> None:
    labels, _ = constrained_assignment(np.tile([[0.0], [1.0], [2.0]], 300), 100)
    assert np.bincount(labels).tolist() == [100, 100, 100]


def test_impossible_floor_and_bad_costs_are_refused() -> None:
    with pytest.raises(ValueError, match="min_size=3"):
        constrained_assignment(np.zeros((2, 5)), 3)
    with pytest.raises(ValueError, match="not finite"):
        constrained_assignment(np.array([[0.0, np.nan], [1.0, 1.0]]), 1)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_settled_prices_nearly_meet_the_floor(share: float, rng: np.random.Generator) -> None:
    points = (
        rng.normal(size=(6000, 6))
        + 3 * rng.normal(size=(4, 6))[rng.choice(4, 6000, p=[0.7, 0.2, 0.08, 0.02])]
    )
    points[:10] *= 50
    costs = ((points[:, None] - points[rng.choice(6000, 12)]) ** 2).sum(axis=2).T
    costs -= costs.min(axis=0)
    floor = int(share * 500)
    prices = settled_prices(costs, floor, np.zeros(12))
    sizes = np.bincount(np.argmin(costs - prices[:, None], axis=0), minlength=12)
    assert (prices >= 0).all()
    # 12 clusters may each be off by the samples within one temperature of a boundary.
    assert np.maximum(floor - sizes, 0).sum() <= 0.02 * 6000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scan_finds_the_cheapest_and_never_overstates_a_gap(dtype: type, rng: np.random.Generator) -> None:
    costs = (1e3 * rng.random((6, 9000)) ** 4).astype(dtype)
    prices = 300 * rng.random(6)
    found = scan(costs, prices)
    exact = np.sort(costs.astype(np.float64) - prices[:, None], axis=0)
    chosen = costs.astype(np.float64)[found.labels, np.arange(9000)] - prices[found.labels]
    np.testing.assert_allclose(chosen, exact[0], atol=1e-3)
    assert (found.gaps <= exact[1] - exact[0]).all()
    np.testing.assert_allclose(found.gaps, exact[1] - exact[0], atol=3e-3)


def test_one_cluster_takes_all() -> None:
    labels, prices = constrained_assignment(np.ones((1, 7)), 7)
    assert labels.tolist() == [0] * 7
    assert prices.tolist() == [0.0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.3, 0.7, 1.0]), single=st.booleans())
def test_any_prices_and_any_first_search_lead_to_the_optimum(seed: int, share: float, single: bool) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.gamma(1.0, size=(5, 120))
    costs[0] += 1.5
    costs -= costs.min(axis=0)
    costs = costs.astype(np.float32) if single else costs
    floor = int(share * 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "SEARCHED_PER_CLUSTER", 1)
        patch.setattr(assignment, "SEARCHED_PER_MISPLACED", 0)
        patch.setattr(assignment, "settled_prices", lambda *_: rng.gamma(1.0, size=5) * rng.integers(0, 2, 5))
        labels, prices = constrained_assignment(costs, floor)
    assert np.bincount(labels, minlength=5).min() >= floor
    exact = costs.astype(np.float64)
    cost = exact[labels, np.arange(120)].sum()
    assert cost == pytest.approx(linear_program_cost(exact, floor), rel=1e-9)
    # Strong duality: the returned prices prove it without the linear program.
    dual = (exact - prices[:, None]).min(axis=0).sum() + floor * prices.sum()
    assert cost == pytest.approx(dual, rel=1e-9)


def test_duplicates_of_few_samples_are_shared_out(rng: np.random.Generator) -> None:
    costs = np.repeat(rng.random((4, 6)), 500, axis=1)
    labels, prices = constrained_assignment(costs, 750)
    assert np.bincount(labels).tolist() == [750] * 4
    dual = (costs - prices[:, None]).min(axis=0).sum() + 750 * prices.sum()
    assert costs[labels, np.arange(3000)].sum() == pytest.approx(dual)


def test_a_search_among_too_few_samples_says_so() -> None:
    # Three settled samples in cluster 0, one sample that may move: a floor of 2 needs two.
    flow = Flow(np.array([[0.0], [1.0]]), 2, np.zeros(2), np.array([3, 0]))
    assert not flow.solve()
