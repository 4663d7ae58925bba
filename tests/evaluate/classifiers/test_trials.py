"""Every classifier gets the same number of trials, chosen on validation; the family of the prior is exact."""

from dataclasses import replace

import numpy as np
import pytest

from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import fit_linear, log_prior
from deblora.evaluate.classifiers.names import CLASSIFIERS, FLOOR
from deblora.evaluate.classifiers.search import COARSE_PENALTIES, Samples
from deblora.evaluate.classifiers.trials import N_TRIALS, PENALTIES, fit_classifiers
from deblora.evaluate.metrics import macro_f1

WITHOUT_TRIALS = ("nearest_mean_cosine", "nearest_mean_euclidean", FLOOR)


def test_every_classifier_has_the_same_number_of_trials(samples: Samples) -> None:
    found = dict(fit_classifiers(samples, CLASSIFIERS))
    assert tuple(found) == CLASSIFIERS and len(found) == 14
    for name, chosen in found.items():
        assert chosen.record["n_trials"] == (1 if name in WITHOUT_TRIALS else N_TRIALS), name
        predicted = chosen.classifier.logits(samples.x_val).argmax(axis=1)
        assert chosen.record["macro_f1"] == pytest.approx(
            macro_f1(samples.y_val, predicted, samples.n_classes)
        )


def test_the_shared_fit_is_the_classifier_fitted_alone(samples: Samples) -> None:
    found = dict(fit_classifiers(samples, ["balanced_softmax", "tau_norm"]))
    plain = {
        name: fit_linear(samples.x, samples.y, samples.n_classes, l2=float(chosen.record["l2"]))
        for name, chosen in found.items()
    }
    alone = {
        "balanced_softmax": plain["balanced_softmax"].adjusted(log_prior(samples.y, samples.n_classes)),
        "tau_norm": plain["tau_norm"].tau_normalized(float(found["tau_norm"].record["tau"])),
    }
    for name, chosen in found.items():
        expected = alone[name].logits(samples.x_val)
        difference = chosen.classifier.logits(samples.x_val) - expected
        assert np.abs(difference).max() < 1e-3 * np.ptp(expected)


def test_only_what_is_named_is_fitted(samples: Samples) -> None:
    moved = replace(samples, x=0.5 * samples.x + 0.5 * samples.x.mean(axis=0))
    names = ("logit_adjustment", "cross_entropy", "sgd_probe")
    found = dict(fit_classifiers(moved, names))
    assert tuple(found) == names
    assert found["sgd_probe"].record["n_trials"] == 30
    with pytest.raises(KeyError, match="unknown"):
        list(fit_classifiers(samples, ["unknown"]))


def test_moved_features_are_standardized_as_they_were_before(samples: Samples) -> None:
    moved = replace(samples, x=0.5 * samples.x + 0.5 * samples.x.mean(axis=0))
    for name in ("cross_entropy", "crt"):
        standardizer = dict(fit_classifiers(moved, [name]))[name].classifier.standardizer
        expected = Standardizer.fit(samples.x)
        np.testing.assert_array_equal(standardizer.mean, expected.mean)
        np.testing.assert_array_equal(standardizer.scale, expected.scale)


def test_without_validation_nothing_is_chosen(samples: Samples) -> None:
    empty = replace(samples, x_val=samples.x_val[:0], y_val=samples.y_val[:0])
    with pytest.raises(DataError, match="validation set is empty"):
        list(fit_classifiers(empty, CLASSIFIERS))


def test_penalties_fall_so_that_the_larger_one_wins_ties() -> None:
    for penalties in (PENALTIES, COARSE_PENALTIES):
        assert list(penalties) == sorted(penalties, reverse=True)
