"""How far to trust a center, without a parameter: the variance of means beside what chance explains of it."""

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.debias.centers import class_means, counted

LARGEST_KAPPA = 30.0
"""As in the grid of :func:`~deblora.debias.neighbors.fit_kappa` (ours)."""


def posterior_kappa(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    centers: Float[np.ndarray, "c d"],
    has_donors: Bool[np.ndarray, " c"],
) -> float:
    """Return ``kappa = s² / t²`` of ``alpha = n / (n + kappa)``, the posterior mean under a normal prior (ours).

    ``s²`` is the pooled within-class variance, summed over dimensions. Class means lie about their centers with
    variance ``t²``, of which chance explains ``s² / n_c``::

        t² = sum_c n_c (‖m_c - P_c‖² - s² / n_c) / sum_c n_c     over classes with donors

    the empirical Bayes estimate by moments (Efron and Morris, 1975). Nothing is drawn and nothing is tuned.

    Args:
        features: Training features.
        labels: Class of each row.
        centers: Of every class.
        has_donors: Which classes have a center other than their own mean.

    Returns:
        At most 30; 0 if no class has donors, or no class has two samples, so that nothing moves.

    Raises:
        DataError: If a class has no sample.
        ValueError: If shapes disagree.
    """
    n_classes = len(centers)
    counts = counted(features, labels, n_classes)
    spare = len(labels) - n_classes
    if not has_donors.any() or spare <= 0:
        return 0.0
    means = class_means(features, labels, n_classes).astype(np.float64)
    within = float(((features - means[labels]) ** 2).sum()) / spare
    gaps = ((means - centers) ** 2).sum(axis=1)[has_donors]
    sizes = counts[has_donors]
    between = float((sizes * gaps - within).sum()) / float(sizes.sum())
    if within <= LARGEST_KAPPA * between:
        return within / between if between > 0 else 0.0
    return LARGEST_KAPPA
