"""Choosing the shared Gaussians on validation: as many trials as every other head has."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from deblora.heads.search import Chosen, Samples, try_two
from deblora.heads.unlabeled import SharedGaussians, Start, fit_shared_gaussians

SHRINKAGES = (0.3, 0.1, 0.03, 0.01)
TEMPERATURES = (2.0, 1.0, 4.0, 8.0, 16.0)
ENOUGH = 10
"""Unlabeled chips of each class from which on the head gained in all our measurements; with five it can lose."""

_LOG = logging.getLogger(__name__)


def semi_supervised_head(samples: Samples, *, sizes: Sequence[int] | None = None) -> Chosen:
    """Fit with validation features as the unlabeled ones; their labels choose shrinkage and temperature.

    The shares of the classes are those of the validation set, which are known. No test feature is seen.

    Args:
        samples: What to fit and choose on.
        sizes: Columns of each kind of features, see :class:`deblora.heads.blocks.Blocks`.

    Raises:
        DataError: If a class has no sample, there is no validation sample, or features are not finite or all alike.
        ValueError: If shapes or labels do not fit.
    """
    start = Start.of(samples.x, samples.y, samples.n_classes, samples.x_val, sizes=sizes)
    counts = np.bincount(samples.y_val, minlength=samples.n_classes)
    n_few = int((counts < ENOUGH).sum())
    if n_few:
        _LOG.warning(
            "%d of %d classes have fewer than %d validation chips: too few unlabeled ones for the semi-supervised "
            "head, do not trust its validation score",
            n_few,
            samples.n_classes,
            ENOUGH,
        )
    seen = np.maximum(counts, 0.5)
    shares = seen / seen.sum()

    def fit(shrinkage: float, temperature: float) -> SharedGaussians:
        return fit_shared_gaussians(start, shares=shares, shrinkage=shrinkage, temperature=temperature)

    return try_two(samples, "temperature", TEMPERATURES, fit, first=("shrinkage", SHRINKAGES))


def transductive_head(
    samples: Samples,
    chosen: Chosen,
    unlabeled: Float[np.ndarray, "m d"],
    *,
    sizes: Sequence[int] | None = None,
) -> Chosen:
    """Fit again with the features that are to be classified as the unlabeled ones, classes equally frequent.

    Args:
        samples: What to fit on.
        chosen: Result of :func:`semi_supervised_head`, whose settings are taken over.
        unlabeled: Test features; their labels are not known here.
        sizes: As there.

    Raises:
        DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    start = Start.of(samples.x, samples.y, samples.n_classes, unlabeled, sizes=sizes)
    head = fit_shared_gaussians(
        start,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
    )
    return Chosen(head, chosen.record)
