"""Every head gets the same number of trials, chosen on validation; the family of the prior is exact."""

from dataclasses import replace

import numpy as np
import pytest

from deblora.errors import DataError
from deblora.evaluate.heads import fit_balanced_softmax
from deblora.evaluate.heads.search import COARSE_PENALTIES, Samples, try_two
from deblora.evaluate.heads.trials import CLASSIFIERS, N_TRIALS, PENALTIES, fit_classifiers
from deblora.evaluate.metrics import macro_f1

WITHOUT_SETTINGS = ("nearest_mean_cosine", "nearest_mean_euclidean")


def test_every_head_has_the_same_number_of_trials(samples: Samples) -> None:
    found = dict(fit_classifiers(samples, CLASSIFIERS))
    assert tuple(found) == CLASSIFIERS and len(found) == 13
    for name, chosen in found.items():
        assert chosen.record["n_trials"] == (1 if name in WITHOUT_SETTINGS else N_TRIALS), name
        predicted = chosen.head.logits(samples.x_val).argmax(axis=1)
        assert chosen.record["macro_f1"] == pytest.approx(
            macro_f1(samples.y_val, predicted, samples.n_classes)
        )


def test_the_shared_fit_is_balanced_softmax(samples: Samples) -> None:
    chosen = dict(fit_classifiers(samples, ["balanced_softmax"]))["balanced_softmax"]
    own = fit_balanced_softmax(samples.x, samples.y, samples.n_classes, l2=float(chosen.record["l2"]))
    difference = chosen.head.logits(samples.x_val) - own.logits(samples.x_val)
    spread = np.ptp(own.logits(samples.x_val))
    # A constant added to all biases changes nothing.
    assert np.abs(difference - difference.mean()).max() < 1e-3 * spread


def test_only_what_is_named_is_fitted(samples: Samples) -> None:
    moved = replace(samples, x=0.5 * samples.x + 0.5 * samples.x.mean(axis=0))
    names = ("logit_adjustment", "cross_entropy", "sgd_probe")
    found = dict(fit_classifiers(moved, names))
    assert tuple(found) == names
    assert found["sgd_probe"].record["n_trials"] == 30
    with pytest.raises(KeyError, match="unknown"):
        list(fit_classifiers(samples, ["unknown"]))


def test_features_moved_out_of_the_span_are_refused(samples: Samples, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="span"):
        list(
            fit_classifiers(
                replace(samples, x=samples.x + rng.normal(size=samples.x.shape)), ["cross_entropy"]
            )
        )


def test_without_validation_nothing_is_chosen(samples: Samples) -> None:
    empty = replace(samples, x_val=samples.x_val[:0], y_val=samples.y_val[:0])
    with pytest.raises(DataError, match="validation set is empty"):
        list(fit_classifiers(empty, CLASSIFIERS))


class Fixed:
    """Predicts the true classes of the first ``n`` validation samples."""

    def __init__(self, samples: Samples, n: int) -> None:
        self.labels = np.where(np.arange(len(samples.y_val)) < n, samples.y_val, 0)
        self.n_classes = samples.n_classes

    def logits(self, x: np.ndarray) -> np.ndarray:
        return np.eye(self.n_classes)[self.labels]


def test_the_second_setting_is_tried_at_the_best_first_one(samples: Samples) -> None:
    tried = []

    def fit(first: float, second: float) -> Fixed:
        tried.append((first, second))
        return Fixed(samples, int(20 * (first == 1e-2) + 10 * second))

    chosen = try_two(samples, "tau", (1.0, 0.5, 2.0), fit)
    assert tried == [*((l2, 1.0) for l2 in COARSE_PENALTIES), (1e-2, 0.5), (1e-2, 2.0)]
    assert (chosen.record["l2"], chosen.record["tau"], chosen.record["n_trials"]) == (1e-2, 2.0, 6)


def test_ties_keep_the_larger_penalty_and_the_default(samples: Samples) -> None:
    chosen = try_two(samples, "tau", (1.0, 0.5), lambda *_: Fixed(samples, 10))
    assert (chosen.record["l2"], chosen.record["tau"]) == (max(COARSE_PENALTIES), 1.0)
    assert list(PENALTIES) == sorted(PENALTIES, reverse=True)
