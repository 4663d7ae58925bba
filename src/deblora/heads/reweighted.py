"""Cross-entropy with class weights: inverse frequency, effective number, and cRT on fixed features."""

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.probe import Probe
from deblora.heads.head import Standardizer, checked_counts
from deblora.heads.softmax import fit_softmax

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
