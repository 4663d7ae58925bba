"""Choosing the settings of a classifier on validation, one setting or two, with the same number of trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Classifier
from deblora.evaluate.classifiers.linear import log_prior
from deblora.evaluate.metrics import macro_f1

COARSE_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Of classifiers with two settings, tried first, with the second setting at its default (ours)."""

Setting = float | int | str
Pair = Callable[[float, float], Classifier]


@dataclass(frozen=True)
class Samples:
    """Features on which classifiers are fitted and chosen; the test set is no part of it.

    Attributes:
        x: Training features.
        y: Their classes.
        x_val: Validation features; never the ones a result is reported on.
        y_val: Their classes.
        n_classes: Number of classes.
        groups: Head, middle and tail, which ResLT needs.
        statistics_of: Features whose mean and scatter standardize all others: ``x`` before it was moved.
        seed: Of classifiers that draw.
        units: Scene, image or flight of each training sample, never parted by a fold; empty if unknown.
    """

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]
    x_val: Float[np.ndarray, "v d"]
    y_val: Int[np.ndarray, " v"]
    n_classes: int
    groups: Groups
    statistics_of: Float[np.ndarray, "n d"]
    seed: int
    units: tuple[str, ...] = ()

    @cached_property
    def prior(self) -> Float[np.ndarray, " c"]:
        """Log class frequencies of the training set."""
        return log_prior(self.y, self.n_classes)


@dataclass(frozen=True)
class Chosen:
    """The classifier that validation chose, and its settings with ``macro_f1`` on validation and ``n_trials``."""

    classifier: Classifier
    record: Mapping[str, Setting]


def select(
    candidates: Iterable[tuple[Mapping[str, Setting], Classifier]],
    x_val: Float[np.ndarray, "v d"],
    y_val: Int[np.ndarray, " v"],
) -> Chosen:
    """Keep the classifier with the best validation macro F1; the first one wins ties.

    Args:
        candidates: Settings and fitted classifier of each trial; may be a generator, so that one at a time is in
            memory.
        x_val: Validation features.
        y_val: Their classes.

    Returns:
        The classifier, and its settings with ``macro_f1`` (in [0, 1]) and ``n_trials`` added.

    Raises:
        DataError: If there is no validation sample.
        ValueError: If there is no candidate or a label is out of range.
    """
    if not len(y_val):
        raise DataError(
            "the validation set is empty, so no classifier can be chosen; give it at least one chip"
        )
    best: tuple[float, Classifier, Mapping[str, Setting]] | None = None
    n_trials = 0
    for settings, classifier in candidates:
        logits = classifier.logits(x_val)
        score = macro_f1(y_val, logits.argmax(axis=1), logits.shape[1])
        if best is None or score > best[0]:
            best = (score, classifier, settings)
        n_trials += 1
    if best is None:
        raise ValueError("there is no candidate to choose from")
    return Chosen(best[1], {**best[2], "macro_f1": best[0], "n_trials": n_trials})


def try_one(
    samples: Samples, name: str, values: Sequence[float], fit: Callable[[float], Classifier]
) -> Chosen:
    """Try every value of one setting; the first one wins ties.

    Args:
        samples: What to fit and choose on.
        name: Of the setting, for the record.
        values: To try.
        fit: From a value to a classifier.

    Raises:
        DataError: If there is no validation sample.
    """
    return select((({name: value}, fit(value)) for value in values), samples.x_val, samples.y_val)


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
        fit: From both values to a classifier, the setting that is chosen first before the other.
        first: Name and values of the setting that is chosen first.

    Raises:
        DataError: If there is no validation sample.
    """
    default, *others = values
    coarse = try_one(samples, first[0], first[1], lambda value: fit(value, default))
    value = float(coarse.record[first[0]])
    candidates = [(default, coarse.classifier), *((other, fit(value, other)) for other in others)]
    fine = select(
        (({first[0]: value, name: own}, classifier) for own, classifier in candidates),
        samples.x_val,
        samples.y_val,
    )
    return Chosen(fine.classifier, {**fine.record, "n_trials": len(first[1]) + len(others)})
