"""Test sets with other class frequencies, drawn from a given one: forward, uniform and backward long tails."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from deblora.data.longtail import drawn_by_quota, exponential_counts
from deblora.errors import DataError
from deblora.evaluate.metrics import check_labels

Prior = Literal["forward", "uniform", "backward"]


def resampled_indices(
    y: Int[np.ndarray, " n"],
    train_counts: Int[np.ndarray, " c"],
    *,
    prior: Prior,
    imbalance_factor: float,
    seed: int,
) -> Int[np.ndarray, " m"]:
    """Select test samples so that classes are as frequent as the test prior asks (SADE, arXiv 2107.09249).

    Classes are ordered by their *training* count, most first, ties by class index. ``forward`` gives class
    ``j`` of that order ``max(1, round(largest I^(-j / (C - 1))))`` samples, ``backward`` the same counts in
    reverse, ``uniform`` ``largest`` each, where ``largest`` is the smallest class count of ``y``, which every class
    can give. Drawn without replacement; for one seed a class with fewer samples holds a subset of what it holds under
    another prior.

    Args:
        y: Class of each test sample.
        train_counts: Training samples per class.
        prior: Direction of the tail against that of the training set.
        imbalance_factor: ``I``, largest over smallest count, >= 1; no effect on ``uniform``.
        seed: Of the draws.

    Returns:
        Sorted positions in ``y``.

    Raises:
        DataError: If a class has no test sample.
        ValueError: If a label, the prior or a number is out of range.
    """
    n_classes = len(train_counts)
    check_labels(y, n_classes, name="y")
    if prior not in get_args(Prior):
        raise ValueError(f"prior must be forward, uniform or backward, got {prior!r}")
    if not (np.isfinite(imbalance_factor) and imbalance_factor >= 1):
        raise ValueError(f"imbalance_factor must be at least 1, got {imbalance_factor}")
    supply = np.bincount(y, minlength=n_classes)
    if not supply.all():
        raise DataError(f"class {int(supply.argmin())} has no test sample; leave it out or add samples to it")
    factor = 1.0 if prior == "uniform" else imbalance_factor
    sizes = exponential_counts(n_classes, largest=int(supply.min()), imbalance_factor=factor)
    quotas = np.empty(n_classes, dtype=np.int64)
    by_count = np.argsort(-np.asarray(train_counts, dtype=np.int64), kind="stable")
    quotas[by_count] = sizes[::-1] if prior == "backward" else sizes
    return drawn_by_quota(y, quotas, seed=seed)
