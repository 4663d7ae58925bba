"""Exact assignment of samples to clusters under a floor on the cluster size.

The transport problem ``min sum_i cost[k(i), i]`` with ``n_k >= min_size`` is solved in three steps. Cluster prices find
a nearly feasible optimum in bulk. Samples whose second choice lies far behind the first are settled by these prices.
The few others take part in an exact search (:mod:`deblora.debias.kmeans.flow`), which returns the dual prices of its
optimum; where these differ from the prices that settled the rest by less than the rest can bear, the whole
assignment satisfies complementary slackness, which proves that it is optimal. Otherwise more samples take part.
"""

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.kmeans.flow import Flow
from deblora.debias.kmeans.prices import settled_prices
from deblora.debias.kmeans.scan import misplaced, scan

# Ours: samples of the first exact search, per cluster and per misplaced sample, and how they grow; these decide about
# time, never about the cost.
SEARCHED_PER_CLUSTER = 16
SEARCHED_PER_MISPLACED = 8
GROWTH = 4


def constrained_assignment(
    costs: Float[np.ndarray, "k n"], min_size: int, *, prices: Float[np.ndarray, " k"] | None = None
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " k"]]:
    """Assign each sample to one cluster at least total cost, with at least ``min_size`` samples per cluster.

    Args:
        costs: ``costs[k, i]`` of putting sample ``i`` into cluster ``k``; finite, any constant per sample
            allowed. A float32 table whose columns have a smallest value of zero is taken without a copy.
        min_size: The floor, in samples; ``0 <= min_size <= n // k``.
        prices: Dual prices of an earlier, similar problem (>= 0); they speed the search and never change the
            cost.

    Returns:
        The cluster of each sample, and the prices that a next call may start from.

    Raises:
        ValueError: If the floor cannot be met or a cost is not finite.
        ArithmeticError: If rounding hides the order of costs (outliers at about 1e14 times the other costs).
    """
    n_clusters, n_samples = costs.shape
    if min_size < 0 or min_size * n_clusters > n_samples:
        raise ValueError(f"min_size={min_size} cannot be met by {n_samples} samples in {n_clusters} clusters")
    nothing = np.zeros(n_clusters)
    free = scan(costs, nothing)
    if not (np.isfinite(free.lowest).all() and np.isfinite(costs.max())):
        raise ValueError("costs hold values that are not finite")
    if free.sizes(n_clusters).min() >= min_size:
        return free.labels, nothing
    table = costs
    if free.lowest.any() or costs.dtype not in (np.float32, np.float64):
        table = np.asarray(costs, dtype=np.float64)
        table = table - table.min(axis=0)
    start = nothing if prices is None else np.maximum(np.asarray(prices, dtype=np.float64), 0.0)
    start = settled_prices(table, min_size, start)
    n_searched = 0
    while True:
        found = scan(table, start)
        sizes = found.sizes(n_clusters)
        first = SEARCHED_PER_CLUSTER * n_clusters
        first += SEARCHED_PER_MISPLACED * misplaced(sizes, min_size, start)
        n_searched = min(max(GROWTH * n_searched, first), n_samples)
        bearable = (
            float(np.partition(found.gaps, n_searched)[n_searched]) if n_searched < n_samples else np.inf
        )
        searched = np.flatnonzero(found.gaps < bearable) if n_searched < n_samples else np.arange(n_samples)
        settled = sizes - np.bincount(found.labels[searched], minlength=n_clusters)
        flow = Flow(table[:, searched].astype(np.float64), min_size, start, settled)
        if flow.solve():
            end = flow.prices(start)
            if np.ptp(end - start) < bearable:
                found.labels[searched] = flow.labels
                return found.labels, end - end.min()
            start = end
        elif len(searched) == n_samples:
            raise ArithmeticError("costs span more digits than float64 holds; remove the farthest outliers")
