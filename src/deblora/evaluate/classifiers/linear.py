"""Linear classifiers: one logistic regression, and the long-tail methods that are forms of it on fixed features.

With a free bias, ``CE(z W + b + o, y)`` has the weights of ``CE(z W + b, y)`` and its bias less ``o``. Balanced softmax
(``o = log pi``), post-hoc logit adjustment (``o = tau log pi``) and the experts of SADE therefore shift the bias of one
fit. Re-weighting and cRT weigh its samples, tau-normalization changes the lengths of its weights.

The minimizer is our own: on real features (505 x 128, grid of eight penalties) it is two to five times as fast as the
L-BFGS of scikit-learn at the same precision, because it knows the curvature along the principal axes and starts each
penalty at the next larger one. Both find the same weights (``tests/parity``).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import softmax

from deblora.evaluate.classifiers.classifier import Standardizer, checked_counts
from deblora.evaluate.metrics import check_labels

_LOG = logging.getLogger(__name__)

MAX_ITER = 2000
"""Iterations of L-BFGS (ours); reaching them is logged."""

TOLERANCE = 1e-12
"""Relative decrease of the loss at which L-BFGS stops (ours)."""

LARGE = 1 << 27
"""Samples x features x classes from which a fit is large: it computes in float32 and stops at :data:`COARSE`, after
a few dozen iterations (ours)."""

COARSE = 1e-6
"""Relative decrease of the loss at which a large fit stops (ours)."""

EFFECTIVE_NUMBER_BETA = 0.9999
"""Of the class-balanced loss (Cui et al. 2019) and of LDAM-DRW (authors' code)."""

SADE_TAU = 2.0
"""Strength of the reversed prior of SADE's third expert (authors' code)."""

Objective = Callable[[Float[np.ndarray, " p"]], tuple[float, Float[np.ndarray, " p"]]]


@dataclass(frozen=True)
class Linear:
    """``logits(x) = z(x) W + b`` on standardized features; no prior is added at prediction."""

    standardizer: Standardizer
    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.standardizer.mean)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return one logit per sample and class.

        Raises:
            ValueError: If the feature size is not the one of the fit.
        """
        return np.asarray(self.standardizer(x) @ self.weights + self.bias)

    def adjusted(self, log_prior: Float[np.ndarray, " c"], tau: float = 1.0) -> "Linear":
        """Return the classifier with logits ``s - tau log_prior``.

        With the log frequencies of the training classes, ``tau = 1`` gives balanced softmax (Ren et al. 2020, arXiv
        2007.10740) and any ``tau`` post-hoc logit adjustment (Menon et al. 2021, arXiv 2007.07314).
        """
        return replace(self, bias=self.bias - tau * log_prior)

    def tau_normalized(self, tau: float) -> "Linear":
        """Return ``w_c <- w_c / ||w_c||^tau`` without bias (arXiv 1910.09217).

        Plain training gives frequent classes longer weight vectors; ``tau = 0`` leaves them, ``tau = 1`` makes all
        lengths 1. A weight vector of zeros stays zero.

        Args:
            tau: In [0, 1] in the paper, chosen on validation.

        Raises:
            ValueError: If ``tau`` is negative or not finite.
        """
        if not (np.isfinite(tau) and tau >= 0):
            raise ValueError(f"tau must not be negative, got {tau}")
        lengths = np.linalg.norm(self.weights, axis=0)
        weights = self.weights / np.where(lengths > 0, lengths, 1.0) ** tau
        return replace(self, weights=weights, bias=np.zeros_like(self.bias))


@dataclass(frozen=True)
class LinearFits:
    """Training samples, prepared once for logistic regressions at any number of penalties.

    Attributes:
        standardizer: Of the features.
        y: Classes.
        sample_weights: One per sample, with sum 1.
        n_classes: Number of classes.
        axes: Principal axes of the standardized features; see :func:`principal_axes`.
        moments: Second moment along each axis.
        inputs: Standardized features along the axes, and a column of ones for the bias.
        transposed: The same, the other way round in memory.
    """

    standardizer: Standardizer
    y: Int[np.ndarray, " n"]
    sample_weights: Float[np.ndarray, " n"]
    n_classes: int
    axes: Float[np.ndarray, "d r"]
    moments: Float[np.ndarray, " r"]
    inputs: Float[np.ndarray, "n e"]
    transposed: Float[np.ndarray, "e n"]

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "n d"],
        y: Int[np.ndarray, " n"],
        n_classes: int,
        *,
        class_weights: Float[np.ndarray, " c"] | None = None,
        standardizer: Standardizer | None = None,
    ) -> "LinearFits":
        """Check, standardize and rotate samples; arguments and errors are those of :func:`fit_linear`."""
        checked_counts(x, y, n_classes)
        per_class = np.ones(n_classes) if class_weights is None else np.asarray(class_weights, float)
        if per_class.shape != (n_classes,) or not (np.isfinite(per_class) & (per_class > 0)).all():
            raise ValueError(f"class_weights must be {n_classes} positive numbers, got {per_class.tolist()}")
        weights = per_class[y] / per_class[y].sum()
        standardizer = standardizer or Standardizer.fit(x)
        z = standardizer(x)
        axes, moments = principal_axes(z, weights)
        inputs = np.hstack([z @ axes, np.ones((len(z), 1))])
        if inputs.size * n_classes >= LARGE:
            inputs, weights = inputs.astype(np.float32), weights.astype(np.float32)
        transposed = np.ascontiguousarray(inputs.T)
        return cls(standardizer, y, weights, n_classes, axes, moments, inputs, transposed)

    def fit(
        self,
        l2: float,
        *,
        start: Linear | None = None,
        max_iter: int = MAX_ITER,
        tolerance: float = TOLERANCE,
    ) -> Linear:
        """Fit at one penalty; see :func:`fit_linear`.

        L-BFGS works in coordinates in which the loss is about as curved in every direction: features lie along their
        principal axes, and the parameters of axis ``i`` and class ``k`` are divided by ``sqrt(s_k lambda_i + l2)``,
        where ``lambda_i`` is the second moment along the axis and ``s_k`` the mean of ``p_k (1 - p_k)`` at the start.
        This saves most iterations and moves no optimum. Axes without a sample have no weight at the optimum and are
        left out.
        """
        check_penalty(l2)
        penalty = np.full((self.inputs.shape[1], 1), l2)
        penalty[-1] = 0.0
        origin = self._origin(start)
        scale = self._step_scale(origin, l2)
        dtype = self.inputs.dtype
        if self.is_large:
            tolerance = max(tolerance, COARSE)

        def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
            parameters = origin + scale * flat.reshape(origin.shape)
            scores = self.inputs @ parameters.astype(dtype, copy=False)
            value, residual = weighted_cross_entropy(scores, self.y, self.sample_weights)
            shrunk = penalty * parameters
            value += 0.5 * float(np.vdot(shrunk, parameters))
            return value, (scale * (shrunk + self.transposed @ residual)).ravel()

        name = f"the linear classifier with l2={l2:g}"
        found = lbfgs(objective, np.zeros(origin.size), max_iter=max_iter, tolerance=tolerance, name=name)
        fitted = origin + scale * found.reshape(origin.shape)
        # What all classes share cancels in the loss and only adds to the penalty.
        fitted -= fitted.mean(axis=1, keepdims=True)
        return Linear(self.standardizer, self.axes @ fitted[:-1], fitted[-1].copy())

    @property
    def is_large(self) -> bool:
        """Whether fits compute in float32 and stop early."""
        return self.inputs.dtype == np.float32

    def warm(self) -> Callable[[float], Linear]:
        """Return a function from a penalty to its fit, which fits each penalty once, from the next larger one."""
        fitted: dict[float, Linear] = {}

        def fit(l2: float) -> Linear:
            if l2 not in fitted:
                warmer = min((known for known in fitted if known > l2), default=None)
                fitted[l2] = self.fit(l2, start=None if warmer is None else fitted[warmer])
            return fitted[l2]

        return fit

    def _step_scale(self, origin: Float[np.ndarray, "e c"], l2: float) -> Float[np.ndarray, "e c"]:
        """Return ``1 / sqrt(s_k lambda_i + l2)`` per axis and class, and ``1 / sqrt(s_k)`` in the last row."""
        p = softmax(self.inputs @ origin.astype(self.inputs.dtype, copy=False), axis=1)
        confusion = np.maximum(self.sample_weights @ (p * (1 - p)), 1e-6).astype(np.float64)
        return np.asarray(1 / np.sqrt(np.vstack([np.outer(self.moments, confusion) + l2, confusion[None]])))

    def _origin(self, start: Linear | None) -> Float[np.ndarray, "e c"]:
        if start is None:
            return np.zeros((self.inputs.shape[1], self.n_classes))
        if start.weights.shape != (len(self.axes), self.n_classes):
            raise ValueError(
                f"start has weights of shape {start.weights.shape}, expected {(len(self.axes), self.n_classes)}"
            )
        return np.vstack([self.axes.T @ start.weights, start.bias])


def fit_linear(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    l2: float,
    class_weights: Float[np.ndarray, " c"] | None = None,
    standardizer: Standardizer | None = None,
) -> Linear:
    """Minimize ``sum_i w_{y_i} CE(z_i W + b, y_i) / sum_i w_{y_i} + l2 / 2 ||W||^2`` with a free bias, in float64.

    Args:
        x: Training features, calibrated or not.
        y: Their classes.
        n_classes: Number of classes, each with a sample.
        l2: Weight of the penalty, > 0.
        class_weights: One positive weight per class, only their ratios matter; all equal when None.
        standardizer: Of the features before they were moved, when ``x`` is; that of ``x`` when None.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels or weights do not fit or ``l2`` is not positive.
    """
    return LinearFits.of(x, y, n_classes, class_weights=class_weights, standardizer=standardizer).fit(l2)


def check_penalty(l2: float) -> None:
    """Refuse a penalty that is not positive and finite.

    Raises:
        ValueError: If it is not.
    """
    if not (np.isfinite(l2) and l2 > 0):
        raise ValueError(f"l2 must be positive, got {l2}")


def log_prior(y: Int[np.ndarray, " n"], n_classes: int) -> Float[np.ndarray, " c"]:
    """Return ``log(n_c / n)`` of the training labels.

    Raises:
        ValueError: If a class has no sample, since its log prior would be minus infinity, or a label is out of range.
    """
    check_labels(y, n_classes, name="y")
    counts = np.bincount(y, minlength=n_classes)
    if not counts.all():
        empty = np.flatnonzero(counts == 0).tolist()
        raise ValueError(f"classes {empty} have no training sample, their log prior is not finite")
    return np.asarray(np.log(counts / counts.sum()))


def inverse_log_prior(y: Int[np.ndarray, " n"], n_classes: int) -> Float[np.ndarray, " c"]:
    """Return the log of the prior with ranks reversed: the rarest class gets the largest frequency.

    Classes with equal counts share the mean of the frequencies of their ranks (ours), so that the order of classes
    does not matter.

    Raises:
        ValueError: As :func:`log_prior`.
    """
    log_prior(y, n_classes)
    counts = np.bincount(y, minlength=n_classes)
    _, position, n_tied = np.unique(counts, return_inverse=True, return_counts=True)
    totals = np.bincount(np.sort(position), weights=np.sort(counts)[::-1])
    return np.asarray(np.log((totals / n_tied)[position] / len(y)))


def sade_prior(y: Int[np.ndarray, " n"], n_classes: int, *, tau: float = SADE_TAU) -> Float[np.ndarray, " c"]:
    """Return ``(2 log pi - tau log pi_inv) / 3``; a plain fit adjusted by it is SADE (arXiv 2107.09249).

    The experts are ``CE(s, y)``, ``CE(s + log pi, y)`` and ``CE(s + log pi - tau log pi_inv, y)`` with the prior ``pi``
    and the prior with ranks reversed. On fixed features they share their weights, so the mean of their logits is one
    linear classifier. Weights of the experts that are learned on test samples are left out.

    Args:
        y: Training classes.
        n_classes: Number of classes.
        tau: Strength of the reversed prior, >= 0; 0 makes expert 3 equal to expert 2.

    Raises:
        ValueError: As :func:`log_prior`, or if ``tau`` is negative or not finite.
    """
    if not (np.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must not be negative, got {tau}")
    return np.asarray((2 * log_prior(y, n_classes) - tau * inverse_log_prior(y, n_classes)) / 3)


def inverse_frequency_weights(counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """Return weights proportional to ``1 / n_c``, with mean 1.

    A linear classifier with these weights is cRT (class-balanced sampling, arXiv 1910.09217) on fixed features: to
    draw a class first and then one of its samples gives, in expectation, exactly this loss, and the expectation is
    what is minimized here.

    Args:
        counts: Training samples per class, >= 1.

    Raises:
        ValueError: If a count is below 1.
    """
    values = _checked(counts)
    return np.asarray(1.0 / values / (1.0 / values).mean())


def effective_number_weights(
    counts: Int[np.ndarray, " c"], *, beta: float = EFFECTIVE_NUMBER_BETA
) -> Float[np.ndarray, " c"]:
    """Return weights proportional to ``(1 - beta) / (1 - beta^n_c)``, with mean 1 (arXiv 1901.05555).

    ``beta = 0`` gives equal weights; for ``beta`` to 1 they become those of inverse frequency.

    Args:
        counts: Training samples per class, >= 1.
        beta: In [0, 1); .9999 is the paper's.

    Raises:
        ValueError: If a count is below 1 or ``beta`` is out of range.
    """
    values = _checked(counts)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    if beta == 0:
        return np.ones(len(values))
    # 1 - beta^n without cancellation for beta near 1.
    weights = -1.0 / np.expm1(values * np.log(beta))
    return np.asarray(weights / weights.mean())


def _checked(counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    if not len(counts) or np.min(counts) < 1:
        raise ValueError(f"counts must be at least 1, got {np.asarray(counts).tolist()}")
    return np.asarray(counts, dtype=np.float64)


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
    tolerance: float = TOLERANCE,
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
