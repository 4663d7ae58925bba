"""How far training and test features of a class lie apart, and how far they scatter: the gap that rare classes show."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.debias.spaces import unit_rows
from deblora.evaluate.metrics import check_labels


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


def tsne_2d(
    features: Float[np.ndarray, "n d"], *, seed: int, max_samples: int = 1500
) -> tuple[Float[np.ndarray, "m 2"], Int[np.ndarray, " m"]]:
    """Embed features by t-SNE, a random subset when there are more than ``max_samples``.

    Args:
        features: One row per sample.
        seed: Chooses the subset and seeds t-SNE.
        max_samples: Largest number of points (ours: a readable figure in seconds).

    Returns:
        The points, and the ascending row of ``features`` that each one shows. Perplexity is 30 (default of
        scikit-learn), or a third of the points where there are fewer than 91.

    Raises:
        ValueError: If there are fewer than 4 samples to show, or features are not finite.
    """
    from sklearn.manifold import TSNE

    n_shown = min(len(features), max_samples)
    if features.ndim != 2 or n_shown < 4:
        raise ValueError(
            f"need at least 4 samples, got features of shape {features.shape}, at most {max_samples}"
        )
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite")
    rows = np.sort(np.random.default_rng(seed).choice(len(features), size=n_shown, replace=False))
    init = "pca" if features.shape[1] >= 2 else "random"
    tsne = TSNE(n_components=2, perplexity=min(30.0, (n_shown - 1) / 3), init=init, random_state=seed)
    return np.asarray(tsne.fit_transform(features[rows]), dtype=np.float64), rows
