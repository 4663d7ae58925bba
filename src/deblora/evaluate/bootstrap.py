"""Intervals by bootstrap over test samples; methods are compared on the same draws."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.metrics import check_labels, f1_from_counts, grouped_means

N_DRAWS = 1000
_CELLS_PER_CHUNK = 2_000_000


def stratified_draws(
    y: Int[np.ndarray, " n"], *, rng: np.random.Generator, n_draws: int = N_DRAWS
) -> Int[np.ndarray, "b n"]:
    """Draw sample indices with replacement, class by class.

    Args:
        y: Classes of the test samples.
        rng: Source of the draws; use one set of draws for all methods that are compared.
        n_draws: Number of draws, 1,000 or more for a reported interval (ours).

    Returns:
        One row of indices per draw, as many as there are samples; every row holds each class as often as ``y``.

    Raises:
        ValueError: If ``n_draws`` is below 1 or there is no sample.
    """
    if n_draws < 1 or not len(y):
        raise ValueError(f"need at least one draw and one sample, got {n_draws} and {len(y)}")
    draws = np.empty((n_draws, len(y)), dtype=np.int64)
    for c in np.unique(y):
        members = np.flatnonzero(y == c)
        draws[:, members] = members[rng.integers(len(members), size=(n_draws, len(members)))]
    return draws


def bootstrap_scores(
    y: Int[np.ndarray, " n"],
    pred: Int[np.ndarray, " n"],
    n_classes: int,
    groups: Groups,
    draws: Int[np.ndarray, "b m"],
) -> dict[str, Float[np.ndarray, " b"]]:
    """Return the group scores of each draw; see :func:`deblora.evaluate.metrics.group_scores`.

    Args:
        y: Classes of the test samples.
        pred: Their predicted classes.
        n_classes: Number of classes.
        groups: Head, middle and tail classes.
        draws: Rows of indices, for instance of :func:`stratified_draws`; -1 is skipped.

    Returns:
        Keys ``head``, ``middle``, ``tail``, ``all``, one value per draw.

    Raises:
        ValueError: If the lengths differ, a label is out of range, or a draw names an unknown sample.
    """
    check_labels(y, n_classes, name="y")
    check_labels(pred, n_classes, name="pred")
    if len(y) != len(pred):
        raise ValueError(f"y has {len(y)} samples, pred has {len(pred)}")
    if draws.size and not -1 <= draws.min() <= draws.max() < len(y):
        raise ValueError(f"draws name samples {draws.min()}..{draws.max()}, but there are {len(y)} samples")
    # One spare class takes the filler: index -1 reads the last entry.
    spare = np.full(1, n_classes)
    hit = np.concatenate([np.where(y == pred, y, n_classes), spare])
    true, predicted = np.concatenate([y, spare]), np.concatenate([pred, spare])
    rows_per_chunk = max(1, _CELLS_PER_CHUNK // max(1, draws.shape[1]))
    scores = []
    for first in range(0, len(draws), rows_per_chunk):
        chunk = draws[first : first + rows_per_chunk]
        n_hits, n_true, n_pred = (_counts(labels[chunk], n_classes) for labels in (hit, true, predicted))
        scores.append(f1_from_counts(n_hits, n_true, n_pred))
    return grouped_means(np.concatenate(scores), groups)


def _counts(labels: Int[np.ndarray, "b m"], n_classes: int) -> Int[np.ndarray, "b c"]:
    width = n_classes + 1
    cells = labels + width * np.arange(len(labels))[:, None]
    return np.bincount(cells.ravel(), minlength=width * len(labels)).reshape(len(labels), width)[:, :-1]


def judged_by_one(n_test: Int[np.ndarray, " c"], groups: Groups) -> tuple[str, ...]:
    """Return the groups, ``all`` among them, that have a class with a single test sample.

    Every draw holds that one sample, so the spread over draws leaves out the class that is known least: with one
    sample per class the interval has no width at all. Such a group has no interval (ours).

    Args:
        n_test: Test samples per class. Classes without any are in no mean and do not matter here.
        groups: Head, middle and tail classes.
    """
    members = {**groups.named(), "all": tuple(range(len(n_test)))}
    return tuple(name for name, classes in members.items() if (n_test[list(classes)] == 1).any())


def without_interval(
    scores: dict[str, Float[np.ndarray, " b"]], names: Collection[str]
) -> dict[str, Float[np.ndarray, " b"]]:
    """Return the scores of draws, nan in the groups that have no interval."""
    return {name: np.full_like(own, np.nan) if name in names else own for name, own in scores.items()}


def interval(values: Float[np.ndarray, " b"]) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the draws that have a value; nan where none has."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    lower, upper = np.percentile(defined, [2.5, 97.5])
    return float(lower), float(upper)
