"""How sure a score is: bootstrap over test samples, t intervals over seeds, and the gain that a choice may promise.

Methods are compared on the same draws.

The best validation score of many candidates is too good: it was the largest of many noisy numbers. The gain that is
stated here is free of that (bootstrap bias correction; Tsamardinos, Greasidou, Borboudakis, Machine Learning 107,
2018): each draw chooses on the samples it holds and is judged on those it left out.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.metrics import check_labels, f1_from_counts, group_scores, grouped_means, macro_f1

N_DRAWS = 1000
_CELLS_PER_CHUNK = 2_000_000


@dataclass(frozen=True)
class Draws:
    """Samples drawn with replacement, whole units at a time, ``b`` times.

    A unit is what was sampled independently: a scene, a flight, or the sample itself. Of the ``n`` units of a class
    each draw takes ``n - 1``, and each sample counts ``n / (n - 1)`` times (Rao, Wu, JASA 83, 1988): drawing ``n``
    would understate the variance by ``(n - 1) / n``, a fifth with 5 samples of a class.

    Attributes:
        indices: Samples of each draw, filled up with -1.
        weights: How often each sample counts when it is drawn.
        n_units: Units that hold samples of each class.
    """

    indices: Int[np.ndarray, "b m"]
    weights: Float[np.ndarray, " n"]
    n_units: Int[np.ndarray, " c"]


def stratified_draws(
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    rng: np.random.Generator,
    units: Sequence[str] = (),
    n_draws: int = N_DRAWS,
) -> Draws:
    """Draw units with replacement, class by class; classes that share a unit are drawn together.

    Args:
        y: Classes of the test samples.
        n_classes: Number of classes.
        rng: Source of the draws; use one set of draws for all methods that are compared.
        units: Scene, image or flight of each sample; every sample is a unit of its own if empty.
        n_draws: Number of draws, 1,000 or more for a reported interval (ours).

    Raises:
        ValueError: If ``n_draws`` is below 1, there is no sample, or units do not fit.
    """
    if n_draws < 1 or not len(y):
        raise ValueError(f"need at least one draw and one sample, got {n_draws} and {len(y)}")
    if units and len(units) != len(y):
        raise ValueError(f"{len(units)} units for {len(y)} samples")
    check_labels(y, n_classes, name="y")
    unit = np.unique(np.asarray(units), return_inverse=True)[1] if units else np.arange(len(y))
    pairs = np.unique(np.stack([y, unit], axis=1), axis=0)
    weights = np.ones(len(y))
    parts = []
    for own in _strata(pairs, n_classes):
        members = np.flatnonzero(np.isin(y, own))
        order = members[np.argsort(unit[members], kind="stable")]
        starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
        sizes = np.diff(starts, append=len(order))
        n = len(starts)
        drawn = rng.integers(n, size=(n_draws, max(1, n - 1)))
        weights[members] = n / max(1, n - 1)
        place = np.arange(sizes.max())
        padded = np.where(
            place < sizes[:, None], order[np.minimum(starts[:, None] + place, len(order) - 1)], -1
        )
        parts.append(padded[drawn].reshape(n_draws, -1).astype(np.int32))
    return Draws(np.hstack(parts), weights, np.bincount(pairs[:, 0], minlength=n_classes))


def _strata(pairs: Int[np.ndarray, "p 2"], n_classes: int) -> list[Int[np.ndarray, " s"]]:
    """Return the classes that occur, parted into those that share no unit, from pairs of class and unit."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = n_classes + int(pairs[:, 1].max()) + 1
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], n_classes + pairs[:, 1])), shape=(n, n))
    label = connected_components(links, directed=False)[1][:n_classes]
    present = np.unique(pairs[:, 0])
    return [present[label[present] == one] for one in np.unique(label[present])]


def bootstrap_f1(
    y: Int[np.ndarray, " n"], pred: Int[np.ndarray, " n"], draws: Draws
) -> Float[np.ndarray, "b c"]:
    """Return F1 of each class in each draw; NaN where a draw holds no sample of the class.

    Args:
        y: Classes of the test samples.
        pred: Their predicted classes.
        draws: Of these samples.

    Raises:
        ValueError: If the lengths differ or a label is out of range.
    """
    n_classes = len(draws.n_units)
    check_labels(y, n_classes, name="y")
    check_labels(pred, n_classes, name="pred")
    if not len(y) == len(pred) == len(draws.weights):
        raise ValueError(f"y has {len(y)} samples, pred has {len(pred)}, draws are of {len(draws.weights)}")
    # One spare class takes the filler: index -1 reads the last entry.
    spare = np.full(1, n_classes)
    hit = np.concatenate([np.where(y == pred, y, n_classes), spare])
    true, predicted = np.concatenate([y, spare]), np.concatenate([pred, spare])
    weights = np.concatenate([draws.weights, np.zeros(1)])
    per_chunk = max(1, _CELLS_PER_CHUNK // max(1, draws.indices.shape[1]))
    scores = []
    for first in range(0, len(draws.indices), per_chunk):
        chunk = draws.indices[first : first + per_chunk]
        own = weights[chunk]
        n_hits, n_true, n_pred = (_counts(labels[chunk], own, n_classes) for labels in (hit, true, predicted))
        scores.append(f1_from_counts(n_hits, n_true, n_pred))
    return np.concatenate(scores)


def _counts(
    labels: Int[np.ndarray, "b m"], weights: Float[np.ndarray, "b m"], n_classes: int
) -> Float[np.ndarray, "b c"]:
    width = n_classes + 1
    cells = labels + width * np.arange(len(labels))[:, None]
    counts = np.bincount(cells.ravel(), weights.ravel(), minlength=width * len(labels))
    return counts.reshape(len(labels), width)[:, :-1]


@dataclass(frozen=True)
class Estimate:
    """A group mean of F1, or of a difference of F1: its value, standard error and 95 % interval.

    ``standard_error``, ``ci_lower`` and ``ci_upper`` are NaN where nothing can be said of them.
    """

    value: float
    standard_error: float
    ci_lower: float
    ci_upper: float


def group_estimates(
    f1: Float[np.ndarray, " c"],
    drawn: Float[np.ndarray, "b c"],
    groups: Groups,
    n_units: Int[np.ndarray, " c"],
    *,
    is_difference: bool = False,
) -> dict[str, Estimate]:
    """Return the mean over each group with its interval over draws.

    The standard error ``s`` is that of the group mean over draws; the quantile ``t`` is Student's with Satterthwaite's
    degrees of freedom, ``(sum v_c)^2 / sum(v_c^2 / (n_c - 1))`` over the variances ``v_c`` of the classes and their
    ``n_c`` units. A score ``m`` in (0, 1) gets ``logit^-1(logit m +- t s / (m (1 - m)))``, which stays in the range; a
    difference ``m +- t s``. With 5 test samples per class this holds the truth in 93 to 99 % of simulated cases, where
    percentiles of draws hold it in 80 to 94 % (``benchmarks/coverage.py``).

    There is no interval for a group with a class of a single unit, which every draw holds, and none where all draws
    agree: that nothing varied in a few samples does not mean that nothing can (ours).

    Args:
        f1: F1 of each class on the whole test set, or the difference of two; NaN marks a class without test samples.
        drawn: The same in each draw.
        groups: Head, middle and tail classes.
        n_units: Units per class; see :class:`Draws`.
        is_difference: Whether values lie in [-1, 1] rather than in [0, 1].

    Returns:
        Keys ``head``, ``middle``, ``tail``, ``all``.
    """
    from scipy.special import stdtrit

    values, means = group_scores(f1, groups), grouped_means(drawn, groups)
    variances = np.nan_to_num(np.nanvar(np.where(np.isnan(f1), 0.0, drawn), axis=0))
    found = {}
    for name, classes in {**groups.named(), "all": tuple(range(len(f1)))}.items():
        members = [c for c in classes if n_units[c]]
        value, error = values[name], float(np.nanstd(means[name])) if members else math.nan
        if not members or n_units[members].min() == 1 or not error > _NO_WIDTH:
            found[name] = Estimate(value, math.nan, math.nan, math.nan)
            continue
        own = variances[members]
        freedom = own.sum() ** 2 / (own**2 / (n_units[members] - 1)).sum()
        half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
        found[name] = Estimate(value, error, *_ends(value, half, is_difference=is_difference))
    return found


_NO_WIDTH, _MANY = 1e-12, 1e9


def _ends(value: float, half: float, *, is_difference: bool) -> tuple[float, float]:
    if is_difference or not 0 < value < 1:
        low, high = DIFFERENCES if is_difference else SCORES
        return max(low, value - half), min(high, value + half)
    from scipy.special import expit, logit

    half = half / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def single_unit_groups(n_units: Int[np.ndarray, " c"], groups: Groups) -> tuple[str, ...]:
    """Return the groups, ``all`` among them, that have a class with a single test unit and so no interval.

    Args:
        n_units: Test units per class. Classes without any are in no mean and do not matter here.
        groups: Head, middle and tail classes.
    """
    members = {**groups.named(), "all": tuple(range(len(n_units)))}
    return tuple(name for name, classes in members.items() if (n_units[list(classes)] == 1).any())


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


def spread(
    values: Float[np.ndarray, " n"],
    *,
    within: tuple[float, float] = SCORES,
    errors: Float[np.ndarray, " n"] | None = None,
) -> Spread:
    """Return mean, standard deviation and the 95 % t interval of the mean.

    ``sd = sqrt(sum (x - mean)^2 / (n - 1))`` and ``mean +- t sqrt(sd^2 / n + mean e^2)``, cut to the values a mean
    can have: with two seeds the quantile is 12.7, and the interval would often reach beyond them. The second term is
    there if all runs share one test set: its chips are drawn once, and more seeds tell nothing about them. ``t`` has
    ``n - 1`` degrees of freedom, with the second term Satterthwaite's. The interval is about the mean over seeds; it
    holds for scores that are near normal over seeds. There is none where all is equal: two equal runs do not prove
    that nothing varies (ours).

    Args:
        values: One score per run; NaN (an empty group) is left out.
        within: Least and largest possible value.
        errors: Standard error ``e`` of every score over samples of the shared test set; unknown ones (NaN) are left
            out. None if every run draws its own test set.

    Example:
        >>> found = spread(np.array([0.50, 0.54, 0.58]))
        >>> [round(value, 3) for value in (found.mean, found.sd, found.ci_lower, found.ci_upper)]
        [0.54, 0.04, 0.441, 0.639]
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=np.float64)
    defined = x[~np.isnan(x)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    if n < 2:
        return Spread(n, mean, math.nan, math.nan, math.nan)
    sd = float(defined.std(ddof=1))
    of_test = np.array([]) if errors is None else np.asarray(errors, dtype=np.float64)[~np.isnan(x)]
    known = of_test[~np.isnan(of_test)]
    seeds, test = sd**2 / n, float((known**2).mean()) if len(known) else 0.0
    if not math.sqrt(seeds + test) > _NO_WIDTH:
        return Spread(n, mean, sd, math.nan, math.nan)
    freedom = (n - 1) * ((seeds + test) / seeds) ** 2 if seeds else math.inf
    half = float(stdtrit(min(freedom, _MANY), 0.5 + LEVEL / 2)) * math.sqrt(seeds + test)
    low, high = within
    return Spread(n, mean, sd, max(low, mean - half), min(high, mean + half))


Name = TypeVar("Name", bound=Hashable)


ENOUGH_TO_CHOOSE = 10
"""Validation chips (scenes where these are known) of every class below which nothing but the floor is chosen. With 1 to
8 of them the winner among 35 candidates was worse than the floor by up to 16 points of macro F1 on real chips (ours,
docs/log.md)."""

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
        n_fewest: Validation units of the class with the fewest; single samples where no units are known.
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
    units: Sequence[str] = (),
    n_draws: int = N_DRAWS,
) -> Choice[Name]:
    """Choose between a floor, whose settings need no validation, and the best of all candidates on validation.

    The best candidate is taken if every class has :data:`ENOUGH_TO_CHOOSE` validation units and, in a share
    :data:`SURE` of the draws, the best one of the draw beats the floor on the samples that the draw left out.

    Args:
        predicted: Validation predictions of every candidate, in order of preference.
        y: True validation classes.
        groups: Head, middle and tail classes.
        floor: A candidate.
        reference: A candidate, against which gains are stated.
        rng: Source of the draws.
        units: Scene, image or flight of each sample, drawn as a whole; every sample is a unit of its own if empty.
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
    held = stratified_draws(y, n_classes, rng=rng, units=units, n_draws=n_draws)
    winners = _scores(predicted, y, groups, held)["all"].argmax(axis=0)
    outside = _scores(predicted, y, groups, left_out(held))
    each = np.arange(n_draws)
    own, base = names.index(floor), names.index(reference)
    with np.errstate(invalid="ignore"):
        beats = outside["all"][winners, each] > outside["all"][own]
    n_fewest = int(held.n_units.min())
    sure = float(beats.mean())
    taken = n_fewest >= ENOUGH_TO_CHOOSE and sure >= SURE
    gains = {
        group: _gain(outside[group][winners if taken else own, each] - outside[group][base])
        for group in ("tail", "all")
    }
    return Choice(best if taken else floor, best, floor, scores, reference, gains, sure, n_fewest)


def _gain(values: Float[np.ndarray, " b"]) -> Gain:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return Gain(math.nan, math.nan, math.nan)
    return Gain(float(defined.mean()), *map(float, np.percentile(defined, [2.5, 97.5])))


def left_out(draws: Draws) -> Draws:
    """Return the samples that each draw does not hold, each of them once."""
    n_samples = len(draws.weights)
    held = np.zeros((len(draws.indices), n_samples + 1), dtype=bool)
    np.put_along_axis(held, draws.indices, True, axis=1)  # the filler goes to the last column
    return Draws(np.where(held[:, :-1], -1, np.arange(n_samples)), np.ones(n_samples), draws.n_units)


def _scores(
    predicted: Mapping[Name, Int[np.ndarray, " v"]], y: Int[np.ndarray, " v"], groups: Groups, draws: Draws
) -> dict[str, Float[np.ndarray, "k b"]]:
    found = [grouped_means(bootstrap_f1(y, guess, draws), groups) for guess in predicted.values()]
    return {group: np.stack([own[group] for own in found]) for group in ("tail", "all")}
