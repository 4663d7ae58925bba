"""Softmax regression with class weights, as the linear heads need it."""

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.softmax import fit_cross_entropy


def fit_softmax(
    z: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    l2: float,
    class_weights: Float[np.ndarray, " c"] | None = None,
    max_iter: int = 500,
) -> tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]:
    """Minimize ``sum_i w_{y_i} CE(z_i W + b, y_i) / sum_i w_{y_i} + l2 / 2 ||W||^2`` with a free bias.

    Args:
        z: Standardized features.
        y: Their classes.
        n_classes: Number of classes.
        l2: Weight of the penalty, > 0.
        class_weights: One positive weight per class, only their ratios matter; all equal when None.
        max_iter: Iterations of L-BFGS. Default 500 (ours).

    Returns:
        Weights and bias.

    Raises:
        ValueError: If ``l2`` is not positive, or weights do not fit the classes.
    """
    check_penalty(l2)
    per_class = np.ones(n_classes) if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    if per_class.shape != (n_classes,) or not (np.isfinite(per_class) & (per_class > 0)).all():
        raise ValueError(f"class_weights must be {n_classes} positive numbers, got {per_class.tolist()}")
    weights = per_class[y] / per_class[y].sum()
    start = np.zeros((z.shape[1] + 1, n_classes))
    fitted = fit_cross_entropy(
        z, y, weights, np.zeros(n_classes), l2, start, max_iter=max_iter, name="a linear head"
    )
    return fitted[:-1].copy(), fitted[-1].copy()


def check_penalty(l2: float) -> None:
    """Refuse a penalty that is not positive and finite.

    Raises:
        ValueError: If it is not.
    """
    if not (np.isfinite(l2) and l2 > 0):
        raise ValueError(f"l2 must be positive, got {l2}")
