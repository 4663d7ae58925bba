"""Weighted cross-entropy of linear scores and its minimizer, the convex core of the linear heads."""

import logging
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import logsumexp

_LOG = logging.getLogger(__name__)

Objective = Callable[[Float[np.ndarray, " p"]], tuple[float, Float[np.ndarray, " p"]]]


def weighted_cross_entropy(
    scores: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, "n c"]]:
    """Return ``sum_i w_i CE(scores_i, y_i)`` and its gradient in the scores."""
    log_probabilities = scores - logsumexp(scores, axis=1, keepdims=True)
    rows = np.arange(len(y))
    value = -float(weights @ log_probabilities[rows, y])
    gradient = np.exp(log_probabilities)
    gradient[rows, y] -= 1.0
    return value, gradient * weights[:, None]


def lbfgs(
    objective: Objective, start: Float[np.ndarray, " p"], *, max_iter: int, tolerance: float = 1e-12
) -> Float[np.ndarray, " p"]:
    """Return where L-BFGS stops; reaching ``max_iter`` is logged.

    Args:
        objective: Value and gradient.
        start: Initial parameters.
        max_iter: Iterations, >= 1.
        tolerance: Relative decrease of the objective at which it stops.
    """
    result = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": tolerance, "gtol": 1e-6},
    )
    if not result.success:
        _LOG.debug("L-BFGS stopped before it converged: %s", result.message)
    return np.asarray(result.x)


def fit_softmax(
    z: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    l2: float,
    class_weights: Float[np.ndarray, " c"] | None = None,
    offset: Float[np.ndarray, " c"] | None = None,
    max_iter: int = 500,
) -> tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]:
    """Minimize ``sum_i w_{y_i} CE(z_i W + b + offset, y_i) / sum_i w_{y_i} + l2 / 2 ||W||^2`` with a free bias.

    Args:
        z: Standardized features.
        y: Their classes.
        n_classes: Number of classes.
        l2: Weight of the penalty, > 0.
        class_weights: One positive weight per class, only their ratios matter; all equal when None.
        offset: Added to the scores while fitting; zero when None.
        max_iter: Iterations of L-BFGS (500, as the linear probe).

    Returns:
        Weights and bias.

    Raises:
        ValueError: If ``l2`` is not positive, or weights or offset do not fit the classes.
    """
    check_penalty(l2)
    per_class = np.ones(n_classes) if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    added = np.zeros(n_classes) if offset is None else np.asarray(offset, dtype=np.float64)
    if per_class.shape != (n_classes,) or not (np.isfinite(per_class) & (per_class > 0)).all():
        raise ValueError(f"class_weights must be {n_classes} positive numbers, got {per_class.tolist()}")
    if added.shape != (n_classes,) or not np.isfinite(added).all():
        raise ValueError(f"offset must be {n_classes} finite numbers, got {added.tolist()}")
    weights = per_class[y] / per_class[y].sum()
    shape = (z.shape[1] + 1, n_classes)

    def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        parameters = flat.reshape(shape)
        value, gradient = weighted_cross_entropy(z @ parameters[:-1] + parameters[-1] + added, y, weights)
        slope = np.vstack([z.T @ gradient + l2 * parameters[:-1], gradient.sum(axis=0)])
        return value + 0.5 * l2 * float(np.sum(parameters[:-1] ** 2)), slope.ravel()

    fitted = lbfgs(objective, np.zeros(shape[0] * shape[1]), max_iter=max_iter).reshape(shape)
    return fitted[:-1].copy(), fitted[-1].copy()


def check_penalty(l2: float) -> None:
    """Refuse a penalty that is not positive and finite.

    Raises:
        ValueError: If it is not.
    """
    if not (np.isfinite(l2) and l2 > 0):
        raise ValueError(f"l2 must be positive, got {l2}")
