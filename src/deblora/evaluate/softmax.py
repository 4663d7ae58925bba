"""Weighted cross-entropy of linear scores and its minimizer: the convex core of the probe and of the linear heads."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

_LOG = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Rotated:
    """Features on their principal axes, and a constant for the bias; fits that differ in penalty or loss share it.

    Attributes:
        axes: See :func:`principal_axes`.
        spread: Second moment along each.
        inputs: Rotated features, and a column of ones.
        transposed: The same, the other way round in memory.
    """

    axes: Float[np.ndarray, "d r"]
    spread: Float[np.ndarray, " r"]
    inputs: Float[np.ndarray, "n e"]
    transposed: Float[np.ndarray, "e n"]

    @classmethod
    def of(cls, z: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"]) -> "Rotated":
        """Rotate features; ``weights`` are those of the samples in the loss."""
        axes, spread = principal_axes(z, weights)
        inputs = np.hstack([z @ axes, np.ones((len(z), 1))])
        return cls(axes, spread, inputs, np.ascontiguousarray(inputs.T))


def fit_cross_entropy(
    z: Float[np.ndarray, "n d"] | Rotated,
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

    L-BFGS works in coordinates in which the loss is about as curved in every direction: features are rotated to their
    principal axes, and the parameters of axis ``i`` and class ``k`` are divided by ``sqrt(s_k lambda_i + l2)``, where
    ``lambda_i`` is the second moment along the axis and ``s_k`` the mean of ``p_k (1 - p_k)`` at the start. This saves
    most iterations and moves no optimum. Axes without a sample carry no weight at the optimum and are left out.

    Args:
        z: Features, or what :meth:`Rotated.of` made of them.
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
    rotated = z if isinstance(z, Rotated) else Rotated.of(z, weights)
    axes, inputs, transposed = rotated.axes, rotated.inputs, rotated.transposed
    penalty = np.full((inputs.shape[1], 1), l2)
    penalty[-1] = 0.0
    origin = np.vstack([axes.T @ start[:-1], start[-1:]])
    scale = step_scale(rotated.spread, _confusion(inputs @ origin + offset, weights), l2)

    def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        parameters = origin + scale * flat.reshape(origin.shape)
        scores = inputs @ parameters
        scores += offset
        value, residual = weighted_cross_entropy(scores, y, weights)
        shrunk = penalty * parameters
        value += 0.5 * float(np.vdot(shrunk, parameters))
        return value, (scale * (shrunk + transposed @ residual)).ravel()

    found = lbfgs(objective, np.zeros(origin.size), max_iter=max_iter, tolerance=tolerance, name=name)
    fitted = origin + scale * found.reshape(origin.shape)
    # What all classes share cancels in the loss and only adds to the penalty.
    fitted -= fitted.mean(axis=1, keepdims=True)
    return np.vstack([axes @ fitted[:-1], fitted[-1:]])


def principal_axes(
    z: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "d r"], Float[np.ndarray, " r"]]:
    """Return the axes on which ``sum_i w_i z_i z_i^T`` is diagonal, and the second moment along each.

    There are at most as many as samples; together they span all samples.
    """
    if len(z) >= z.shape[1]:  # all directions are kept, so that the squared condition number costs nothing
        moments, vectors = np.linalg.eigh((z * weights[:, None]).T @ z)
        return np.ascontiguousarray(vectors[:, ::-1]), np.maximum(moments[::-1], 0.0)
    _, lengths, axes = np.linalg.svd(np.sqrt(weights)[:, None] * z, full_matrices=False)
    return np.ascontiguousarray(axes.T), lengths**2


def step_scale(
    spread: Float[np.ndarray, " r"], confusion: Float[np.ndarray, " c"], l2: float
) -> Float[np.ndarray, "e c"]:
    """Return ``1 / sqrt(s_k lambda_i + l2)`` per axis and class, and ``1 / sqrt(s_k)`` for the bias in the last row."""
    curvature = np.outer(spread, confusion) + l2
    return np.asarray(1 / np.sqrt(np.vstack([curvature, confusion[None]])))


def _confusion(scores: Float[np.ndarray, "n c"], weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " c"]:
    """Return the weighted mean of ``p_k (1 - p_k)`` per class, bounded away from 0."""
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return np.asarray(np.maximum(weights @ (probabilities * (1 - probabilities)), 1e-6))
