"""How far training and test features of a class lie apart, and how far they scatter: the gap that rare classes show."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.metrics import check_labels
from deblora.evaluate.probe import unit_rows


@dataclass(frozen=True)
class Mismatch:
    """Per class, on features of unit length; NaN where a class has too few samples.

    Attributes:
        gap: Distance between the mean of the training and of the test features, in [0, 2].
        chance: Root mean square of the gap between samples of one distribution,
            ``sqrt(train_scatter^2 / n_train + test_scatter^2 / n_test)``; a gap of this size is no mismatch.
        train_scatter: Root mean squared distance of training features to their mean, with ``n - 1``; from 2 samples on.
        test_scatter: The same of test features.
    """

    gap: Float[np.ndarray, " c"]
    chance: Float[np.ndarray, " c"]
    train_scatter: Float[np.ndarray, " c"]
    test_scatter: Float[np.ndarray, " c"]


def train_test_mismatch(
    train: Float[np.ndarray, "n d"],
    y_train: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    y_test: Int[np.ndarray, " m"],
    n_classes: int,
) -> Mismatch:
    """Compare training and test features class by class. A diagnosis only: it reads the labels of test samples.

    Args:
        train: Training features.
        y_train: Their classes.
        test: Test features.
        y_test: Their classes.
        n_classes: Number of classes.

    Raises:
        ValueError: If shapes or labels do not fit.
    """
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise ValueError(f"training features have shape {train.shape}, test features {test.shape}")
    first, second = (_moments(x, y, n_classes) for x, y in ((train, y_train), (test, y_test)))
    gap = np.linalg.norm(first[0] - second[0], axis=1)
    chance = np.sqrt(first[1] ** 2 / first[2] + second[1] ** 2 / second[2])
    return Mismatch(gap, chance, first[1], second[1])


def _moments(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Return mean, scatter and number of samples per class; NaN where they are not defined."""
    check_labels(y, n_classes, name="y")
    if len(x) != len(y):
        raise ValueError(f"there are {len(x)} features and {len(y)} labels")
    unit = unit_rows(x.astype(np.float64))
    means, scatter = np.full((n_classes, x.shape[1]), np.nan), np.full(n_classes, np.nan)
    counts = np.bincount(y, minlength=n_classes).astype(np.float64)
    for c in np.flatnonzero(counts):
        own = unit[y == c]
        means[c] = own.mean(axis=0)
        if len(own) > 1:
            scatter[c] = np.sqrt(np.sum((own - means[c]) ** 2) / (len(own) - 1))
    return means, scatter, np.where(counts > 0, counts, np.nan)
