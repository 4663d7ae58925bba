"""How sure a score is: bootstrap over test samples, t intervals over seeds, and the gain that a choice may promise.

Methods are compared on the same draws.

The best validation score of many candidates is too good: it was the largest of many noisy numbers. The gain that is
stated here is free of that (bootstrap bias correction; Tsamardinos, Greasidou, Borboudakis, Machine Learning 107,
2018): each draw chooses on the samples it holds and is judged on those it left out.
"""

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.metrics import check_labels, f1_from_counts, grouped_means, macro_f1

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


def single_sample_groups(n_test: Int[np.ndarray, " c"], groups: Groups) -> tuple[str, ...]:
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


LEVEL = 0.95
SCORES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""What a share (F1, precision, accuracy) can be, and the difference of two of them."""


@dataclass(frozen=True)
class Spread:
    """Mean over ``n`` values, their standard deviation, and the t interval of the mean.

    ``sd`` and the interval are NaN for fewer than two values, ``mean`` is NaN for none.
    """

    n: int
    mean: float
    sd: float
    ci_lower: float
    ci_upper: float


def spread(values: Float[np.ndarray, " n"], *, within: tuple[float, float] = SCORES) -> Spread:
    """Return mean, standard deviation and the 95 % t interval of the mean.

    ``sd = sqrt(sum (x - mean)^2 / (n - 1))`` and ``mean +- t(0.975, n - 1) sd / sqrt(n)``, cut to the values a mean
    can have: with two seeds the quantile is 12.7, and the interval would often reach beyond them. The interval is
    about the mean over seeds; it holds for scores that are near normal over seeds. Equal values give an interval
    without width.

    Args:
        values: One score per run; NaN (an empty group) is left out.
        within: Least and largest possible value.

    Example:
        >>> found = spread(np.array([0.50, 0.54, 0.58]))
        >>> [round(value, 3) for value in (found.mean, found.sd, found.ci_lower, found.ci_upper)]
        [0.54, 0.04, 0.441, 0.639]
    """
    from scipy.special import stdtrit

    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    if n < 2:
        return Spread(n, mean, math.nan, math.nan, math.nan)
    sd = float(defined.std(ddof=1))
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * sd / math.sqrt(n)
    low, high = within
    return Spread(n, mean, sd, max(low, mean - half), min(high, mean + half))


Name = TypeVar("Name", bound=Hashable)


ENOUGH_TO_CHOOSE = 10
"""Validation chips of every class below which nothing but the floor is chosen. With 1 to 8 of them the winner among 35
candidates was worse than the floor by up to 16 points of macro F1 on real chips (ours, docs/log.md)."""

SURE = 0.9
"""Share of draws in which a candidate has to beat the floor (ours)."""


@dataclass(frozen=True)
class Gain:
    """Expected macro F1 less that of the reference on new samples, in [-1, 1], with a 95 % interval over draws.

    A draw judges on about a third of the samples, so the interval errs on the wide side.
    """

    value: float
    ci_lower: float
    ci_upper: float


@dataclass(frozen=True)
class Choice(Generic[Name]):
    """What validation chose.

    Attributes:
        name: The floor, or the candidate with the largest macro F1 over all classes if it is better for sure.
        best: That candidate; the first one wins ties.
        floor: What is taken unless validation speaks for another one.
        scores: Validation macro F1 of every candidate, in [0, 1].
        reference: What the gains are measured against.
        gains: Of the choice over the reference: ``tail`` and ``all``.
        sure: Share of draws in which the best of the draw beats the floor on the samples left out, in [0, 1].
        n_fewest: Validation samples of the class with the fewest.
    """

    name: Name
    best: Name
    floor: Name
    scores: Mapping[Name, float]
    reference: Name
    gains: Mapping[str, Gain]
    sure: float
    n_fewest: int


def choose(
    predicted: Mapping[Name, Int[np.ndarray, " v"]],
    y: Int[np.ndarray, " v"],
    groups: Groups,
    *,
    floor: Name,
    reference: Name,
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
) -> Choice[Name]:
    """Choose between a floor, whose settings need no validation, and the best of all candidates on validation.

    The best candidate is taken if every class has :data:`ENOUGH_TO_CHOOSE` validation samples and, in a share
    :data:`SURE` of the draws, the best one of the draw beats the floor on the samples that the draw left out.

    Args:
        predicted: Validation predictions of every candidate, in order of preference.
        y: True validation classes.
        groups: Head, middle and tail classes.
        floor: A candidate.
        reference: A candidate, against which gains are stated.
        rng: Source of the draws.
        n_draws: Draws, at least 1.

    Raises:
        ValueError: If floor or reference are no candidates, there is no sample, or lengths differ.
    """
    for name in (floor, reference):
        if name not in predicted:
            raise ValueError(f"{name} is no candidate")
    names = list(predicted)
    n_classes = sum(map(len, groups.named().values()))
    scores = {name: macro_f1(y, predicted[name], n_classes) for name in names}
    best = max(names, key=scores.__getitem__)
    held = stratified_draws(y, rng=rng, n_draws=n_draws)
    winners = _scores(predicted, y, groups, held)["all"].argmax(axis=0)
    outside = _scores(predicted, y, groups, left_out(held, len(y)))
    each = np.arange(n_draws)
    own, base = names.index(floor), names.index(reference)
    with np.errstate(invalid="ignore"):
        beats = outside["all"][winners, each] > outside["all"][own]
    n_fewest = int(np.bincount(y, minlength=n_classes).min())
    sure = float(beats.mean())
    taken = n_fewest >= ENOUGH_TO_CHOOSE and sure >= SURE
    gains = {
        group: _gain(outside[group][winners if taken else own, each] - outside[group][base])
        for group in ("tail", "all")
    }
    return Choice(best if taken else floor, best, floor, scores, reference, gains, sure, n_fewest)


def _gain(values: Float[np.ndarray, " b"]) -> Gain:
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
    return Gain(mean, *interval(values))


def left_out(draws: Int[np.ndarray, "b n"], n_samples: int) -> Int[np.ndarray, "b n"]:
    """Return the samples that each draw does not hold, filled up with -1."""
    held = np.zeros((len(draws), n_samples), dtype=bool)
    np.put_along_axis(held, draws, True, axis=1)
    return np.where(held, -1, np.arange(n_samples))


def _scores(
    predicted: Mapping[Name, Int[np.ndarray, " v"]],
    y: Int[np.ndarray, " v"],
    groups: Groups,
    draws: Int[np.ndarray, "b n"],
) -> dict[str, Float[np.ndarray, "k b"]]:
    n_classes = sum(map(len, groups.named().values()))
    found = [bootstrap_scores(y, guess, n_classes, groups, draws) for guess in predicted.values()]
    return {group: np.stack([own[group] for own in found]) for group in ("tail", "all")}
