"""Centers from better-populated neighbor classes and how far to trust them, from training data alone."""

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.debias.centers import class_means, counted

RARE_IMBALANCE = 10.0


def kernel_neighbor_centers(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    temperature: float = 0.15,
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, "c c"], Bool[np.ndarray, " c"]]:
    """Mix the means of the donor classes: ``P_c = sum_j w_cj m_j`` (ours).

    ``w_cj ~ sqrt(n_j) exp(cos(m_c - g, m_j - g) / temperature)``, normalized over the donors, with ``m`` the
    class means and ``g`` the mean of all samples. Donors of class ``c`` are the classes with
    ``n_j >= max(2 n_c, median n)``. A class without donors keeps its own mean, with weight 1.

    Args:
        features: Training features; L2-normalize the rows first if cosine geometry is meant.
        labels: Class of each row.
        n_classes: Number of classes, each with at least one sample.
        temperature: Positive; small values follow the nearest donor only. Default 0.15 (ours, measured).

    Returns:
        The centers, the weights (rows sum to 1), and which classes have donors.

    Raises:
        DataError: If a class has no sample.
        ValueError: If ``temperature`` is not positive or the arrays disagree.
    """
    counts = counted(features, labels, n_classes)
    means = class_means(features, labels, n_classes).astype(np.float64)
    weights, has_donors = _donor_weights(means, counts, temperature)
    return (weights @ means).astype(features.dtype), weights, has_donors


def fit_kappa(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    n_rounds: int = 6,
    temperature: float = 0.15,
    rng: np.random.Generator,
) -> float:
    """Choose ``kappa`` of ``alpha = n / (n + kappa)`` by making large classes rare on purpose (ours).

    Each round cuts a third of the better-populated half of the classes down to sizes drawn from the classes
    with an imbalance ratio above 10, and asks which ``kappa`` in {0} and 40 values from 0.1 to 30 brings
    ``alpha m_few + (1 - alpha) P`` nearest to the mean ``m_full`` of all samples of the class (squared
    distance, summed over classes and rounds). Without a class that rare, or without donors, nothing can be
    learned and nothing should move: the result is 0.

    Args:
        features: Training features, normalized like those of :func:`kernel_neighbor_centers`.
        labels: Class of each row.
        n_classes: Number of classes, each with at least one sample.
        n_rounds: At least 1. Default 6 (ours, measured).
        temperature: Of the donor kernel.
        rng: Draws the classes, their sizes and their samples.

    Raises:
        DataError: If a class has no sample.
        ValueError: If ``n_rounds`` or ``temperature`` is out of range.
    """
    if n_rounds < 1:
        raise ValueError(f"n_rounds must be at least 1, got {n_rounds}")
    counts = counted(features, labels, n_classes)
    rare_sizes = counts[counts.max() / counts > RARE_IMBALANCE]
    if len(rare_sizes) == 0:
        return 0.0
    full = class_means(features, labels, n_classes).astype(np.float64)
    better_half = np.argsort(-counts, kind="stable")[: max(1, n_classes // 2)]
    grid = np.concatenate([[0.0], np.geomspace(0.1, 30.0, 40)])
    errors = np.zeros(len(grid))
    for _ in range(n_rounds):
        demoted = rng.choice(better_half, size=max(1, len(better_half) // 3), replace=False)
        few, sizes = full.copy(), counts.copy()
        for c in demoted:
            sizes[c] = min(int(rng.choice(rare_sizes)), int(counts[c]))
            kept = rng.choice(np.flatnonzero(labels == c), size=int(sizes[c]), replace=False)
            few[c] = features[kept].mean(axis=0, dtype=np.float64)
        weights, has_donors = _donor_weights(few, sizes, temperature)
        for c in demoted[has_donors[demoted]]:
            alpha = sizes[c] / (sizes[c] + grid)
            estimates = alpha[:, None] * few[c] + (1 - alpha)[:, None] * (weights[c] @ few)
            errors += ((estimates - full[c]) ** 2).sum(axis=1)
    return float(grid[np.argmin(errors)])


def _donor_weights(
    means: Float[np.ndarray, "c d"], counts: Int[np.ndarray, " c"], temperature: float
) -> tuple[Float[np.ndarray, "c c"], Bool[np.ndarray, " c"]]:
    """Return the donor weights from class means and sizes alone."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    offsets = means - counts @ means / counts.sum()
    norms = np.linalg.norm(offsets, axis=1, keepdims=True)
    directions = offsets / np.where(norms > 0, norms, 1.0)
    donors = counts[None, :] >= np.maximum(2 * counts, np.median(counts))[:, None]
    has_donors = donors.any(axis=1)
    logits = directions @ directions.T / temperature + 0.5 * np.log(counts)[None, :]
    logits = np.where(donors, logits, -np.inf)
    logits[~has_donors] = np.where(np.eye(len(counts), dtype=bool)[~has_donors], 0.0, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True), has_donors
