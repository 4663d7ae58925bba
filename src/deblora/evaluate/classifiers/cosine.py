"""Classifiers by class means and by cosine: nearest mean, LDAM with deferred re-weighting, LIFT, and texts.

LDAM and LIFT start from the class means and stop after a fixed number of L-BFGS iterations: a cosine has no length that
a penalty could shrink, so stopping early is what regularizes, and nothing is random.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import class_means
from deblora.debias.spaces import unit_rows
from deblora.evaluate.classifiers.classifier import Standardizer, checked_counts
from deblora.evaluate.classifiers.linear import (
    EFFECTIVE_NUMBER_BETA,
    Linear,
    effective_number_weights,
    lbfgs,
    log_prior,
    weighted_cross_entropy,
)

LDAM_SCALE = 30.0
"""Logits per unit of cosine (LDAM authors' code)."""

MAX_MARGIN = 0.5
"""Margin of the rarest class, in cosine (LDAM paper and code)."""

LIFT_SCALE = 25.0
"""Logits per unit of cosine (LIFT authors' code)."""

N_ITERATIONS = 10
"""Iterations of L-BFGS (ours: more did not raise validation F1 on AID features, and lowered that of LIFT)."""

DEFERRED = 0.8
"""Share of the training without re-weighting (LDAM authors' code: 160 of 200 epochs)."""


@dataclass(frozen=True)
class Cosine:
    """``logit_c = scale cos(z, w_c)`` on standardized features; no margin and no prior at prediction."""

    standardizer: Standardizer
    weights: Float[np.ndarray, "c d"]
    scale: float

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.standardizer.mean)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return logits in ``[-scale, scale]``; 0 for a feature or class vector at the origin."""
        return np.asarray(self.scale * unit_rows(self.standardizer(x)) @ unit_rows(self.weights).T)


@dataclass(frozen=True)
class ProjectedCosine:
    """``logit_c = scale cos(x P, t_c)``: the classifier of a model that has texts and images in one space.

    Attributes:
        projection: ``P``, from features to the common space.
        texts: One vector per class.
        scale: Inverse temperature of the model.
    """

    projection: Float[np.ndarray, "d e"]
    texts: Float[np.ndarray, "c e"]
    scale: float

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.projection)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return logits in ``[-scale, scale]``, in the precision of the projection."""
        common = np.asarray(x, dtype=self.projection.dtype) @ self.projection
        return np.asarray(self.scale * unit_rows(common) @ unit_rows(self.texts).T)


def fit_nearest_mean_cosine(x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int) -> Cosine:
    """Classify by the largest cosine to the mean of a class; logits are in [-1, 1].

    Features are centered at the mean of all training samples first (ours): uncentered features of one backbone share
    a large common part that makes all cosines alike.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    checked_counts(x, y, n_classes)
    standardizer = Standardizer.fit(x)
    return Cosine(standardizer, class_means(standardizer(x), y, n_classes), 1.0)


def fit_nearest_mean_euclidean(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> Linear:
    """Classify by the smallest distance to the mean ``m_c`` of a class (NCM of Kang et al., arXiv 1910.09217).

    ``-||z - m_c||^2`` is ``2 z m_c - ||m_c||^2`` less ``||z||^2``, which all classes share and which is left out.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    checked_counts(x, y, n_classes)
    standardizer = Standardizer.fit(x)
    means = class_means(standardizer(x), y, n_classes)
    return Linear(standardizer, np.ascontiguousarray(2.0 * means.T), -np.sum(means**2, axis=1))


def ldam_margins(counts: Int[np.ndarray, " c"], *, max_margin: float = MAX_MARGIN) -> Float[np.ndarray, " c"]:
    """Return ``Delta_c = max_margin (n_min / n_c)^(1/4)``, in cosine (arXiv 1906.07413).

    Raises:
        ValueError: If a count is below 1 or ``max_margin`` is negative.
    """
    values = np.asarray(counts, dtype=np.float64)
    if not len(values) or values.min() < 1:
        raise ValueError(f"counts must be at least 1, got {np.asarray(counts).tolist()}")
    if not max_margin >= 0:
        raise ValueError(f"max_margin must not be negative, got {max_margin}")
    return np.asarray(max_margin * (values.min() / values) ** 0.25)


def fit_ldam_drw(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    scale: float = LDAM_SCALE,
    max_margin: float = MAX_MARGIN,
    beta: float = EFFECTIVE_NUMBER_BETA,
    n_iterations: int = N_ITERATIONS,
    deferred: float = DEFERRED,
) -> Cosine:
    """Train ``CE(scale (cos - Delta_y 1[c = y]), y)``, first plain, then with effective-number weights.

    LDAM-DRW (Cao et al. 2019, arXiv 1906.07413) with full batches and L-BFGS in place of SGD (ours).

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        scale: Logits per unit of cosine, > 0.
        max_margin: Margin of the rarest class, see :func:`ldam_margins`.
        beta: Of the weights in the second part, see
            :func:`~deblora.evaluate.classifiers.linear.effective_number_weights`.
        n_iterations: Iterations of both parts together, >= 1.
        deferred: Share of them in the first part, in [0, 1]; 1 is LDAM alone.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit or a setting is out of range.
    """
    if not 0 <= deferred <= 1:
        raise ValueError(f"deferred must be in [0, 1], got {deferred}")
    counts = checked_counts(x, y, n_classes)
    margins = ldam_margins(counts, max_margin=max_margin)
    weights = effective_number_weights(counts, beta=beta)
    standardizer, units, directions = _start(x, y, n_classes, scale, n_iterations)
    n_plain = round(deferred * n_iterations)
    for class_weights, n_steps in ((np.ones(n_classes), n_plain), (weights, n_iterations - n_plain)):
        directions = _descend(
            units,
            y,
            directions,
            scale=scale,
            shifts=-scale * np.diag(margins),
            class_weights=class_weights,
            n_iterations=n_steps,
        )
    return Cosine(standardizer, directions, float(scale))


def fit_lift(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    scale: float = LIFT_SCALE,
    n_iterations: int = N_ITERATIONS,
) -> Cosine:
    """Train ``CE(scale cos + log pi, y)`` from the class means and predict with ``scale cos``.

    The head of LIFT (Shi et al. 2024, arXiv 2309.10019) on frozen features; its tuned backbone is left out.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        scale: Logits per unit of cosine, > 0.
        n_iterations: Iterations of L-BFGS, >= 1.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit or a setting is out of range.
    """
    checked_counts(x, y, n_classes)
    standardizer, units, directions = _start(x, y, n_classes, scale, n_iterations)
    directions = _descend(
        units,
        y,
        directions,
        scale=scale,
        shifts=np.tile(log_prior(y, n_classes), (n_classes, 1)),
        class_weights=np.ones(n_classes),
        n_iterations=n_iterations,
    )
    return Cosine(standardizer, directions, float(scale))


def _start(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, scale: float, n_iterations: int
) -> tuple[Standardizer, Float[np.ndarray, "n d"], Float[np.ndarray, "c d"]]:
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive, got {scale}")
    if n_iterations < 1:
        raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")
    standardizer = Standardizer.fit(x)
    units = unit_rows(standardizer(x))
    means = unit_rows(class_means(units, y, n_classes))
    # A mean at the origin has no direction and no gradient; any fixed direction frees it.
    means[~means.any(axis=1)] = 1.0 / np.sqrt(means.shape[1])
    return standardizer, units, means


def _descend(
    units: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    directions: Float[np.ndarray, "c d"],
    *,
    scale: float,
    shifts: Float[np.ndarray, "c c"],
    class_weights: Float[np.ndarray, " c"],
    n_iterations: int,
) -> Float[np.ndarray, "c d"]:
    """Minimize the weighted mean of ``CE(scale cos + shifts[y], y)`` over directions; returns unit rows."""
    if n_iterations == 0:
        return directions
    weights = class_weights[y] / class_weights[y].sum()
    added = shifts[y]

    def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        rows = flat.reshape(directions.shape)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = rows / lengths
        value, gradient = weighted_cross_entropy(scale * units @ unit.T + added, y, weights)
        slope = scale * gradient.T @ units
        slope -= unit * np.sum(unit * slope, axis=1, keepdims=True)
        return value, (slope / lengths).ravel()

    return unit_rows(lbfgs(objective, directions.ravel(), max_iter=n_iterations).reshape(directions.shape))
