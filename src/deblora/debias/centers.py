"""Centers that a class is pulled toward: the de-biased center of the paper and the controls that test it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from deblora.errors import DataError

ClassList = Sequence[int] | Int[np.ndarray, " t"]


def debiased_centers(
    cluster_centers: Float[np.ndarray, "k d"],
    assignments: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    tail_classes: ClassList,
) -> tuple[Float[np.ndarray, "t d"], Float[np.ndarray, "t k"]]:
    """Mix the cluster centers of each class by the shares of its samples: ``mu_hat_c = sum_k w_ck mu_k``.

    ``w_ck = n_ck / n_c`` where ``n_ck`` counts the samples of class ``c`` in cluster ``k`` and ``n_c`` those
    of the class, so each row of weights sums to 1 (paper; the index ``ck`` is our reading).

    Args:
        cluster_centers: Centers in the feature space, any units.
        assignments: Cluster of each sample.
        labels: Class of each sample, in the same order.
        tail_classes: The ``t`` classes to compute centers for.

    Returns:
        The centers and the weights, one row per class of ``tail_classes``.

    Raises:
        DataError: If one of the classes has no sample.
        ValueError: If the two label arrays differ in length.

    Example:
        >>> clusters, assignments = np.array([[0.0], [8.0]]), np.array([0, 0, 1, 0, 1])
        >>> debiased_centers(clusters, assignments, np.array([0, 1, 1, 1, 1]), [1])
        (array([[4.]]), array([[0.5, 0.5]]))
    """
    if len(assignments) != len(labels):
        raise ValueError(f"{len(assignments)} assignments but {len(labels)} labels")
    weights = np.zeros((len(tail_classes), len(cluster_centers)))
    for row, c in enumerate(tail_classes):
        counts = np.bincount(assignments[labels == c], minlength=len(cluster_centers))
        if counts.sum() == 0:
            raise DataError(
                f"class {c} has no training sample, so it has no center; remove it from the classes"
            )
        weights[row] = counts / counts.sum()
    return (weights @ cluster_centers).astype(cluster_centers.dtype), weights


def class_means(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], n_classes: int
) -> Float[np.ndarray, "c d"]:
    """Return the mean feature of each class.

    Raises:
        DataError: If a class has no sample.
        ValueError: If features and labels differ in length or a label is out of range.
    """
    counts = counted(features, labels, n_classes)
    sums = np.zeros((n_classes, features.shape[1]))
    order = np.argsort(labels, kind="stable")  # rows of a class in their order, as a mask would take them
    for c, rows in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        sums[c] = features[rows].sum(axis=0, dtype=np.float64)
    means: Float[np.ndarray, "c d"] = (sums / counts[:, None]).astype(features.dtype)
    return means


def counted(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, " c"]:
    """Return the samples per class after checking that the arrays fit and that no class is empty.

    Raises:
        DataError: If a class has no sample.
        ValueError: If features and labels differ in length or a label is out of range.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} feature rows but {len(labels)} labels")
    if len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, outside 0 to {n_classes - 1}")
    counts = np.bincount(labels, minlength=n_classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise DataError(f"class {empty[0]} has no training sample; remove the class or add samples to it")
    return counts


def class_mean_centers(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], tail_classes: ClassList
) -> Float[np.ndarray, "t d"]:
    """Control: each class is pulled toward its own mean, so nothing is shared between classes.

    Raises:
        DataError: If one of the classes has no sample.
    """
    rows = []
    for c in tail_classes:
        members = features[labels == c]
        if len(members) == 0:
            raise DataError(
                f"class {c} has no training sample, so it has no center; remove it from the classes"
            )
        rows.append(members.mean(axis=0, dtype=np.float64))
    return np.array(rows, dtype=features.dtype).reshape(len(tail_classes), features.shape[1])


def global_mean_centers(
    features: Float[np.ndarray, "n d"], tail_classes: ClassList
) -> Float[np.ndarray, "t d"]:
    """Control: every class is pulled toward the mean of all samples (the case ``K = 1``)."""
    mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    return np.tile(mean, (len(tail_classes), 1))


def random_head_centers(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    tail_classes: ClassList,
    head_classes: ClassList,
    rng: np.random.Generator,
) -> Float[np.ndarray, "t d"]:
    """Control: each class is pulled toward the mean of one head class, drawn with replacement.

    Raises:
        DataError: If there is no head class or a drawn one has no sample.
    """
    if len(head_classes) == 0:
        raise DataError(
            "there is no head class to draw centers from; name head classes or choose other centers"
        )
    drawn = rng.choice(np.asarray(head_classes), size=len(tail_classes))
    return class_mean_centers(features, labels, [int(c) for c in drawn])
