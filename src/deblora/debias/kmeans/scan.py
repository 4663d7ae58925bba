"""One pass over a cost table: the cheapest cluster of each sample and how far its second choice lies behind."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Ours: blocks of the table that stay in a core's cache.
BLOCK_SAMPLES = 4096


@dataclass(frozen=True)
class Scan:
    """The cheapest clusters under some prices.

    Attributes:
        labels: ``argmin_k (cost_ki - p_k)``; ties go to the first.
        lowest: The cost of that cluster less its price.
        gaps: What the second choice costs more, less the rounding of the pass: never above the exact gap.
    """

    labels: Int[np.ndarray, " n"]
    lowest: Float[np.ndarray, " n"]
    gaps: Float[np.ndarray, " n"]

    def sizes(self, n_clusters: int) -> Int[np.ndarray, " k"]:
        """Count the samples of each cluster."""
        return np.bincount(self.labels, minlength=n_clusters)


def scan(costs: Float[np.ndarray, "k n"], prices: Float[np.ndarray, " k"]) -> Scan:
    """Find the cheapest cluster of each sample in the dtype of ``costs``."""
    n_clusters, n_samples = costs.shape
    labels = np.zeros(n_samples, dtype=np.int64)
    lowest, gaps = np.empty(n_samples, dtype=costs.dtype), np.full(n_samples, np.inf, dtype=costs.dtype)
    rounded = prices.astype(costs.dtype)
    # A difference and its two terms are each rounded once; twice that for both choices.
    epsilon = costs.dtype.type(4 * np.finfo(costs.dtype).eps)
    largest = np.abs(rounded).max()
    for first in range(0, n_samples, BLOCK_SAMPLES):
        part = slice(first, first + BLOCK_SAMPLES)
        table, label = costs[:, part], labels[part]
        best = np.subtract(table[0], rounded[0], out=lowest[part])
        second = np.full_like(best, np.inf)
        paid, spare, cheaper = np.empty_like(best), np.empty_like(best), np.empty(len(best), dtype=bool)
        for k in range(1, n_clusters):
            np.subtract(table[k], rounded[k], out=paid)
            np.less(paid, best, out=cheaper)
            np.copyto(label, k, where=cheaper)
            np.maximum(best, paid, out=spare)
            np.minimum(second, spare, out=second)
            np.minimum(best, paid, out=best)
        if n_clusters > 1:
            gaps[part] = second - best - epsilon * (np.abs(best) + np.abs(second) + largest)
    return Scan(labels, lowest, gaps)


def misplaced(sizes: Int[np.ndarray, " k"], min_size: int, prices: Float[np.ndarray, " k"]) -> int:
    """Count the samples below the floor, and above it in clusters with a price."""
    off = np.where(prices > 0, np.abs(sizes - min_size), np.maximum(min_size - sizes, 0))
    return int(off.sum())
