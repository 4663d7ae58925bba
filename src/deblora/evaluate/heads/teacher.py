"""Soft labels of unlabeled features, from which a second adapter learns: no label of theirs is read."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

from deblora.evaluate.heads.semi_supervised import Start, fit_shared_gaussians, scaled_to_shares
from deblora.evaluate.probe import Probe, fit_probe

SHRINKAGE, TEMPERATURE, SHARPENING = 0.1, 4.0, 2.0
"""Fixed, for a choice on validation would let its labels reach the adapter (ours, docs/log.md)."""


def soft_labels(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    unlabeled: Float[np.ndarray, "m d"],
    *,
    adapted_size: int,
) -> Float[np.ndarray, "m c"]:
    """Return the probability of each class for each unlabeled feature; every class owns the same share of them.

    Shared Gaussians are fitted by EM twice, to the adapted features alone and to all columns. With the mean ``l`` of
    their logits, the result is ``Sinkhorn(softmax(2 l))`` with columns that sum to ``m / c``.

    Args:
        x: Training features, adapted ones first, those of the base model beside them.
        y: Their classes.
        n_classes: Number of classes, each with a training sample.
        unlabeled: Features of chips that the adapter was not trained on, the same columns.
        adapted_size: Columns of adapted features, 1 to ``d - 1``.

    Raises:
        DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    if not 0 < adapted_size < x.shape[1]:
        raise ValueError(f"adapted_size must be 1 to {x.shape[1] - 1}, got {adapted_size}")
    sizes = [adapted_size, x.shape[1] - adapted_size]
    logits = np.zeros((len(unlabeled), n_classes))
    for width, own in ((adapted_size, sizes[:1]), (x.shape[1], sizes)):
        start = Start.of(x[:, :width], y, n_classes, unlabeled[:, :width], sizes=own)
        head = fit_shared_gaussians(start, shrinkage=SHRINKAGE, temperature=TEMPERATURE)
        logits += head.logits(unlabeled[:, :width]) / 2
    return scaled_to_shares(log_softmax(SHARPENING * logits, axis=1), np.full(n_classes, 1.0 / n_classes))


def fit_pseudo_labeled(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    unlabeled: Float[np.ndarray, "m d"],
    soft: Float[np.ndarray, "m c"],
    *,
    l2: float = 1e-2,
) -> Probe:
    """Fit a balanced-softmax probe to labeled features and to others under their most probable class.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        unlabeled: Other features.
        soft: Probability of each class for each of them, as :func:`soft_labels` gives.
        l2: Penalty, fixed: validation chips are among the others and cannot choose it (ours).

    Raises:
        DataError: If features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    if soft.shape != (len(unlabeled), n_classes):
        raise ValueError(f"soft has shape {soft.shape}, expected {(len(unlabeled), n_classes)}")
    classes = np.concatenate([y, soft.argmax(axis=1)])
    both = np.vstack([x, unlabeled])
    return fit_probe(both, classes, n_classes, loss="balanced_softmax", l2=l2, l2_normalize=False)
