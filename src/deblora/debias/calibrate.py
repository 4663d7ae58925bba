"""Move training features toward their class's center; ``alpha`` is the weight of the original feature."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import class_mean_centers
from deblora.errors import DataError


def alpha_from_imbalance(
    counts: Int[np.ndarray, " c"],
    *,
    numerator: float = 10.0,
    imbalance: Literal["per_class", "dataset"] = "per_class",
) -> Float[np.ndarray, " c"]:
    """Return ``alpha_c = min(1, numerator / ir_c)``: the rarer a class, the stronger its pull.

    Args:
        counts: Training samples per class, all at least 1.
        numerator: Imbalance ratio up to which nothing moves; positive. Default 10 (paper).
        imbalance: ``per_class`` reads ``ir_c = n_max / n_c`` (ours), ``dataset`` one ``ir = n_max / n_min``
            for all classes (the other reading of the paper).

    Raises:
        DataError: If a class has no sample.
        ValueError: If ``numerator`` or ``imbalance`` is out of range.

    Example:
        >>> alpha_from_imbalance(np.array([1000, 100, 20]))
        array([1. , 1. , 0.2])
    """
    if not numerator > 0:
        raise ValueError(f"numerator must be positive, got {numerator}")
    if imbalance not in ("per_class", "dataset"):
        raise ValueError(f"imbalance must be 'per_class' or 'dataset', got {imbalance!r}")
    sizes = _positive(counts)
    ratios = sizes.max() / sizes
    if imbalance == "dataset":
        ratios = np.full_like(ratios, ratios.max())
    alpha: Float[np.ndarray, " c"] = np.minimum(1.0, numerator / ratios)
    return alpha


def alpha_from_kappa(counts: Int[np.ndarray, " c"], kappa: float) -> Float[np.ndarray, " c"]:
    """Return ``alpha_c = n_c / (n_c + kappa)``: ``kappa`` counts the samples that the center is worth (ours).

    Args:
        counts: Training samples per class, all at least 1.
        kappa: At least 0; 0 moves nothing.

    Raises:
        DataError: If a class has no sample.
        ValueError: If ``kappa`` is negative or not finite.
    """
    if not (np.isfinite(kappa) and kappa >= 0):
        raise ValueError(f"kappa must be finite and at least 0, got {kappa}")
    sizes = _positive(counts)
    return sizes / (sizes + kappa)


def contract(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    centers: Float[np.ndarray, "t d"],
    classes: Int[np.ndarray, " t"],
    alpha_per_class: Float[np.ndarray, " c"],
) -> Float[np.ndarray, "n d"]:
    """Pull each sample toward its class's center: ``z~ = alpha_c z + (1 - alpha_c) mu_hat_c`` (paper).

    The scatter within a class shrinks by ``alpha_c ** 2``. Rows of classes that are not in ``classes`` are
    returned bit for bit, as are those with ``alpha_c = 1``; the input is not changed.

    Args:
        features: Training features; validation and test features are never calibrated.
        labels: Class of each row.
        centers: One center per class of ``classes``.
        classes: The classes that move.
        alpha_per_class: Weight of the original feature, in [0, 1], indexed by class.

    Raises:
        ValueError: If shapes disagree or an alpha is outside [0, 1].

    Example:
        >>> features, labels = np.array([[0.0], [4.0], [8.0]]), np.array([0, 1, 1])
        >>> contract(features, labels, np.array([[2.0]]), np.array([1]), np.array([1.0, 0.5]))
        array([[0.],
               [3.],
               [5.]])
    """
    _check(features, labels, centers, classes, alpha_per_class)
    moved = features.copy()
    for c, center in zip(classes, centers, strict=True):
        alpha = float(alpha_per_class[c])
        if alpha < 1:
            rows = labels == c
            moved[rows] = alpha * features[rows] + (1 - alpha) * center
    return moved


def shift(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    centers: Float[np.ndarray, "t d"],
    classes: Int[np.ndarray, " t"],
    alpha_per_class: Float[np.ndarray, " c"],
) -> Float[np.ndarray, "n d"]:
    """Move each class as a whole: ``z~ = z + (1 - alpha_c)(mu_hat_c - mean_c)`` (ours).

    The class mean moves as far as under :func:`contract`, but every sample keeps its offset, hence the
    scatter stays. Arguments, untouched rows and errors are those of :func:`contract`.

    Raises:
        DataError: If a class of ``classes`` has no sample.
        ValueError: If shapes disagree or an alpha is outside [0, 1].
    """
    _check(features, labels, centers, classes, alpha_per_class)
    means = class_mean_centers(features, labels, [int(c) for c in classes])
    moved = features.copy()
    for c, center, mean in zip(classes, centers, means, strict=True):
        alpha = float(alpha_per_class[c])
        if alpha < 1:
            rows = labels == c
            moved[rows] = features[rows] + (1 - alpha) * (center - mean)
    return moved


def _positive(counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    sizes = np.asarray(counts, dtype=np.float64)
    empty = np.flatnonzero(sizes <= 0)
    if len(empty):
        raise DataError(f"class {empty[0]} has no training sample; remove the class or add samples to it")
    return sizes


def _check(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    centers: Float[np.ndarray, "t d"],
    classes: Int[np.ndarray, " t"],
    alpha_per_class: Float[np.ndarray, " c"],
) -> None:
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} feature rows but {len(labels)} labels")
    if centers.shape != (len(classes), features.shape[1]):
        raise ValueError(f"centers have shape {centers.shape}, expected {(len(classes), features.shape[1])}")
    if len(classes) and (min(classes) < 0 or max(classes) >= len(alpha_per_class)):
        raise ValueError(f"classes {list(classes)} do not fit {len(alpha_per_class)} alphas")
    outside = [float(a) for a in alpha_per_class if not 0 <= a <= 1]
    if outside:
        raise ValueError(f"alpha must lie in [0, 1], got {outside[0]}")
