"""Choosing the settings of a head on validation, one setting or two, with the same number of trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.evaluate.heads.head import Head, Setting, select
from deblora.evaluate.metrics import macro_f1
from deblora.evaluate.probe import log_prior

COARSE_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Of heads with two settings, tried first, with the second setting at its default (ours)."""

Pair = Callable[[float, float], Head]


@dataclass(frozen=True)
class Samples:
    """Features on which heads are fitted and chosen; the test set is no part of it.

    Attributes:
        x: Training features.
        y: Their classes.
        x_val: Validation features.
        y_val: Their classes.
        n_classes: Number of classes.
        groups: Head, middle and tail, which ResLT needs.
        statistics_of: Features whose mean and scatter standardize all others: ``x`` before it was moved.
        seed: Of heads that draw.
    """

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]
    x_val: Float[np.ndarray, "v d"]
    y_val: Int[np.ndarray, " v"]
    n_classes: int
    groups: Groups
    statistics_of: Float[np.ndarray, "n d"]
    seed: int

    @cached_property
    def prior(self) -> Float[np.ndarray, " c"]:
        """Log class frequencies of the training set."""
        return log_prior(self.y, self.n_classes)


@dataclass(frozen=True)
class Chosen:
    """The head that validation chose, and its settings with ``macro_f1`` on validation and ``n_trials``."""

    head: Head
    record: Mapping[str, Setting]


def try_one(samples: Samples, name: str, values: Sequence[float], fit: Callable[[float], Head]) -> Chosen:
    """Try every value of one setting; the first one wins ties.

    Args:
        samples: What to fit and choose on.
        name: Of the setting, for the record.
        values: To try.
        fit: From a value to a head.

    Raises:
        DataError: If there is no validation sample.
    """
    candidates = (({name: value}, fit(value)) for value in values)
    return Chosen(*select(candidates, samples.x_val, samples.y_val))


def try_two(
    samples: Samples,
    name: str,
    values: Sequence[float],
    fit: Pair,
    *,
    first: tuple[str, Sequence[float]] = ("l2", COARSE_PENALTIES),
) -> Chosen:
    """Choose one setting with the other at its default, then the other: 4 + 4 trials instead of a grid of 20 (ours).

    The first value wins ties, and the default over others.

    Args:
        samples: What to fit and choose on.
        name: Of the setting that is chosen last.
        values: Its default, then the others to try.
        fit: From both values to a head, the setting that is chosen first before the other.
        first: Name and values of the setting that is chosen first.

    Raises:
        DataError: If there is no validation sample.
    """
    default, *others = values
    coarse = try_one(samples, first[0], first[1], lambda value: fit(value, default))
    value = float(coarse.record[first[0]])
    best, kept, second = float(coarse.record["macro_f1"]), coarse.head, default
    for other in others:
        head = fit(value, other)
        score = macro_f1(samples.y_val, head.logits(samples.x_val).argmax(axis=1), samples.n_classes)
        if score > best:
            best, kept, second = score, head, other
    n_trials = len(first[1]) + len(others)
    return Chosen(kept, {first[0]: value, name: second, "macro_f1": best, "n_trials": n_trials})
