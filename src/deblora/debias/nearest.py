"""Centers from the few nearest of the better-populated classes: a control of the kernel over all of them."""

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.debias.centers import class_means, counted


def nearest_donor_centers(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    n_nearest: int = 3,
) -> tuple[Float[np.ndarray, "c d"], Bool[np.ndarray, " c"]]:
    """Average the means of the nearest donors with equal weights (ours).

    Donors of class ``c`` are those of :func:`~deblora.debias.neighbors.kernel_neighbor_centers`, the classes with
    ``n_j >= max(2 n_c, median n)``; near means a large ``cos(m_c - g, m_j - g)`` with class means ``m`` and the
    mean ``g`` of all samples. A class without donors keeps its own mean.

    Args:
        features: Training features; L2-normalize the rows first if cosine geometry is meant.
        labels: Class of each row.
        n_classes: Number of classes, each with at least one sample.
        n_nearest: Donors that are averaged, at least 1; all where there are fewer. Default 3 (ours, measured).

    Returns:
        The centers, and which classes have donors.

    Raises:
        DataError: If a class has no sample.
        ValueError: If ``n_nearest`` is below 1 or the arrays disagree.
    """
    if n_nearest < 1:
        raise ValueError(f"n_nearest must be at least 1, got {n_nearest}")
    counts = counted(features, labels, n_classes)
    means = class_means(features, labels, n_classes).astype(np.float64)
    offsets = means - counts @ means / counts.sum()
    lengths = np.linalg.norm(offsets, axis=1, keepdims=True)
    directions = offsets / np.where(lengths > 0, lengths, 1.0)
    donors = counts[None, :] >= np.maximum(2 * counts, np.median(counts))[:, None]
    cosines = np.where(donors, directions @ directions.T, -np.inf)
    centers = means.copy()
    for c in np.flatnonzero(donors.any(axis=1)):
        nearest = np.argsort(-cosines[c], kind="stable")[: min(n_nearest, int(donors[c].sum()))]
        centers[c] = means[nearest].mean(axis=0)
    return centers.astype(features.dtype), donors.any(axis=1)
