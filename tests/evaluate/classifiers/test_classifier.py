"""What all classifiers share: standardized features, checks of training samples, one message for bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Classifier, Standardizer, checked_counts
from deblora.evaluate.classifiers.cosine import (
    fit_ldam_drw,
    fit_lift,
    fit_nearest_mean_cosine,
    fit_nearest_mean_euclidean,
)
from deblora.evaluate.classifiers.distribution import distribution_fits
from deblora.evaluate.classifiers.linear import fit_linear
from deblora.evaluate.classifiers.reslt import fit_reslt

Blobs = tuple[np.ndarray, np.ndarray]


def distribution(x: np.ndarray, y: np.ndarray, n_classes: int, *, l2: float) -> Classifier:
    return distribution_fits(x, y, n_classes, rng=np.random.default_rng(0)).fit(l2)


def reslt(x: np.ndarray, y: np.ndarray, n_classes: int, *, l2: float) -> Classifier:
    groups = Groups((0,), tuple(range(1, n_classes - 1)), (n_classes - 1,))
    return fit_reslt(x, y, n_classes, groups=groups, l2=l2)


FITS: list[tuple[Callable[..., Classifier], dict[str, Any]]] = [
    (fit_linear, {"l2": 0.01}),
    (distribution, {"l2": 0.01}),
    (reslt, {"l2": 0.01}),
    (fit_ldam_drw, {"scale": 30.0}),
    (fit_lift, {"scale": 25.0}),
    (fit_nearest_mean_cosine, {}),
    (fit_nearest_mean_euclidean, {}),
]
every_fit = pytest.mark.parametrize(("fit", "settings"), FITS)


def test_features_are_centered_and_scaled_to_mean_squared_norm_50(
    blobs: Blobs, standardized: np.ndarray, rng: np.random.Generator
) -> None:
    x, _ = blobs
    own = Standardizer.fit(x)
    z = own(x)
    np.testing.assert_allclose(z, standardized, atol=1e-10)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-10)
    assert np.mean(np.sum(z**2, axis=1)) == pytest.approx(50)
    stretch = rng.uniform(0.5, 3.0, size=(len(x), 1))
    np.testing.assert_allclose(own(x * stretch), z, atol=1e-10)


def test_without_parts_lengths_stay(blobs: Blobs) -> None:
    x, _ = blobs
    z = Standardizer.fit(x, ())(x)
    np.testing.assert_allclose(z, (x - x.mean(axis=0)) * z[0, 0] / (x - x.mean(axis=0))[0, 0])
    assert np.mean(np.sum(z**2, axis=1)) == pytest.approx(50)


def test_parts_weigh_the_same(blobs: Blobs) -> None:
    x, _ = blobs
    wide = np.hstack([x, 100 * x[:, :5]])
    z = Standardizer.fit(wide, (10, 5))(wide)
    np.testing.assert_allclose(z[:, :10], Standardizer.fit(x)(x))
    np.testing.assert_allclose(z[:, 10:], Standardizer.fit(x[:, :5])(x[:, :5]))
    with pytest.raises(ValueError, match="do not add up to 15 columns"):
        Standardizer.fit(wide, (10, 4))
    with pytest.raises(ValueError, match="fitted on size 15"):
        Standardizer.fit(wide, (10, 5))(x)


def test_statistics_need_features() -> None:
    with pytest.raises(ValueError, match=r"\(0, 6\)"):
        Standardizer.fit(np.zeros((0, 6)))
    with pytest.raises(DataError, match="not finite"):
        Standardizer.fit(np.full((3, 6), np.inf))


@every_fit
def test_every_classifier_separates_classes_that_are_apart(
    fit: Callable[..., Classifier], settings: dict[str, Any], rng: np.random.Generator
) -> None:
    y = np.repeat([0, 1, 2], [40, 20, 6])
    x = (5 * np.eye(3, 8)[y] + rng.normal(scale=0.3, size=(66, 8))).astype(np.float32)
    head = fit(x, y, 3, **settings)
    assert isinstance(head, Classifier)
    assert head.logits(x).shape == (66, 3)
    assert (head.logits(x).argmax(axis=1) == y).all()
    assert head.logits(x[:0]).shape == (0, 3)
    np.testing.assert_array_equal(head.logits(x), fit(x, y, 3, **settings).logits(x))


@every_fit
def test_bad_input_is_refused_with_one_message(
    fit: Callable[..., Classifier], settings: dict[str, Any], blobs: Blobs
) -> None:
    x, y = blobs
    with pytest.raises(ValueError, match="labels"):
        fit(x, y[:-1], 4, **settings)
    with pytest.raises(ValueError, match="label 3"):
        fit(x, y, 3, **settings)
    with pytest.raises(DataError, match="not finite"):
        fit(np.where(np.arange(10) == 3, np.nan, x), y, 4, **settings)
    with pytest.raises(DataError, match="the same"):
        fit(np.ones_like(x), y, 4, **settings)
    with pytest.raises(DataError, match="class 4 has no training sample"):
        fit(x, y, 5, **settings)
    with pytest.raises(ValueError, match="fitted on size 10"):
        fit(x, y, 4, **settings).logits(x[:, :5])
    for name in settings:
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            fit(x, y, 4, **{name: 0.0})


def test_counts_of_checked_labels(blobs: Blobs) -> None:
    assert checked_counts(*blobs, 4).tolist() == [60, 30, 15, 8]
