"""Exact assignment of samples to clusters under a floor on the cluster size.

The transport problem ``min sum_i cost[k(i), i]`` with ``n_k >= min_size`` is solved on ``K + 1`` nodes: the
clusters and one hub that absorbs every sample above a floor. Cluster prices find a nearly feasible
optimum in bulk; successive shortest paths move the remaining samples one path at a time,
which keeps each intermediate assignment optimal for its cluster sizes (Bradley, Bennett and Demiriz,
"Constrained K-Means Clustering", 2000).
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.assign_prices import settled_prices

# Above the rounding of a path's cost, so that rounding cannot pass for a cycle of negative cost.
RELATIVE_TOLERANCE = 1e-14


def constrained_assignment(
    costs: Float[np.ndarray, "k n"], min_size: int, *, prices: Float[np.ndarray, " k"] | None = None
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " k"]]:
    """Assign each sample to one cluster at least total cost, with at least ``min_size`` samples per cluster.

    Args:
        costs: ``costs[k, i]`` of putting sample ``i`` into cluster ``k``; finite, any constant per sample
            allowed.
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
    exact = np.asarray(costs, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("costs hold values that are not finite")
    lowest = exact.min(axis=0)
    if lowest.any():  # else a copy of the table is saved
        exact = exact - lowest
    start = np.zeros(n_clusters) if prices is None else np.maximum(np.asarray(prices, dtype=np.float64), 0.0)
    labels = np.argmin(exact, axis=0)
    if np.bincount(labels, minlength=n_clusters).min() >= min_size:
        return labels, np.zeros(n_clusters)
    settled = settled_prices(exact, min_size, start)
    flow = _Flow(exact, min_size, settled)
    while flow.augment():
        pass
    return flow.labels, flow.prices()


class _Flow:
    """The residual graph of the assignment on clusters ``0 .. K-1`` and the hub ``K``."""

    def __init__(
        self, costs: Float[np.ndarray, "k n"], min_size: int, prices: Float[np.ndarray, " k"]
    ) -> None:
        n_clusters, n_samples = costs.shape
        self.costs = costs
        self.hub = n_clusters
        self.labels = np.argmin(costs - prices[:, None], axis=0)
        sizes = np.bincount(self.labels, minlength=n_clusters)
        # The hub may only hold samples of clusters without a price: this is complementary slackness.
        self.overflow = np.where(prices > 0, 0, np.maximum(sizes - min_size, 0))
        self.excess = np.append(
            sizes - min_size - self.overflow, self.overflow.sum() - (n_samples - n_clusters * min_size)
        )
        self.tolerance = RELATIVE_TOLERANCE * max(float(costs.max()), np.finfo(np.float64).tiny)
        self.arcs = np.full((n_clusters + 1, n_clusters + 1), np.inf)
        self.arcs[:n_clusters, self.hub] = 0.0
        self.movers = np.full((n_clusters, n_clusters), -1)
        for a in range(n_clusters):
            self._refresh(a, np.arange(n_clusters))
        self._open_hub_arcs()

    def augment(self) -> bool:
        """Move samples along one shortest path; return whether any node was still over-full."""
        if not (self.excess > 0).any():
            return False
        path = self._shortest_path()
        amount = int(min(self.excess[path[0]], -self.excess[path[-1]]))
        steps = list(pairwise(path))
        chosen: dict[tuple[int, int], Int[np.ndarray, " m"]] = {}
        for a, b in steps:
            if a == self.hub:
                amount = min(amount, int(self.overflow[b]))
            elif b != self.hub:
                chosen[a, b] = self._tied_movers(a, b)
                amount = min(amount, len(chosen[a, b]))
        if amount < 1:
            raise ArithmeticError("costs span more digits than float64 holds; remove the farthest outliers")
        self.excess[path[0]] -= amount
        self.excess[path[-1]] += amount
        for a, b in steps:
            if a == self.hub:
                self.overflow[b] -= amount
            elif b == self.hub:
                self.overflow[a] += amount
        self._move({step: samples[:amount] for step, samples in chosen.items()})
        self._open_hub_arcs()
        return True

    def prices(self) -> Float[np.ndarray, " k"]:
        """Return the dual prices of the finished assignment: distances from the hub, or among clusters without one."""
        start = np.full(self.hub + 1, np.inf)
        start[self.hub] = 0.0
        if not (self.overflow > 0).any():
            start[:] = 0.0
        distance = self._distances(start)[0][: self.hub]
        return (
            np.maximum(distance - distance.min(), 0.0) if np.isfinite(distance).all() else np.zeros(self.hub)
        )

    def _move(self, moves: dict[tuple[int, int], Int[np.ndarray, " m"]]) -> None:
        """Relabel samples and repair the arcs that leave the clusters on the path."""
        for (_, b), samples in moves.items():
            self.labels[samples] = b
        for (a, b), samples in moves.items():
            stale = np.flatnonzero((self.movers[a][:, None] == samples).any(axis=1))
            self._refresh(a, stale)
            deltas = self.costs[:, samples] - self.costs[b, samples]
            nearest = np.argmin(deltas, axis=1)
            values = deltas[np.arange(self.hub), nearest]
            better = values < self.arcs[b, : self.hub]
            better[b] = False
            self.arcs[b, : self.hub][better] = values[better]
            self.movers[b][better] = samples[nearest[better]]

    def _refresh(self, a: int, targets: Int[np.ndarray, " m"]) -> None:
        """Find the cheapest sample of cluster ``a`` to move to each of ``targets``."""
        members = np.flatnonzero(self.labels == a)
        for b in targets[targets != a]:
            self.arcs[a, b], self.movers[a, b] = np.inf, -1
            if len(members):
                deltas = self.costs[b, members] - self.costs[a, members]
                position = int(np.argmin(deltas))
                self.arcs[a, b], self.movers[a, b] = deltas[position], members[position]

    def _tied_movers(self, a: int, b: int) -> Int[np.ndarray, " m"]:
        """Return the samples of ``a`` that move to ``b`` at the arc's cost (duplicates tie)."""
        members = np.flatnonzero(self.labels == a)
        deltas = self.costs[b, members] - self.costs[a, members]
        tied: Int[np.ndarray, " m"] = members[deltas <= self.arcs[a, b]]
        return tied

    def _open_hub_arcs(self) -> None:
        """A cluster can take a sample back from the hub only while the hub holds one of it."""
        self.arcs[self.hub, : self.hub] = np.where(self.overflow > 0, 0.0, np.inf)

    def _shortest_path(self) -> list[int]:
        """Return the nodes from an over-full node to the nearest under-full one."""
        distance, previous = self._distances(np.where(self.excess > 0, 0.0, np.inf))
        node = int(np.argmin(np.where(self.excess < 0, distance, np.inf)))
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
        distance, previous = start.copy(), np.full(n_nodes, -1)
        for _ in range(n_nodes):
            through = distance[:, None] + self.arcs
            source = np.argmin(through, axis=0)
            reached = through[source, np.arange(n_nodes)]
            closer = reached < distance - self.tolerance
            closer |= np.isinf(distance) & np.isfinite(reached)
            if not closer.any():
                break
            distance[closer], previous[closer] = reached[closer], source[closer]
        return distance, previous
