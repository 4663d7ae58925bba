"""Cluster prices under which the cheapest cluster of each sample nearly meets a floor on the cluster size.

The prices maximize the dual of the assignment, smoothed by a temperature ``T``:
``sum_i -T log sum_k exp(-(cost_ki - p_k) / T) + floor sum_k p_k`` with ``p >= 0``. Its gradient is the floor less the
soft cluster sizes. Newton steps follow the maximum while ``T`` falls: first on a sample, until ``T`` is about the
error of the sample, then on the samples near a boundary between clusters, of which fewer remain at each level.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real

# Ours: blocks of the table that stay in a core's cache.
SCAN_SAMPLES = 4096


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
    for first in range(0, n_samples, SCAN_SAMPLES):
        part = slice(first, first + SCAN_SAMPLES)
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


# All ours; see assign_prices.py.
N_STEPS = 8
# A step may change a price by this many temperatures; beyond, the dual is far from its quadratic model.
LONGEST_STEP = 8.0
# Exponentials are taken anew once prices have moved by this many temperatures: float32 ends at exp(88).
LONGEST_SHIFT = 60.0
RIDGE = 1e-7
# Samples per pass, which stay in a core's cache, and per product: BLAS would start threads for larger ones.
BLOCK_SAMPLES, PRODUCT_SAMPLES = 2048, 128


def soft_prices(
    reduced: Float[np.ndarray, "k m"],
    base: Float[np.ndarray, " k"],
    settled: Real[np.ndarray, " k"],
    floor: float,
    prices: Float[np.ndarray, " k"],
    temperature: float,
    *,
    tolerance: float,
) -> Float[np.ndarray, " k"]:
    """Return prices under which the soft cluster sizes meet the floor, with at least one price at zero.

    Args:
        reduced: Costs less ``base``, zero at the cheapest cluster of each sample.
        base: Prices that are in ``reduced`` already.
        settled: Size of each cluster without these samples.
        floor: Wanted size.
        prices: The start.
        temperature: ``T`` > 0, in the units of the costs.
        tolerance: Stop when no size is off by more.
    """
    trial, at = prices, prices
    weights = _exponentials(reduced, at - base, temperature)
    for step in range(N_STEPS + 1):
        if np.ptp(trial - at) > LONGEST_SHIFT * temperature:
            at = trial
            weights = _exponentials(reduced, at - base, temperature)
        soft_sizes, products = _moments(weights, (trial - at) / temperature)
        missing = floor - settled - soft_sizes
        free = (trial > 0) | (missing > 0)
        if step == N_STEPS or np.abs(missing[free]).max(initial=0.0) < tolerance:
            break
        curvature = (np.diag(soft_sizes) - products)[np.ix_(free, free)]
        curvature[np.diag_indices(len(curvature))] += RIDGE * max(floor, 1.0)
        change = np.zeros(len(trial))
        change[free] = np.linalg.solve(curvature, missing[free])
        # Coordinate by coordinate: an almost empty cluster asks for a huge step and must not shorten the others.
        trial = np.maximum(0.0, trial + temperature * np.clip(change, -LONGEST_STEP, LONGEST_STEP))
        trial = trial - trial.min()  # lowering all prices alike by m raises the dual by m (n - K floor) >= 0
    return trial


def _exponentials(
    reduced: Float[np.ndarray, "k m"], shift: Float[np.ndarray, " k"], temperature: float
) -> Float[np.ndarray, "k m"]:
    """Return ``exp(-(reduced - shift) / T)``, 1 at the cheapest cluster of each sample."""
    weights = np.empty_like(reduced)
    for first in range(0, reduced.shape[1], BLOCK_SAMPLES):
        block = weights[:, first : first + BLOCK_SAMPLES]
        np.subtract(
            shift.astype(reduced.dtype)[:, None], reduced[:, first : first + BLOCK_SAMPLES], out=block
        )
        block -= block.max(axis=0)
        block /= reduced.dtype.type(temperature)
        np.exp(block, out=block)
    return weights


def _moments(
    weights: Float[np.ndarray, "k m"], shift: Float[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Return ``sum_i s_ki`` and ``sum_i s_ki s_li``, with ``s`` in proportion to ``weights exp(shift)``."""
    n_clusters = len(weights)
    factors = np.exp(shift - 0.5 * (shift.max() + shift.min())).astype(weights.dtype)[:, None]
    sizes, products = np.zeros(n_clusters), np.zeros((n_clusters, n_clusters))
    for first in range(0, weights.shape[1], BLOCK_SAMPLES):
        soft = weights[:, first : first + BLOCK_SAMPLES] * factors
        soft *= 1 / soft.sum(axis=0)
        sizes += soft.sum(axis=1)
        even = soft.shape[1] // PRODUCT_SAMPLES * PRODUCT_SAMPLES
        pieces = soft[:, :even].reshape(n_clusters, -1, PRODUCT_SAMPLES).transpose(1, 0, 2)
        products += (pieces @ pieces.transpose(0, 2, 1)).sum(axis=0)
        products += soft[:, even:] @ soft[:, even:].T
    return sizes, products


# All ours: they decide how many samples are left to the exact search, never the resulting cost.
MAX_SAMPLED = 4096
# Temperatures, in units of the typical largest cost of a sample.
SAMPLED_TEMPERATURES = (1 / 8, 1 / 64)
FIRST_TEMPERATURE = 1 / 256
COOLING = 1 / 16
N_LEVELS = 6
# Samples whose second choice lies this many temperatures behind keep their cluster.
FAR = 24.0
# With this few samples per cluster near a boundary the exact search is quicker.
FEW_PER_CLUSTER = 8
# Prices of an earlier problem are kept where they misplace at most this share of the samples.
WARM_SHARE = 0.01


@dataclass(frozen=True)
class _Boundary:
    """The samples near a change of cluster; all others are only counted.

    Attributes:
        reduced: Their costs less ``base``, less their cheapest, in units of the scale.
        base: Prices in units of the scale.
        settled: Samples of each cluster that are far from a change.
        off: Misplaced samples under ``base``.
    """

    reduced: Float[np.ndarray, "k m"]
    base: Float[np.ndarray, " k"]
    settled: Int[np.ndarray, " k"]
    off: int


def settled_prices(
    costs: Float[np.ndarray, "k n"], min_size: int, prices: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Return the best prices met on a cooling path, by the number of misplaced samples.

    Args:
        costs: Costs, zero at the cheapest cluster of each sample.
        min_size: The floor, at least 1.
        prices: Prices of an earlier problem, or zeros.
    """
    stride = -(-costs.shape[1] // MAX_SAMPLED)
    sample = costs[:, ::stride]
    scale = float(np.median(sample.max(axis=0)))
    if not scale > np.finfo(costs.dtype).tiny:
        return prices
    best = trial = prices / scale
    off = costs.shape[1]
    if prices.any():
        off = misplaced(scan(costs, prices).sizes(len(costs)), min_size, prices)
    if off > WARM_SHARE * costs.shape[1]:
        trial = _sampled(sample, scale, min_size * sample.shape[1] / costs.shape[1])
    boundary = _boundary(costs, scale, min_size, trial, FAR * FIRST_TEMPERATURE)
    if boundary.off < off:
        best, off = trial, boundary.off
    temperature = FIRST_TEMPERATURE
    for _ in range(N_LEVELS):
        trial = soft_prices(
            boundary.reduced, boundary.base, boundary.settled, min_size, trial, temperature, tolerance=0.5
        )
        if np.ptp(trial - boundary.base) > FAR * temperature:
            boundary = _boundary(costs, scale, min_size, trial, FAR * temperature)
        else:
            temperature *= COOLING
            boundary = _narrowed(boundary, min_size, trial, FAR * temperature)
        if boundary.off <= off:
            best, off = trial, boundary.off
        if boundary.reduced.shape[1] <= FEW_PER_CLUSTER * len(costs):
            break
    return best * scale


def _sampled(sample: Float[np.ndarray, "k m"], scale: float, floor: float) -> Float[np.ndarray, " k"]:
    """Return prices for a sample of the problem."""
    reduced = _in_units(sample, scale)
    none, prices = np.zeros(len(sample)), np.zeros(len(sample))
    for temperature in SAMPLED_TEMPERATURES:
        prices = soft_prices(
            reduced, none, none, floor, prices, temperature, tolerance=max(0.5, 0.02 * floor)
        )
    return prices


def _boundary(
    costs: Float[np.ndarray, "k n"],
    scale: float,
    min_size: int,
    prices: Float[np.ndarray, " k"],
    width: float,
) -> _Boundary:
    """Find the samples whose second choice lies less than ``width`` behind the first."""
    found = scan(costs, prices * scale)
    near = np.flatnonzero(found.gaps < width * scale)
    sizes = found.sizes(len(costs))
    settled = sizes - np.bincount(found.labels[near], minlength=len(costs))
    reduced = costs[:, near]
    reduced -= (prices * scale).astype(costs.dtype)[:, None]
    reduced -= reduced.min(axis=0)
    return _Boundary(_in_units(reduced, scale), prices, settled, misplaced(sizes, min_size, prices))


def _narrowed(boundary: _Boundary, min_size: int, prices: Float[np.ndarray, " k"], width: float) -> _Boundary:
    """Keep the samples that are within ``width`` under the new prices, and count the others."""
    reduced = boundary.reduced - (prices - boundary.base).astype(boundary.reduced.dtype)[:, None]
    reduced -= reduced.min(axis=0)
    labels, near = np.argmin(reduced, axis=0), (reduced < width).sum(axis=0) > 1
    settled = boundary.settled + np.bincount(labels[~near], minlength=len(prices))
    off = misplaced(boundary.settled + np.bincount(labels, minlength=len(prices)), min_size, prices)
    return _Boundary(reduced[:, near], prices, settled, off)


def _in_units(table: Float[np.ndarray, "k m"], scale: float) -> Float[np.ndarray, "k m"]:
    """Divide by the scale, in float32: enough digits for prices that an exact search repairs."""
    with np.errstate(over="ignore"):
        scaled: Float[np.ndarray, "k m"] = (table / scale).astype(np.float32, copy=False)
    return scaled
