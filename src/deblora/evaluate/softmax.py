"""Weighted cross-entropy of linear scores and its minimizer: the convex core of the probe and of the linear heads."""

import logging
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

_LOG = logging.getLogger(__name__)

# Ours: numbers in the curvatures of all classes, 240 MB; beyond, L-BFGS starts from the identity.
MOST_CURVATURE = 30_000_000

Objective = Callable[[Float[np.ndarray, " p"]], tuple[float, Float[np.ndarray, " p"]]]


def weighted_cross_entropy(
    scores: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, "n c"]]:
    """Return ``sum_i w_i CE(scores_i, y_i)`` and its gradient in the scores."""
    rows = np.arange(len(y))
    gradient = scores - scores.max(axis=1, keepdims=True)
    own = gradient[rows, y]
    np.exp(gradient, out=gradient)
    totals = gradient.sum(axis=1)
    value = float(weights @ (np.log(totals) - own))
    gradient *= (weights / totals)[:, None]
    gradient[rows, y] -= weights
    return value, gradient


def lbfgs(
    objective: Objective,
    start: Float[np.ndarray, " p"],
    *,
    max_iter: int,
    tolerance: float = 1e-12,
    name: str = "L-BFGS",
) -> Float[np.ndarray, " p"]:
    """Return where L-BFGS stops; reaching ``max_iter`` is logged.

    Args:
        objective: Value and gradient.
        start: Initial parameters.
        max_iter: Iterations, >= 1.
        tolerance: Relative decrease of the objective at which it stops.
        name: What the log calls this fit.
    """
    result = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxfun": 2 * max_iter, "ftol": tolerance, "gtol": 1e-6},
    )
    if not result.success:
        _LOG.debug("%s stopped before it converged: %s", name, result.message)
    return np.asarray(result.x)


def fit_cross_entropy(
    z: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    offset: Float[np.ndarray, " c"],
    l2: float,
    start: Float[np.ndarray, "e c"],
    *,
    max_iter: int,
    tolerance: float = 1e-12,
    name: str = "L-BFGS",
) -> Float[np.ndarray, "e c"]:
    """Minimize ``sum_i w_i CE(z_i W + b + offset, y_i) + l2 / 2 ||W||^2`` with a free bias.

    L-BFGS works on ``V_k = L_k^T (W_k, b_k)`` for each class ``k``, where ``L_k L_k^T`` is the curvature of the loss in
    the parameters of that class at the start: this saves most iterations and moves no optimum.

    Args:
        z: Features.
        y: Classes.
        weights: One per sample, with sum 1.
        offset: Added to the scores while fitting.
        l2: Weight of the penalty, > 0.
        start: Weights to start from, the bias in the last row.
        max_iter: Iterations of L-BFGS.
        tolerance: Relative decrease of the objective at which it stops.
        name: What the log calls this fit.

    Returns:
        The weights, the bias in the last row; each row sums to zero over the classes.
    """
    inputs = np.hstack([z, np.ones((len(z), 1))])
    transposed = np.ascontiguousarray(inputs.T)
    penalty = np.full((len(start), 1), l2)
    penalty[-1] = 0.0
    factors = _inverse_factors(inputs, weights, inputs @ start + offset, l2)

    def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        parameters = _from_steps(flat, factors, start)
        scores = inputs @ parameters
        scores += offset
        value, residual = weighted_cross_entropy(scores, y, weights)
        shrunk = penalty * parameters
        value += 0.5 * float(np.vdot(shrunk, parameters))
        gradient = shrunk + transposed @ residual
        if factors is not None:
            gradient = (factors @ gradient.T[:, :, None])[:, :, 0]
        return value, gradient.ravel()

    found = lbfgs(objective, np.zeros(start.size), max_iter=max_iter, tolerance=tolerance, name=name)
    fitted = _from_steps(found, factors, start)
    # What all classes share cancels in the loss and only adds to the penalty.
    return np.asarray(fitted - fitted.mean(axis=1, keepdims=True))


def _from_steps(
    flat: Float[np.ndarray, " p"], factors: Float[np.ndarray, "c e e"] | None, start: Float[np.ndarray, "e c"]
) -> Float[np.ndarray, "e c"]:
    """Return the parameters that lie the given steps away from the start."""
    if factors is None:
        return np.asarray(start + flat.reshape(start.shape))
    steps = flat.reshape(len(factors), 1, -1) @ factors
    return np.asarray(start + steps[:, 0].T)


def _inverse_factors(
    inputs: Float[np.ndarray, "n e"],
    weights: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, "n c"],
    l2: float,
) -> Float[np.ndarray, "c e e"] | None:
    """Return the inverse Cholesky factors of the curvature per class; nothing where they would be too large."""
    size, n_classes = inputs.shape[1], scores.shape[1]
    if n_classes * size**2 > MOST_CURVATURE:
        return None
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    curvature = np.empty((n_classes, size, size))
    for k in range(n_classes):
        share = probabilities[:, k]
        curvature[k] = (inputs * (weights * share * (1 - share))[:, None]).T @ inputs
        curvature[k].flat[:: size + 1] += l2
    return np.asarray(np.linalg.inv(np.linalg.cholesky(curvature)))
