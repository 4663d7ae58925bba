"""What all heads share: the protocol, the standardization of features, checks, selection on validation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import counted
from deblora.errors import DataError
from deblora.evaluate.metrics import check_labels, macro_f1
from deblora.evaluate.probe import feature_statistics, standardize

Setting = float | int | str


@runtime_checkable
class Head(Protocol):
    """A fitted classifier on features. The class with the largest logit is the prediction."""

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return one logit per sample and class."""
        ...


AnyHead = TypeVar("AnyHead", bound=Head)


@dataclass(frozen=True)
class Standardizer:
    """``z = scale (x / ||x|| - mean)`` with mean squared norm 50, as in :mod:`deblora.evaluate.probe`."""

    mean: Float[np.ndarray, " d"]
    scale: float

    @classmethod
    def fit(cls, x: Float[np.ndarray, "n d"]) -> "Standardizer":
        """Take mean and scale from training features.

        Raises:
            DataError: If features are not finite or are all the same.
            ValueError: If there is no feature.
        """
        return cls(*feature_statistics(x, True))

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return standardized features in float64.

        Raises:
            ValueError: If the feature size is not the one of the fit.
        """
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"features have shape {x.shape}, the head was fitted on size {len(self.mean)}")
        return standardize(x, self.mean, self.scale, True)


def checked_counts(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, " c"]:
    """Return the samples per class, all at least 1, after checking features and labels.

    Raises:
        DataError: If a class has no sample or a feature is not finite.
        ValueError: If shapes or labels do not fit.
    """
    check_labels(y, n_classes, name="y")
    if x.ndim != 2 or len(x) != len(y) or not len(y):
        raise ValueError(f"x has shape {x.shape}, y has {len(y)} labels")
    if not np.isfinite(x).all():
        raise DataError("the training features hold values that are not finite; extract them again")
    return counted(x, y, n_classes)


def select(
    candidates: Iterable[tuple[Mapping[str, Setting], AnyHead]],
    x_val: Float[np.ndarray, "v d"],
    y_val: Int[np.ndarray, " v"],
) -> tuple[AnyHead, dict[str, Setting]]:
    """Keep the head with the best validation macro F1; the first one wins ties.

    Args:
        candidates: Settings and fitted head of each trial; may be a generator, so that one head at a time is
            in memory.
        x_val: Validation features; never the ones a result is reported on.
        y_val: Their classes.

    Returns:
        The head, and its settings with ``macro_f1`` (in [0, 1]) and ``n_trials`` added.

    Raises:
        DataError: If there is no validation sample.
        ValueError: If there is no candidate or a label is out of range.
    """
    if not len(y_val):
        raise DataError("the validation set is empty, so no head can be chosen; give it at least one chip")
    best: tuple[float, AnyHead, Mapping[str, Setting]] | None = None
    n_trials = 0
    for settings, head in candidates:
        logits = head.logits(x_val)
        score = macro_f1(y_val, logits.argmax(axis=1), logits.shape[1])
        if best is None or score > best[0]:
            best = (score, head, settings)
        n_trials += 1
    if best is None:
        raise ValueError("there is no candidate to choose from")
    return best[1], {**best[2], "macro_f1": best[0], "n_trials": n_trials}
