"""Cross-entropy with class weights: inverse frequency, effective number, and cRT on fixed features."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.heads.head import Standardizer, checked_counts
from deblora.evaluate.probe import Probe, fit_probe, log_prior
from deblora.evaluate.softmax import fit_cross_entropy as minimize_cross_entropy


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
    fitted = minimize_cross_entropy(
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


EFFECTIVE_NUMBER_BETA = 0.9999
"""Of the class-balanced loss (Cui et al. 2019) and of LDAM-DRW (authors' code)."""


def inverse_frequency_weights(counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """Return weights proportional to ``1 / n_c``, with mean 1.

    Raises:
        ValueError: If a count is below 1.
    """
    _check_counts(counts)
    return _mean_one(1.0 / np.asarray(counts, dtype=np.float64))


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
    _check_counts(counts)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    if beta == 0:
        return np.ones(len(counts))
    # 1 - beta^n without cancellation for beta near 1.
    return _mean_one(-1.0 / np.expm1(np.asarray(counts, dtype=np.float64) * np.log(beta)))


def fit_reweighted(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    class_weights: Float[np.ndarray, " c"],
    l2: float,
) -> Probe:
    """Minimize ``sum_i w_{y_i} CE(z_i W + b, y_i) / sum_i w_{y_i} + l2 / 2 ||W||^2``.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        class_weights: Positive; only ratios matter.
        l2: Penalty, > 0, in the unit of the linear probe.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels, weights or ``l2`` do not fit.
    """
    checked_counts(x, y, n_classes)
    standardizer = Standardizer.fit(x)
    weights, bias = fit_softmax(standardizer(x), y, n_classes, l2=l2, class_weights=class_weights)
    return Probe(weights, bias, standardizer.mean, standardizer.scale, True)


def fit_inverse_frequency(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float
) -> Probe:
    """Fit cross-entropy in which every class has the same total weight.

    Raises:
        DataError: As :func:`fit_reweighted`.
        ValueError: As :func:`fit_reweighted`.
    """
    weights = inverse_frequency_weights(checked_counts(x, y, n_classes))
    return fit_reweighted(x, y, n_classes, class_weights=weights, l2=l2)


def fit_effective_number(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    l2: float,
    beta: float = EFFECTIVE_NUMBER_BETA,
) -> Probe:
    """Fit the class-balanced cross-entropy; see :func:`effective_number_weights`.

    Raises:
        DataError: As :func:`fit_reweighted`.
        ValueError: As :func:`fit_reweighted`, or if ``beta`` is out of range.
    """
    weights = effective_number_weights(checked_counts(x, y, n_classes), beta=beta)
    return fit_reweighted(x, y, n_classes, class_weights=weights, l2=l2)


def fit_crt(x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float) -> Probe:
    """Retrain the classifier with class-balanced sampling (cRT, arXiv 1910.09217) on fixed features.

    Sampling a class first and then one of its samples gives, in expectation, exactly the cross-entropy with
    weights ``1 / n_c``. That expectation is minimized here, by L-BFGS and without drawing batches, so on fixed
    features this head **is** :func:`fit_inverse_frequency`; it has a name of its own because tables ask for it.

    Raises:
        DataError: As :func:`fit_reweighted`.
        ValueError: As :func:`fit_reweighted`.
    """
    return fit_inverse_frequency(x, y, n_classes, l2=l2)


def _mean_one(weights: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    return np.asarray(weights / weights.mean())


def _check_counts(counts: Int[np.ndarray, " c"]) -> None:
    if not len(counts) or np.min(counts) < 1:
        raise ValueError(f"counts must be at least 1, got {np.asarray(counts).tolist()}")


def fit_cross_entropy(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float
) -> Probe:
    """Fit the plain probe; see :func:`deblora.evaluate.probe.fit_probe` for the errors."""
    return fit_probe(x, y, n_classes, loss="cross_entropy", l2=l2)


def fit_balanced_softmax(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float
) -> Probe:
    """Train with ``CE(s + log pi, y)`` and predict with ``s`` (Ren et al. 2020, arXiv 2007.10740).

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels or ``l2`` do not fit.
    """
    checked_counts(x, y, n_classes)
    return fit_probe(x, y, n_classes, loss="balanced_softmax", l2=l2)


def fit_logit_adjusted(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float, tau: float = 1.0
) -> Probe:
    """Fit the plain probe and predict with ``s - tau log pi`` (post-hoc form, Menon et al., arXiv 2007.07314).

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        l2: Penalty of the probe, > 0.
        tau: Strength of the correction; 0 is the plain probe, 1 the paper's value.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels or ``l2`` do not fit.
    """
    checked_counts(x, y, n_classes)
    return adjust_probe(fit_cross_entropy(x, y, n_classes, l2=l2), log_prior(y, n_classes), tau)


def adjust_probe(probe: Probe, log_prior: Float[np.ndarray, " c"], tau: float) -> Probe:
    """Return the probe whose logits are ``s - tau log pi``: only the bias changes."""
    return replace(probe, bias=probe.bias - tau * log_prior)


TAU_NORM_GRID = tuple(step / 10 for step in range(11))
"""0 to 1 in tenths: the range of the paper, the step is ours."""


def tau_normalize(probe: Probe, tau: float) -> Probe:
    """Return ``w_c <- w_c / ||w_c||^tau`` without bias (arXiv 1910.09217).

    Plain training gives frequent classes longer weight vectors; ``tau = 0`` leaves them, ``tau = 1`` makes all
    lengths 1. A weight vector of zeros stays zero.

    Args:
        probe: A linear classifier.
        tau: In [0, 1] in the paper, chosen on validation.

    Raises:
        ValueError: If ``tau`` is negative or not finite.
    """
    if not (np.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must not be negative, got {tau}")
    lengths = np.linalg.norm(probe.weights, axis=0)
    weights = probe.weights / np.where(lengths > 0, lengths, 1.0) ** tau
    return replace(probe, weights=weights, bias=np.zeros_like(probe.bias))


def fit_tau_normalized(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float, tau: float
) -> Probe:
    """Fit the plain probe and normalize it; for a grid of ``tau`` fit once and call :func:`tau_normalize`.

    Raises:
        DataError: If features are not finite or all the same.
        ValueError: If shapes, labels, ``l2`` or ``tau`` do not fit.
    """
    return tau_normalize(fit_cross_entropy(x, y, n_classes, l2=l2), tau)
