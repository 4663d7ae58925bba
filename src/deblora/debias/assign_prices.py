"""Cluster prices under which the cheapest cluster of each sample nearly meets a floor on the cluster size.

The prices maximize the dual of the assignment, smoothed by a temperature ``T``:
``sum_i -T log sum_k exp(-(cost_ki - p_k) / T) + floor sum_k p_k`` with ``p >= 0``. Its gradient is the floor less the
soft cluster sizes. Newton steps follow the maximum while ``T`` falls.
"""

import numpy as np
from jaxtyping import Float

# All ours: they decide how many samples are left to the exact search, never the resulting cost.
MAX_SAMPLED = 4096
N_STEPS = 10
CLOSE = 0.01
COOLING = 0.25
N_TEMPERATURES = 12
# Temperatures of the end of the path, where all samples take part.
N_FINE = 5
# Sweeps over the prices of the exact dual at the end.
N_SWEEPS = 5
# Samples whose second choice is this many temperatures away do not change their cluster.
FAR = 20.0
# A step may change prices by this many temperatures; beyond, the smoothed dual is far from its quadratic model.
LONGEST_STEP = 8.0
RIDGE = 1e-7


def settled_prices(
    costs: Float[np.ndarray, "k n"], min_size: int, prices: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Return the best prices met on a cooling path, by the number of misplaced samples.

    Args:
        costs: Costs, zero at the cheapest cluster of each sample.
        min_size: The floor, at least 1.
        prices: Prices of an earlier problem, or zeros; kept if the path finds none with fewer misplaced samples.
    """
    best, misplaced = prices, _misplaced(costs, min_size, prices)
    scale = float(np.median(costs.max(axis=0)))
    if not scale > 0:
        return best
    stride = -(-costs.shape[1] // MAX_SAMPLED)
    temperatures = scale * COOLING ** np.arange(1, N_TEMPERATURES + 1)
    sample = costs[:, ::stride].astype(np.float32)  # enough digits for high temperatures
    # Prices of an earlier problem are a poor start of the path: where sizes are nearly equal they slide far.
    trial = np.zeros(len(costs))
    floor = min_size * sample.shape[1] / costs.shape[1]
    for temperature in temperatures[:-N_FINE]:
        trial = _climb(sample, floor, trial, temperature, max(0.5, CLOSE * floor))
    for temperature in temperatures[-N_FINE:]:
        trial = _climb(costs, min_size, trial, temperature, 0.5)
        off = _misplaced(costs, min_size, trial)
        if off < misplaced:
            best, misplaced = trial, off
    for _ in range(N_SWEEPS):
        if misplaced <= 2 * len(costs):
            break  # the exact search is quicker now
        trial = _swept(costs, min_size, best)
        off = _misplaced(costs, min_size, trial)
        if off >= misplaced:
            break
        best, misplaced = trial, off
    return best


def _swept(
    costs: Float[np.ndarray, "k n"], min_size: int, prices: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Set one price after the other so that its cluster just meets the floor: coordinate ascent of the exact dual."""
    swept = prices.copy()
    reduced = costs - swept[:, None]
    for k in range(len(costs)):
        reduced[k] = np.inf
        gaps = costs[k] - reduced.min(axis=0)
        swept[k] = max(0.0, float(np.partition(gaps, min_size - 1)[min_size - 1]))
        reduced[k] = costs[k] - swept[k]
    return np.asarray(swept - swept.min())


def _climb(
    costs: Float[np.ndarray, "k n"],
    floor: float,
    prices: Float[np.ndarray, " k"],
    temperature: float,
    tolerance: float,
) -> Float[np.ndarray, " k"]:
    """Take projected Newton steps at one temperature, on the samples that are near a change."""
    reduced = costs - prices[:, None].astype(costs.dtype)
    reduced -= reduced.min(axis=0)
    near = (reduced < 2 * FAR * temperature).sum(axis=0) > 1
    settled = np.bincount(np.argmin(reduced, axis=0)[~near], minlength=len(prices))
    scores, start, trial = reduced[:, near], prices, prices
    del reduced  # tables of all samples are the peak of the memory
    scores /= -temperature
    for _ in range(N_STEPS):
        soft = scores + ((trial - start) / temperature)[:, None].astype(scores.dtype)
        soft -= soft.max(axis=0)
        np.exp(soft, out=soft)
        soft /= soft.sum(axis=0)
        soft_sizes = soft.sum(axis=1, dtype=np.float64)
        missing = floor - settled - soft_sizes
        free = (trial > 0) | (missing > 0)
        if np.abs(missing[free]).max(initial=0.0) < tolerance:
            break
        curvature = np.diag(soft_sizes[free]) - (soft[free] @ soft[free].T).astype(np.float64)
        curvature[np.diag_indices(len(curvature))] += RIDGE * max(floor, 1.0)
        step = np.zeros(len(prices))
        step[free] = np.linalg.solve(curvature, missing[free])
        # Coordinate by coordinate: an almost empty cluster asks for a huge step and must not shorten the others.
        trial = np.maximum(0.0, trial + temperature * np.clip(step, -LONGEST_STEP, LONGEST_STEP))
        trial -= trial.min()  # lowering all prices alike by m raises the dual by m (n - K floor) >= 0
    return trial


def _misplaced(costs: Float[np.ndarray, "k n"], min_size: int, prices: Float[np.ndarray, " k"]) -> int:
    """Count the samples below the floor, and above it in clusters with a price."""
    sizes = np.bincount(np.argmin(costs - prices[:, None], axis=0), minlength=len(prices))
    off = np.where(prices > 0, np.abs(sizes - min_size), np.maximum(min_size - sizes, 0))
    return int(off.sum())
