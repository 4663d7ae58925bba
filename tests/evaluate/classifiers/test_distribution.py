import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import tukey
from deblora.evaluate.classifiers.distribution import SPREAD, Calibration, distribution_fits
from deblora.evaluate.classifiers.linear import LinearFits, fit_linear


def test_tukey_by_hand() -> None:
    np.testing.assert_allclose(tukey(np.array([[4.0, 0.0, -9.0]]), 0.5), [[2.0, 0.0, -3.0]])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6, unique=True), st.floats(0.2, 1.0))
def test_tukey_keeps_signs_and_order(values: list[float], power: float) -> None:
    x = np.array([sorted(values)])
    z = tukey(x, power)
    np.testing.assert_array_equal(np.sign(z), np.sign(x))
    assert (np.diff(z) >= 0).all()
    np.testing.assert_array_equal(tukey(x, 1.0), x)


def test_statistics_equal_those_by_brute_force(rng: np.random.Generator) -> None:
    base_y = np.repeat([0, 1, 2], [5, 9, 4])
    base = rng.normal(size=(3, 4))[base_y] * 3 + rng.normal(size=(18, 4))
    samples = rng.normal(size=(6, 4))
    found = Calibration.of(samples, base, base_y)
    means = [base[base_y == b].mean(axis=0) for b in range(3)]
    for i, sample in enumerate(samples):
        nearest = sorted(range(3), key=lambda b: float(np.linalg.norm(sample - means[b])))[:2]
        assert found.nearest[i].tolist() == nearest
        np.testing.assert_allclose(found.means[i], (means[nearest[0]] + means[nearest[1]] + sample) / 3)
    covariances = [np.cov(base[base_y == b].T) for b in range(3)]
    assert found.variance == pytest.approx(np.mean([np.trace(c) / 4 for c in covariances]))


def test_draws_have_the_calibrated_mean_and_covariance(rng: np.random.Generator) -> None:
    sizes, size = (12, 5), 3
    classes = [rng.normal(size=(n, size)) @ np.diag([1.0, 2.0, 0.5]) for n in sizes]
    centered = tuple(members - members.mean(axis=0) for members in classes)
    calibration = Calibration(np.array([[1.0, -2.0, 3.0]]), np.array([[1, 0]]), 0.7, centered)
    drawn = calibration.draw(0, 200_000, rng)
    expected = np.mean([np.cov(members.T) for members in classes], axis=0) + SPREAD * 0.7 * np.eye(size)
    np.testing.assert_allclose(drawn.mean(axis=0), calibration.means[0], atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.06)


def test_one_frequent_class_is_the_only_neighbor(rng: np.random.Generator) -> None:
    found = Calibration.of(rng.normal(size=(3, 2)), rng.normal(size=(4, 2)), np.zeros(4, dtype=int))
    assert found.nearest.tolist() == [[0]] * 3


def test_without_rare_classes_it_is_the_probe_on_transformed_features(rng: np.random.Generator) -> None:
    y = np.repeat([0, 1, 2], 10)
    x = rng.uniform(size=(30, 5)) + np.eye(3, 5)[y]
    head = distribution_fits(x, y, 3, rng=rng).fit(0.05)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = fit_linear(np.sqrt(unit), y, 3, l2=0.05)
    np.testing.assert_allclose(head.logits(x), expected.logits(np.sqrt(x)), atol=1e-8)


def test_rare_classes_are_filled_to_the_largest(
    blobs: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, np.ndarray] = {}

    class Recorded(LinearFits):
        @classmethod
        def of(cls, x: np.ndarray, y: np.ndarray, n_classes: int, **settings: object) -> LinearFits:
            seen.update(x=x, y=y)
            return LinearFits.of(x, y, n_classes, **settings)

    monkeypatch.setattr("deblora.evaluate.classifiers.distribution.LinearFits", Recorded)
    x, y = blobs
    fits = distribution_fits(x, y, 4, rng=np.random.default_rng(0))
    assert np.bincount(seen["y"]).tolist() == [60, 30, 60, 60]
    own = tukey(x / np.linalg.norm(x, axis=1, keepdims=True), 0.5)
    np.testing.assert_allclose(seen["x"][:113], own)
    np.testing.assert_allclose(
        fits.standardizer.mean, (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
    )


def test_equal_generators_give_equal_heads(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    first, second, other = (
        distribution_fits(*blobs, 4, rng=np.random.default_rng(seed)).fit(0.05).logits(blobs[0])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0


def test_it_lifts_the_rare_class(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = blobs
    plain = fit_linear(x, y, 4, l2=0.3).logits(x).argmax(axis=1)
    head = distribution_fits(x, y, 4, rng=np.random.default_rng(0)).fit(0.3)
    assert (head.logits(x).argmax(axis=1) == 3).sum() > (plain == 3).sum()


def test_what_cannot_be_calibrated_is_refused(
    blobs: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> None:
    with pytest.raises(ValueError, match="power must be positive"):
        distribution_fits(*blobs, 4, rng=rng, power=0.0)
    with pytest.raises(DataError, match="leave distribution_calibration out"):
        distribution_fits(rng.normal(size=(3, 5)), np.arange(3), 3, rng=rng)
