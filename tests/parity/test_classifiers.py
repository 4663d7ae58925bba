import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, f1_score

from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import fit_linear
from deblora.evaluate.metrics import confusion, macro_f1, per_class_f1


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("l2", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("sizes", [None, ()])
def test_the_linear_classifier_is_logistic_regression(
    rng: np.random.Generator, n_classes: int, l2: float, sizes: tuple[int, ...] | None
) -> None:
    y = np.repeat(np.arange(n_classes), [60, 30, 15, 8][:n_classes])
    x = rng.normal(size=(n_classes, 10))[y] + rng.normal(size=(len(y), 10))
    fitted = fit_linear(x, y, n_classes, l2=l2, standardizer=Standardizer.fit(x, sizes))
    standardized = fitted.standardizer(x)
    # With two classes scikit-learn penalizes one weight vector, the difference of the two.
    strength = len(y) * l2 * (0.5 if n_classes == 2 else 1)
    reference = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=20_000).fit(standardized, y)
    logits = fitted.logits(x)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = reference.predict_proba(standardized)
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), expected, atol=1e-4)
    if n_classes > 2:
        np.testing.assert_allclose(fitted.weights, reference.coef_.T, atol=2e-3)


@pytest.mark.parametrize("accuracy", [0.1, 0.6, 1.0])
def test_f1_and_confusion_are_those_of_sklearn(rng: np.random.Generator, accuracy: float) -> None:
    y = np.repeat(np.arange(5), [60, 30, 15, 8, 2])
    pred = np.where(rng.random(len(y)) < accuracy, y, rng.integers(5, size=len(y)))
    np.testing.assert_allclose(per_class_f1(y, pred, 5), f1_score(y, pred, average=None, zero_division=0))
    assert macro_f1(y, pred, 5) == pytest.approx(f1_score(y, pred, average="macro", zero_division=0))
    np.testing.assert_array_equal(confusion(y, pred, 5), confusion_matrix(y, pred))
