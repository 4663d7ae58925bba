"""F1 per class and per group of classes, always from all predictions; test sets with other class frequencies."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Real

from deblora.data.longtail import Groups, drawn_by_quota, exponential_counts
from deblora.errors import DataError

Prior = Literal["forward", "uniform", "backward"]
"""Class frequencies of a test set: long-tailed as in training, equal, or with the tail reversed."""


def confusion(
    y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, "c c"]:
    """Count samples by true class (row) and predicted class (column).

    Raises:
        ValueError: If the lengths differ or a label is outside ``0 .. n_classes - 1``.
    """
    check_labels(y, n_classes, name="y")
    check_labels(pred, n_classes, name="pred")
    if len(y) != len(pred):
        raise ValueError(f"y has {len(y)} samples, pred has {len(pred)}")
    cells = y.astype(np.int64) * n_classes + pred
    return np.bincount(cells, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def per_class_f1(
    y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], n_classes: int
) -> Float[np.ndarray, " c"]:
    """Return ``F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)`` over all samples, in [0, 1].

    A class without a true sample is nan whatever was predicted, so that two methods compared on one test set
    are always averaged over the same classes.

    Raises:
        ValueError: If the lengths differ or a label is outside ``0 .. n_classes - 1``.

    Example:
        >>> per_class_f1(np.array([0, 0, 1]), np.array([0, 1, 1]), 3).round(3)
        array([0.667, 0.667,   nan])
    """
    table = confusion(y, pred, n_classes)
    return f1_from_counts(np.diagonal(table), table.sum(axis=1), table.sum(axis=0))


def f1_from_counts(
    n_hits: Real[np.ndarray, "*shape"], n_true: Real[np.ndarray, "*shape"], n_pred: Real[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Return ``2 TP / (n_true + n_pred)`` elementwise, nan where ``n_true`` is 0."""
    scores = np.full(np.shape(n_true), np.nan)
    np.divide(2.0 * n_hits, n_true + n_pred, out=scores, where=n_true > 0)
    return scores


def group_scores(f1_per_class: Float[np.ndarray, " c"], groups: Groups) -> dict[str, float]:
    """Average the F1 of the classes of each group, and of all classes.

    Args:
        f1_per_class: F1 per class from all predictions; nan marks a class without test samples, left out.
        groups: Head, middle and tail classes.

    Returns:
        Keys ``head``, ``middle``, ``tail``, ``all``; nan where a group has no class with a score.

    Raises:
        ValueError: If a group names a class that has no entry.

    Example:
        >>> group_scores(np.array([0.9, 0.6, 0.3]), Groups(head=(0,), middle=(1,), tail=(2,)))
        {'head': 0.9, 'middle': 0.6, 'tail': 0.3, 'all': 0.6}
    """
    return {name: float(values[0]) for name, values in grouped_means(f1_per_class[None], groups).items()}


def grouped_means(
    f1_per_class: Float[np.ndarray, "b c"], groups: Groups
) -> dict[str, Float[np.ndarray, " b"]]:
    """Average F1 over each group and over all classes, for every row; nan entries are left out.

    Raises:
        ValueError: If a group names a class that has no entry.
    """
    n_classes = f1_per_class.shape[1]
    members = {**groups.named(), "all": tuple(range(n_classes))}
    means = {}
    for name, classes in members.items():
        if classes and not 0 <= min(classes) <= max(classes) < n_classes:
            raise ValueError(f"group {name} names classes {classes}, but there are {n_classes} classes")
        chosen = f1_per_class[:, list(classes)]
        defined = ~np.isnan(chosen)
        n_defined = defined.sum(axis=1)
        total = np.where(defined, chosen, 0.0).sum(axis=1)
        means[name] = np.divide(total, n_defined, out=np.full(len(total), np.nan), where=n_defined > 0)
    return means


def macro_f1(y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], n_classes: int) -> float:
    """Average F1 over the classes that occur in ``y``; nan when there is no sample."""
    return group_scores(per_class_f1(y, pred, n_classes), Groups((), (), ()))["all"]


def filtered_group_f1(
    y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], groups: Groups, n_classes: int
) -> dict[str, float]:
    """Return the group F1 of the debLoRA authors' code; only for comparison with their tables.

    Keeps the samples whose *true* class is in the group, then averages F1 over every label that occurs among
    their true or predicted classes. False alarms from other groups are not counted, and a sample predicted
    outside the group adds a class with F1 = 0; use :func:`group_scores` for every number of ours.

    Returns:
        Keys ``head``, ``middle``, ``tail``, ``all``; nan where no sample is left.

    Raises:
        ValueError: If the lengths differ or a label is outside ``0 .. n_classes - 1``.
    """
    members = {**groups.named(), "all": tuple(range(n_classes))}
    check_labels(y, n_classes, name="y")
    if len(y) != len(pred):
        raise ValueError(f"y has {len(y)} samples, pred has {len(pred)}")
    scores = {}
    for name, classes in members.items():
        keep = np.isin(y, classes)
        table = confusion(y[keep], pred[keep], n_classes)
        n_either = table.sum(axis=0) + table.sum(axis=1)
        occurs = n_either > 0
        f1 = 2.0 * np.diagonal(table)[occurs] / n_either[occurs]
        scores[name] = float(f1.mean()) if len(f1) else float("nan")
    return scores


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


def check_labels(labels: Int[np.ndarray, " n"], n_classes: int, *, name: str) -> None:
    """Refuse labels that are not one-dimensional integers in ``0 .. n_classes - 1``.

    Raises:
        ValueError: Names the argument and the first offending value.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be a vector of integers, got shape {labels.shape}, type {labels.dtype}"
        )
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if len(outside):
        raise ValueError(f"{name} holds label {outside[0]}, outside 0..{n_classes - 1}")
