import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, f1_score

from deblora.evaluate.metrics import confusion, macro_f1, per_class_f1
from deblora.evaluate.probe import fit_probe


@pytest.mark.parametrize("l2", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("l2_normalize", [True, False])
def test_probe_without_prior_is_logistic_regression(
    rng: np.random.Generator, l2: float, l2_normalize: bool
) -> None:
    y = np.repeat(np.arange(4), [60, 30, 15, 8])
    x = rng.normal(size=(4, 10))[y] + rng.normal(size=(len(y), 10))
    probe = fit_probe(x, y, 4, loss="cross_entropy", l2=l2, l2_normalize=l2_normalize)
    prepared = x / np.linalg.norm(x, axis=1, keepdims=True) if l2_normalize else x
    standardized = probe.scale * (prepared - prepared.mean(axis=0))
    reference = LogisticRegression(C=1 / (len(y) * l2), tol=1e-9, max_iter=20_000).fit(standardized, y)
    expected = reference.predict_proba(standardized)
    logits = probe.logits(x)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), expected, atol=1e-4)
    np.testing.assert_allclose(probe.weights, reference.coef_.T, atol=2e-3)


@pytest.mark.parametrize("accuracy", [0.1, 0.6, 1.0])
def test_f1_and_confusion_are_those_of_sklearn(rng: np.random.Generator, accuracy: float) -> None:
    y = np.repeat(np.arange(5), [60, 30, 15, 8, 2])
    pred = np.where(rng.random(len(y)) < accuracy, y, rng.integers(5, size=len(y)))
    np.testing.assert_allclose(per_class_f1(y, pred, 5), f1_score(y, pred, average=None, zero_division=0))
    assert macro_f1(y, pred, 5) == pytest.approx(f1_score(y, pred, average="macro", zero_division=0))
    np.testing.assert_array_equal(confusion(y, pred, 5), confusion_matrix(y, pred))
