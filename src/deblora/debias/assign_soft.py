"""Newton steps on the smoothed dual of the assignment at one temperature."""

import numpy as np
from jaxtyping import Float

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
    settled: Float[np.ndarray, " k"],
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
