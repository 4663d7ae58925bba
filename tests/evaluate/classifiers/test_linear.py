"""The linear classifier: the stated loss, its forms by bias, lengths and weights, and the minimizer."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Standardizer
from deblora.evaluate.classifiers.linear import (
    Linear,
    LinearFits,
    effective_number_weights,
    fit_linear,
    inverse_frequency_weights,
    inverse_log_prior,
    lbfgs,
    log_prior,
    sade_prior,
    weighted_cross_entropy,
)

Blobs = tuple[np.ndarray, np.ndarray]
COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=8).map(np.array)


def draw(rng: np.random.Generator, counts: tuple[int, ...], size: int = 6) -> Blobs:
    centers = np.random.default_rng(7).normal(size=(len(counts), size))
    y = np.repeat(np.arange(len(counts)), counts)
    return (centers[y] + rng.normal(size=(len(y), size))).astype(np.float32), y


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits, axis=1))


@pytest.mark.parametrize("shift", [False, True])
def test_fit_is_a_stationary_point_of_the_stated_loss(rng: np.random.Generator, shift: bool) -> None:
    """With the prior, of the loss of balanced softmax: its offset is in the loss and not in the logits."""
    x, y = draw(rng, (40, 15, 5))
    l2, prior = 0.03, np.log(np.array([40, 15, 5]) / 60)
    plain = fit_linear(x, y, 3, l2=l2)
    fitted, offset = (plain.adjusted(log_prior(y, 3)), prior) if shift else (plain, np.zeros(3))
    inputs = fitted.standardizer(x)

    def value(weights: np.ndarray, bias: np.ndarray) -> float:
        scores = log_softmax(inputs @ weights + bias + offset, axis=1)
        return -scores[np.arange(len(y)), y].mean() + l2 / 2 * np.sum(weights**2)

    best = value(fitted.weights, fitted.bias)
    for _ in range(20):
        step_w, step_b = rng.normal(size=fitted.weights.shape), rng.normal(size=3)
        for sign in (-1e-2, 1e-2):
            assert value(fitted.weights + sign * step_w, fitted.bias + sign * step_b) > best - 1e-9
        slope = (
            value(fitted.weights + 1e-4 * step_w, fitted.bias + 1e-4 * step_b)
            - value(fitted.weights - 1e-4 * step_w, fitted.bias - 1e-4 * step_b)
        ) / 2e-4
        assert abs(slope) < 1e-4


def test_a_huge_penalty_leaves_the_prior_alone(rng: np.random.Generator) -> None:
    x, y = draw(rng, (60, 30, 10))
    plain, prior = fit_linear(x, y, 3, l2=1e6), log_prior(y, 3)
    np.testing.assert_allclose(plain.bias - plain.bias.mean(), prior - prior.mean(), atol=1e-3)
    balanced = plain.adjusted(prior).bias
    np.testing.assert_allclose(balanced - balanced.mean(), 0, atol=1e-3)


def test_balanced_softmax_lifts_the_rare_class(rng: np.random.Generator) -> None:
    x, y = draw(rng, (300, 60, 6))
    x_test, y_test = draw(rng, (200, 200, 200))
    plain = fit_linear(x, y, 3, l2=0.1)
    recall = [
        (fitted.logits(x_test).argmax(axis=1)[y_test == 2] == 2).mean()
        for fitted in (plain, plain.adjusted(log_prior(y, 3)))
    ]
    assert recall[1] > recall[0] + 0.1


def test_adjustment_changes_the_bias_only(blobs: Blobs) -> None:
    x, y = blobs
    plain, prior = fit_linear(x, y, 4, l2=0.03), log_prior(y, 4)
    for tau in (0.0, 1.0, 2.5):
        fitted = plain.adjusted(prior, tau)
        np.testing.assert_allclose(fitted.logits(x), plain.logits(x) - tau * prior, atol=1e-12)
        np.testing.assert_array_equal(fitted.weights, plain.weights)


def test_moved_features_keep_the_statistics_of_the_others(rng: np.random.Generator) -> None:
    x, y = draw(rng, (30, 20, 10))
    own = Standardizer.fit(x)
    assert fit_linear(x + 1.0, y, 3, l2=0.1, standardizer=own).standardizer is own


def test_a_warm_start_reaches_the_same_optimum_and_fits_once(rng: np.random.Generator) -> None:
    x, y = draw(rng, (30, 20, 10))
    fit = LinearFits.of(x, y, 3).warm()
    first = fit(1.0)
    np.testing.assert_allclose(fit(0.05).logits(x), fit_linear(x, y, 3, l2=0.05).logits(x), atol=2e-3)
    assert fit(1.0) is first


def test_too_few_iterations_are_logged(rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    fits = LinearFits.of(*draw(rng, (30, 20, 10)), 3)
    with caplog.at_level(logging.DEBUG, logger="deblora.evaluate.classifiers.linear"):
        fits.fit(1e-4, max_iter=2)
    assert "l2=0.0001" in caplog.text
    assert "before it converged" in caplog.text


@pytest.mark.parametrize(("counts", "size", "l2"), [((50, 40, 20, 10), 7, 1e-3), ((2, 1, 1, 1), 7, 0.01)])
def test_the_gradient_vanishes_at_the_fit_from_any_start(
    counts: tuple[int, ...], size: int, l2: float, rng: np.random.Generator
) -> None:
    """More samples than dimensions and fewer, and a curvature that differs by a million between directions."""
    x, y = draw(rng, counts, size)
    x = x * np.geomspace(0.01, 10, size)
    as_given = Standardizer(np.zeros(size), np.ones(size), (), 1.0)
    per_class = rng.uniform(0.5, 2, size=4)
    fits = LinearFits.of(x, y, 4, class_weights=per_class, standardizer=as_given)
    weights = per_class[y] / per_class[y].sum()
    starts = [None, Linear(as_given, rng.normal(size=(size, 4)), rng.normal(size=4))]
    found = [fits.fit(l2, start=start, tolerance=1e-15) for start in starts]
    for fitted in found:
        _, residual = weighted_cross_entropy(fitted.logits(x), y, weights)
        np.testing.assert_allclose(x.T @ residual + l2 * fitted.weights, 0, atol=1e-4)
        np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-5)
    scores = [fitted.logits(x) - fitted.bias.mean() for fitted in found]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.05)


def test_a_flat_start_does_not_stop_the_curvature(rng: np.random.Generator) -> None:
    """At this start all probabilities are 0 or 1 and the loss has no curvature of its own."""
    x, y = draw(rng, (10, 10, 10, 10), 3)
    fits = LinearFits.of(x, y, 4)
    start = Linear(fits.standardizer, 1e4 * rng.normal(size=(3, 4)), 1e4 * rng.normal(size=4))
    np.testing.assert_allclose(fits.fit(0.1, start=start).weights, fits.fit(0.1).weights, atol=1e-3)


def test_wrong_arguments_are_refused(rng: np.random.Generator) -> None:
    x, y = draw(rng, (5, 5, 5))
    start = fit_linear(x[:, :3], y, 3, l2=0.1)
    with pytest.raises(ValueError, match=r"\(3, 3\), expected \(6, 3\)"):
        LinearFits.of(x, y, 3).fit(0.1, start=start)
    for l2 in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match=f"l2 must be positive, got {l2}"):
            fit_linear(x, y, 3, l2=l2)
    for weights in (np.ones(2), np.array([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match="class_weights must be 3 positive"):
            fit_linear(x, y, 3, l2=0.1, class_weights=weights)
    with pytest.raises(DataError, match="class 3 has no training sample"):
        fit_linear(x, y, 4, l2=0.1)
    with pytest.raises(ValueError, match=r"classes \[3\] have no training sample"):
        log_prior(y, 4)


# Class weights.


@pytest.mark.parametrize("l2", [1e-2, 0.3])
def test_inverse_frequency_is_sklearns_balanced_regression(
    blobs: Blobs, standardized: np.ndarray, l2: float
) -> None:
    x, y = blobs
    fitted = fit_linear(x, y, 4, l2=l2, class_weights=inverse_frequency_weights(np.bincount(y)))
    reference = LogisticRegression(C=1 / (len(y) * l2), class_weight="balanced", tol=1e-9, max_iter=20_000)
    reference.fit(standardized, y)
    np.testing.assert_allclose(fitted.weights, reference.coef_.T, atol=2e-3)
    np.testing.assert_allclose(
        probabilities(fitted.logits(x)), reference.predict_proba(standardized), atol=1e-4
    )


def test_inverse_frequency_is_the_limit_of_class_balanced_sampling(blobs: Blobs) -> None:
    """Repeating samples until all classes are equally large is class-balanced sampling without chance (cRT)."""
    x, y = blobs
    repeats = np.array([2, 4, 8, 15])[y]
    repeated = fit_linear(
        np.repeat(x, repeats, axis=0),
        np.repeat(y, repeats),
        4,
        l2=0.05,
        standardizer=Standardizer.fit(x),
    )
    crt = fit_linear(x, y, 4, l2=0.05, class_weights=inverse_frequency_weights(np.bincount(y)))
    np.testing.assert_allclose(crt.logits(x), repeated.logits(x), atol=2e-2)


def test_a_weight_of_two_counts_as_two_samples_and_the_scale_of_weights_does_not_matter(blobs: Blobs) -> None:
    x, y = blobs
    own = Standardizer.fit(x)
    twice = np.concatenate([np.arange(len(y)), np.flatnonzero(y == 2)])
    expected = fit_linear(x[twice], y[twice], 4, l2=0.1, standardizer=own).logits(x)
    for scale in (1.0, 7.0):
        weights = scale * np.array([1.0, 1.0, 2.0, 1.0])
        found = fit_linear(x, y, 4, l2=0.1, class_weights=weights).logits(x)
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_weights_by_hand() -> None:
    np.testing.assert_allclose(inverse_frequency_weights(np.array([1, 3])), [1.5, 0.5])
    # (1 - .5) / (1 - .5^n) for n = 1, 2 is 1 and 2/3.
    np.testing.assert_allclose(effective_number_weights(np.array([1, 2]), beta=0.5), [1.2, 0.8])
    np.testing.assert_array_equal(effective_number_weights(np.array([1, 90]), beta=0.0), [1.0, 1.0])


@given(COUNTS, st.sampled_from([0.0, 0.5, 0.99, 0.9999, 1 - 1e-12]))
def test_weights_have_mean_one_and_fall_with_the_count(counts: np.ndarray, beta: float) -> None:
    for weights in (inverse_frequency_weights(counts), effective_number_weights(counts, beta=beta)):
        assert weights.mean() == pytest.approx(1.0)
        order = np.argsort(counts, kind="stable")
        assert (np.diff(weights[order]) <= 1e-12).all()


@given(COUNTS)
def test_effective_number_tends_to_inverse_frequency(counts: np.ndarray) -> None:
    near_one = effective_number_weights(counts, beta=1 - 1e-10)
    np.testing.assert_allclose(near_one, inverse_frequency_weights(counts), rtol=1e-5)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\)"):
        effective_number_weights(np.array([3, 4]), beta=beta)


def test_counts_below_one_are_refused() -> None:
    for weights in (inverse_frequency_weights, effective_number_weights):
        with pytest.raises(ValueError, match="at least 1"):
            weights(np.array([3, 0]))


# Lengths of weights.


def test_lengths_are_raised_to_one_minus_tau(blobs: Blobs) -> None:
    plain = fit_linear(*blobs, 4, l2=0.05)
    lengths = np.linalg.norm(plain.weights, axis=0)
    for tau in (0.0, 0.3, 1.0):
        normalized = plain.tau_normalized(tau)
        np.testing.assert_allclose(np.linalg.norm(normalized.weights, axis=0), lengths ** (1 - tau))
        np.testing.assert_allclose(normalized.weights * lengths**tau, plain.weights, atol=1e-12)
        assert not normalized.bias.any()


def test_normalized_lengths_favor_the_rare_class(blobs: Blobs) -> None:
    plain = fit_linear(*blobs, 4, l2=0.3)
    before, after = (
        (f.logits(blobs[0]).argmax(axis=1) == 3).sum() for f in (plain, plain.tau_normalized(1.0))
    )
    assert after > before


def test_a_zero_vector_stays_zero(blobs: Blobs) -> None:
    plain = fit_linear(*blobs, 4, l2=0.05)
    plain.weights[:, 2] = 0.0
    assert np.isfinite(plain.tau_normalized(1.0).logits(blobs[0])).all()


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_tau_out_of_range(blobs: Blobs, tau: float) -> None:
    with pytest.raises(ValueError, match="tau must not be negative"):
        fit_linear(*blobs, 4, l2=0.05).tau_normalized(tau)
    with pytest.raises(ValueError, match="tau must not be negative"):
        sade_prior(blobs[1], 4, tau=tau)


# SADE.


def test_reversed_prior_by_hand() -> None:
    y = np.repeat([0, 1, 2], [1, 6, 3])
    np.testing.assert_allclose(np.exp(inverse_log_prior(y, 3)), [0.6, 0.1, 0.3])


def test_tied_classes_share_their_reversed_prior() -> None:
    y = np.repeat([0, 1, 2, 3], [2, 2, 10, 6])
    np.testing.assert_allclose(np.exp(inverse_log_prior(y, 4)), [0.4, 0.4, 0.1, 0.1])
    balanced = np.repeat([0, 1, 2], 5)
    np.testing.assert_allclose(inverse_log_prior(balanced, 3), log_prior(balanced, 3))
    with pytest.raises(ValueError, match=r"classes \[1\]"):
        inverse_log_prior(np.array([0, 2]), 3)


@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_sade_is_the_mean_of_three_experts_with_their_offsets(blobs: Blobs, tau: float) -> None:
    x, y = blobs
    counts = np.array([60, 30, 15, 8])
    prior, inverse = np.log(counts / 113), np.log(counts[::-1] / 113)
    plain = fit_linear(x, y, 4, l2=0.05)
    inputs, equal = plain.standardizer(x), np.full(len(y), 1 / len(y))
    logits = []
    for offset in (np.zeros(4), prior, prior - tau * inverse):
        expert = plain.adjusted(offset)
        _, residual = weighted_cross_entropy(expert.logits(x) + offset, y, equal)
        np.testing.assert_allclose(inputs.T @ residual + 0.05 * expert.weights, 0, atol=1e-5)
        logits.append(expert.logits(x))
    found = plain.adjusted(sade_prior(y, 4, tau=tau)).logits(x)
    np.testing.assert_allclose(found, np.mean(logits, axis=0), atol=1e-10)


# The minimizer.


def test_value_and_gradient_of_weighted_cross_entropy(rng: np.random.Generator) -> None:
    y, weights = np.array([0, 2, 1, 1, 2]), rng.uniform(0.1, 2.0, size=5)
    scores = rng.normal(size=(5, 3)) * 5
    value, _ = weighted_cross_entropy(scores, y, weights)
    expected = -sum(w * log_softmax(s)[c] for w, s, c in zip(weights, scores, y, strict=True))
    assert value == pytest.approx(expected)
    error = check_grad(
        lambda flat: weighted_cross_entropy(flat.reshape(5, 3), y, weights)[0],
        lambda flat: weighted_cross_entropy(flat.reshape(5, 3), y, weights)[1].ravel(),
        scores.ravel(),
    )
    assert error < 1e-5


def test_lbfgs_finds_the_minimum_of_a_parabola() -> None:
    target, stretch = np.array([1.0, -2.0, 3.0]), np.array([1.0, 50.0, 400.0])

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        return float(stretch @ (point - target) ** 2), 2 * stretch * (point - target)

    np.testing.assert_allclose(lbfgs(objective, np.zeros(3), max_iter=100), target, atol=1e-4)


def test_a_large_fit_is_nearly_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from deblora.evaluate.classifiers import linear

    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), rng.integers(4, 60, 20))
    x = rng.normal(size=(20, 24))[y] * 0.6 + rng.normal(size=(len(y), 24))
    exact = {l2: linear.fit_linear(x, y, 20, l2=l2) for l2 in (1e-1, 1e-2, 1e-3)}
    monkeypatch.setattr(linear, "LARGE", 1)
    for l2, other in exact.items():
        found = linear.fit_linear(x, y, 20, l2=l2)
        assert np.abs(softmax(found.logits(x), axis=1) - softmax(other.logits(x), axis=1)).max() < 0.02
        assert (found.logits(x).argmax(axis=1) == other.logits(x).argmax(axis=1)).mean() > 0.995
