"""Choices on validation: the best one, ties, and the order in which two settings are tried."""

from collections.abc import Iterator

import numpy as np
import pytest

from deblora.errors import DataError
from deblora.evaluate.classifiers.search import COARSE_PENALTIES, Samples, select, try_two


class Fixed:
    """A classifier that always answers the same."""

    def __init__(self, pred: list[int], n_classes: int = 2) -> None:
        self.answer = np.eye(n_classes)[pred]

    def logits(self, x: np.ndarray) -> np.ndarray:
        return self.answer[: len(x)]


def test_selection_keeps_the_best_and_counts_trials() -> None:
    x, y = np.zeros((4, 1)), np.array([0, 0, 1, 1])
    candidates = [({"l2": 1.0}, Fixed([0, 0, 0, 0])), ({"l2": 2.0}, Fixed([0, 0, 1, 1]))]
    chosen = select(candidates, x, y)
    assert chosen.classifier is candidates[1][1]
    assert chosen.record == {"l2": 2.0, "macro_f1": 1.0, "n_trials": 2}


def test_ties_go_to_the_first_and_a_generator_is_enough() -> None:
    def trials() -> Iterator[tuple[dict[str, str], Fixed]]:
        for name in ("a", "b"):
            yield {"name": name}, Fixed([0, 1])

    record = select(trials(), np.zeros((2, 1)), np.array([0, 1])).record
    assert record["name"] == "a"
    assert record["n_trials"] == 2


def test_selection_refuses_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        select([], np.zeros((1, 1)), np.array([0]))
    with pytest.raises(DataError, match="validation set is empty"):
        select([({}, Fixed([0]))], np.zeros((0, 1)), np.array([], dtype=int))


def hits(samples: Samples, n: int) -> Fixed:
    """Predicts the true classes of the first ``n`` validation samples."""
    right = np.where(np.arange(len(samples.y_val)) < n, samples.y_val, 0)
    return Fixed(right.tolist(), samples.n_classes)


def test_the_second_setting_is_tried_at_the_best_first_one(samples: Samples) -> None:
    tried = []

    def fit(first: float, second: float) -> Fixed:
        tried.append((first, second))
        return hits(samples, int(20 * (first == 1e-2) + 10 * second))

    chosen = try_two(samples, "tau", (1.0, 0.5, 2.0), fit)
    assert tried == [*((l2, 1.0) for l2 in COARSE_PENALTIES), (1e-2, 0.5), (1e-2, 2.0)]
    assert (chosen.record["l2"], chosen.record["tau"], chosen.record["n_trials"]) == (1e-2, 2.0, 6)


def test_ties_keep_the_larger_penalty_and_the_default(samples: Samples) -> None:
    chosen = try_two(samples, "tau", (1.0, 0.5), lambda *_: hits(samples, 10))
    assert (chosen.record["l2"], chosen.record["tau"]) == (max(COARSE_PENALTIES), 1.0)
