"""Intervals by bootstrap over test samples, and paired differences on the same draws."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.metrics import check_labels, f1_from_counts, grouped_means

N_DRAWS = 1000
_CELLS_PER_CHUNK = 2_000_000


def stratified_draws(
    y: Int[np.ndarray, " n"],
    *,
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
    units: Int[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, "b m"]:
    """Draw sample indices with replacement, class by class.

    Args:
        y: Classes of the test samples.
        rng: Source of the draws; use one set of draws for all methods that are compared.
        n_draws: Number of draws, 1,000 or more for a reported interval (ours).
        units: The scene, flight or image of each sample. When given, whole units are drawn, within the strata
            formed by the most frequent class of each unit (the lowest label on ties).

    Returns:
        One row of indices per draw. Without units, as many per row as there are samples, and every row holds
        each class as often as ``y``. With units the number varies, and -1 fills the rows up.

    Raises:
        ValueError: If ``n_draws`` is below 1, there is no sample, or the lengths differ.
    """
    if n_draws < 1 or not len(y):
        raise ValueError(f"need at least one draw and one sample, got {n_draws} and {len(y)}")
    if units is None:
        return _draw_within(y, n_draws, rng)
    if len(units) != len(y):
        raise ValueError(f"y has {len(y)} samples, units has {len(units)}")
    _, unit_of = np.unique(units, return_inverse=True)
    classes, class_of = np.unique(y, return_inverse=True)
    sizes = np.bincount(unit_of)
    table = np.bincount(unit_of * len(classes) + class_of, minlength=len(sizes) * len(classes))
    chosen = _draw_within(table.reshape(len(sizes), len(classes)).argmax(axis=1), n_draws, rng)

    by_unit = np.argsort(unit_of, kind="stable")
    first = np.cumsum(sizes) - sizes
    lengths = sizes[chosen].ravel()
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    members = by_unit[np.repeat(first[chosen].ravel(), lengths) + within]
    totals = sizes[chosen].sum(axis=1)
    draws = np.full((n_draws, int(totals.max())), -1, dtype=np.int64)
    draws[np.arange(draws.shape[1]) < totals[:, None]] = members
    return draws


def _draw_within(
    strata: Int[np.ndarray, " n"], n_draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "b n"]:
    draws = np.empty((n_draws, len(strata)), dtype=np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
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
        draws: Rows of :func:`stratified_draws`; -1 is skipped.

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
    """Return the groups, ``all`` among them, with a class that a single test sample judges.

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


def paired_difference(
    scores_a: Float[np.ndarray, " b"], scores_b: Float[np.ndarray, " b"]
) -> tuple[float, float, float]:
    """Return mean and 95 % interval of ``a - b`` over draws that both methods share.

    Returns:
        Mean, lower and upper bound; nan where no draw has a value for both.

    Raises:
        ValueError: If the numbers of draws differ, so that the draws cannot be the same.
    """
    if scores_a.shape != scores_b.shape:
        raise ValueError(f"scores come from different draws: shapes {scores_a.shape} and {scores_b.shape}")
    difference = scores_a - scores_b
    defined = difference[~np.isnan(difference)]
    lower, upper = interval(difference)
    return (float(defined.mean()) if len(defined) else float("nan")), lower, upper
