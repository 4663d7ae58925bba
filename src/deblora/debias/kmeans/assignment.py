"""Exact assignment of samples to clusters under a floor on the cluster size.

The transport problem ``min sum_i cost[k(i), i]`` with ``n_k >= min_size`` is solved in three steps. Cluster prices find
a nearly feasible optimum in bulk. Samples whose second choice lies far behind the first are settled by these prices.
The few others take part in an exact search (:class:`Flow`), which returns the dual prices of its
optimum; where these differ from the prices that settled the rest by less than the rest can bear, the whole
assignment satisfies complementary slackness, which proves that it is optimal. Otherwise more samples take part.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.kmeans.prices import misplaced, scan, settled_prices

# Above the rounding of a path's cost, so that rounding cannot pass for a cycle of negative cost.
RELATIVE_TOLERANCE = 1e-14


class Flow:
    """An assignment on its way from one that is cheapest under prices to one that meets the floor.

    Args:
        costs: Costs of the samples that may move, in float64.
        min_size: The floor.
        prices: At least 0; each sample starts in the cluster that is cheapest under them.
        settled: Samples of each cluster that do not take part.

    Attributes:
        labels: Cluster of each sample that takes part.
    """

    labels: Int[np.ndarray, " n"]

    def __init__(
        self,
        costs: Float[np.ndarray, "k n"],
        min_size: int,
        prices: Float[np.ndarray, " k"],
        settled: Int[np.ndarray, " k"],
    ) -> None:
        n_clusters = len(costs)
        self.columns = np.ascontiguousarray(costs.T)  # a sample's costs lie together
        self.hub = n_clusters
        self.labels = np.argmin(self.columns - prices, axis=1)
        sizes = settled + np.bincount(self.labels, minlength=n_clusters)
        # The hub may only hold samples of clusters without a price: this is complementary slackness.
        self.overflow = np.where(prices > 0, 0, np.maximum(sizes - min_size, 0))
        self.excess = np.append(
            sizes - min_size - self.overflow, self.overflow.sum() - (sizes.sum() - n_clusters * min_size)
        )
        self.tolerance = RELATIVE_TOLERANCE * max(float(costs.max()), np.finfo(np.float64).tiny)
        self.arcs = np.full((n_clusters + 1, n_clusters + 1), np.inf)
        self.arcs[:n_clusters, self.hub] = 0.0
        for a in range(n_clusters):
            self._refresh(a)
        self._open_hub_arcs()

    def solve(self) -> bool:
        """Move samples until the floor is met; return whether the samples that take part suffice."""
        while (self.excess > 0).any():
            path = self._shortest_path()
            if not path:
                return False
            self._augment(path)
        return True

    def prices(self, start: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Return dual prices of the finished assignment, as near to ``start`` as it allows."""
        potentials = self._distances(np.append(start, 0.0))[0]
        return np.asarray(potentials[: self.hub] - potentials[self.hub])

    def _augment(self, path: list[int]) -> None:
        """Move as many samples along the path as its cost holds for."""
        amount = int(min(self.excess[path[0]], -self.excess[path[-1]]))
        steps = list(pairwise(path))
        moves: dict[tuple[int, int], Int[np.ndarray, " m"]] = {}
        for a, b in steps:
            if a == self.hub:
                amount = min(amount, int(self.overflow[b]))
            elif b != self.hub:
                moves[a, b] = self._tied_movers(a, b)
                amount = min(amount, len(moves[a, b]))
        if amount < 1:
            raise ArithmeticError("costs span more digits than float64 holds; remove the farthest outliers")
        self.excess[path[0]] -= amount
        self.excess[path[-1]] += amount
        for a, b in steps:
            if a == self.hub:
                self.overflow[b] -= amount
            elif b == self.hub:
                self.overflow[a] += amount
        for (_, b), samples in moves.items():
            self.labels[samples[:amount]] = b
        for a in {node for move in moves for node in move}:
            self._refresh(a)
        self._open_hub_arcs()

    def _refresh(self, a: int) -> None:
        """Find the cheapest move from cluster ``a`` to each other cluster."""
        members = self.columns[self.labels == a]
        if len(members):
            self.arcs[a, : self.hub] = (members - members[:, a, None]).min(axis=0)
        else:
            self.arcs[a, : self.hub] = np.inf
        self.arcs[a, a] = np.inf

    def _tied_movers(self, a: int, b: int) -> Int[np.ndarray, " m"]:
        """Return the samples of ``a`` that move to ``b`` at the arc's cost (duplicates tie)."""
        members = np.flatnonzero(self.labels == a)
        chosen = self.columns[members]
        tied: Int[np.ndarray, " m"] = members[chosen[:, b] - chosen[:, a] <= self.arcs[a, b]]
        return tied

    def _open_hub_arcs(self) -> None:
        """A cluster can take a sample back from the hub only while the hub holds one of it."""
        self.arcs[self.hub, : self.hub] = np.where(self.overflow > 0, 0.0, np.inf)

    def _shortest_path(self) -> list[int]:
        """Return the nodes from an over-full node to the nearest under-full one; nothing where no path leads there."""
        distance, previous = self._distances(np.where(self.excess > 0, 0.0, np.inf))
        reached = np.where(self.excess < 0, distance, np.inf)
        node = int(np.argmin(reached))
        if not np.isfinite(reached[node]):
            return []
        nodes = [node]
        while previous[node] >= 0 and len(nodes) <= self.hub:
            node = int(previous[node])
            nodes.append(node)
        return nodes[::-1]

    def _distances(
        self, start: Float[np.ndarray, " m"]
    ) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """Bellman-Ford over all nodes from given start distances; returns distances and previous nodes."""
        n_nodes = self.hub + 1
        distance, previous, nodes = start.copy(), np.full(n_nodes, -1), np.arange(n_nodes)
        for _ in range(n_nodes):
            through = distance[:, None] + self.arcs
            source = through.argmin(axis=0)
            reached = through[source, nodes]
            closer = reached < distance - self.tolerance
            closer |= np.isinf(distance) & np.isfinite(reached)
            if not closer.any():
                break
            distance[closer], previous[closer] = reached[closer], source[closer]
        return distance, previous


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
    try:
        return _searched(table, min_size, settled_prices(table, min_size, start))
    except ArithmeticError:
        if table.dtype == np.float64:
            raise
        # Rows far away give costs and prices beside which float32 tells the others no longer apart.
        table = table.astype(np.float64)
        return _searched(table, min_size, settled_prices(table, min_size, start))


def _searched(
    table: Float[np.ndarray, "k n"], min_size: int, start: Float[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " k"]]:
    """Search among more and more samples until those that are left out provably keep their cluster."""
    n_clusters, n_samples = table.shape
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
        is_searched = found.gaps < bearable
        if not is_searched.any() and n_searched < n_samples:  # as many ties as that, of copies or by rounding
            is_searched = found.gaps <= bearable
            bearable = float(np.min(found.gaps, initial=np.inf, where=~is_searched))
        searched = np.flatnonzero(is_searched)
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
