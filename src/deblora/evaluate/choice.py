"""Choosing one of several classifiers on validation, and what the choice may be expected to gain on new chips.

The best validation score of many candidates is too good: it was the largest of many noisy numbers. The gain that is
stated here is free of that (bootstrap bias correction; Tsamardinos, Greasidou, Borboudakis, Machine Learning 107,
2018): each draw chooses on the samples it holds and is judged on those it left out.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.bootstrap import bootstrap_scores, interval, stratified_draws
from deblora.evaluate.metrics import macro_f1

Name = TypeVar("Name", bound=Hashable)
N_DRAWS = 1000
"""Draws of the expected gain (ours)."""


@dataclass(frozen=True)
class Choice(Generic[Name]):
    """What validation chose.

    Attributes:
        name: The candidate with the largest macro F1 over all classes; the first one wins ties.
        scores: Validation macro F1 of every candidate, in [0, 1].
        reference: What the gain is measured against.
        gain: Expected macro F1 of the choice less that of the reference on new samples, in [-1, 1].
        ci_lower: 2.5 percentile of the gain over draws.
        ci_upper: 97.5 percentile. A draw judges on about a third of the samples, so the interval errs on the wide side.
        share: How often the draws chose the same candidate, in [0, 1]: how firm the choice is.
    """

    name: Name
    scores: Mapping[Name, float]
    reference: Name
    gain: float
    ci_lower: float
    ci_upper: float
    share: float


def choose(
    predicted: Mapping[Name, Int[np.ndarray, " v"]],
    y: Int[np.ndarray, " v"],
    n_classes: int,
    *,
    reference: Name,
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
) -> Choice[Name]:
    """Choose the candidate with the best macro F1 on validation, and estimate its gain over a reference.

    Args:
        predicted: Validation predictions of every candidate, in order of preference.
        y: True validation classes.
        n_classes: Number of classes.
        reference: A candidate.
        rng: Source of the draws.
        n_draws: Draws, at least 1.

    Raises:
        ValueError: If the reference is no candidate, there is no sample, or lengths differ.
    """
    if reference not in predicted:
        raise ValueError(f"{reference} is no candidate")
    names = list(predicted)
    scores = {name: macro_f1(y, predicted[name], n_classes) for name in names}
    best = max(names, key=scores.__getitem__)
    held = stratified_draws(y, rng=rng, n_draws=n_draws)
    inside = _scores(predicted, y, n_classes, held)
    outside = _scores(predicted, y, n_classes, left_out(held, len(y)))
    winners = inside.argmax(axis=0)
    gains = outside[winners, np.arange(n_draws)] - outside[names.index(reference)]
    lower, upper = interval(gains)
    gain = float(np.nanmean(gains)) if np.isfinite(gains).any() else float("nan")
    return Choice(best, scores, reference, gain, lower, upper, float((winners == names.index(best)).mean()))


def left_out(draws: Int[np.ndarray, "b n"], n_samples: int) -> Int[np.ndarray, "b n"]:
    """Return the samples that each draw does not hold, filled up with -1."""
    held = np.zeros((len(draws), n_samples), dtype=bool)
    np.put_along_axis(held, draws, True, axis=1)
    return np.where(held, -1, np.arange(n_samples))


def _scores(
    predicted: Mapping[Name, Int[np.ndarray, " v"]],
    y: Int[np.ndarray, " v"],
    n_classes: int,
    draws: Int[np.ndarray, "b n"],
) -> Float[np.ndarray, "k b"]:
    groups = Groups((), (), tuple(range(n_classes)))
    return np.stack(
        [bootstrap_scores(y, guess, n_classes, groups, draws)["all"] for guess in predicted.values()]
    )
