"""How far classes lie apart and how tight the tail is, in cosine distance."""

import numpy as np
from jaxtyping import Float, Int

from deblora.artifacts import Groups
from deblora.evaluate.metrics import check_labels
from deblora.evaluate.probe import unit_rows


def separation(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], groups: Groups, n_classes: int
) -> dict[str, float]:
    """Return the three distances of the debLoRA authors' separation table.

    ``d(a, b) = 1 - cos(a, b)`` in [0, 2]; centers are class means of the features as given. A zero vector has
    distance 1 to everything. Averages are taken per tail class first, then over tail classes (ours); classes
    without a sample are left out.

    Returns:
        ``inter_head_tail`` (centers, head-tail pairs), ``inter_tail_tail`` (centers, pairs of different tail
        classes) and ``intra_tail`` (samples of a tail class to its center); nan where there is no pair.

    Raises:
        ValueError: If shapes do not fit, or a label or class is outside ``0 .. n_classes - 1``.
    """
    check_labels(labels, n_classes, name="labels")
    if features.ndim != 2 or len(features) != len(labels):
        raise ValueError(f"features have shape {features.shape}, labels {labels.shape}")
    named = [*groups.head, *groups.tail]
    if named and not 0 <= min(named) <= max(named) < n_classes:
        raise ValueError(f"groups name classes {named}, but there are {n_classes} classes")
    precise = features.astype(np.float64)
    present = set(np.unique(labels).tolist())
    head = [c for c in groups.head if c in present]
    tail = [c for c in groups.tail if c in present]
    centers = np.zeros((n_classes, features.shape[1]))
    for c in head + tail:
        centers[c] = precise[labels == c].mean(axis=0)
    head_centers, tail_centers = centers[head], centers[tail]
    others = ~np.eye(len(tail), dtype=bool)
    between_tails = _cosine_distances(tail_centers, tail_centers)
    return {
        "inter_head_tail": _mean(_cosine_distances(tail_centers, head_centers).ravel()),
        "inter_tail_tail": _mean(between_tails[others]),
        "intra_tail": _mean(
            np.array([_cosine_distances(precise[labels == c], centers[[c]]).mean() for c in tail])
        ),
    }


def _cosine_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return np.asarray(1.0 - unit_rows(a) @ unit_rows(b).T)


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean()) if values.size else float("nan")
