import logging

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.special import log_softmax

from deblora.evaluate.softmax import fit_cross_entropy, lbfgs, weighted_cross_entropy


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


def test_lbfgs_finds_the_minimum_of_a_parabola_and_logs_a_short_budget(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target, stretch = np.array([1.0, -2.0, 3.0]), np.array([1.0, 50.0, 400.0])

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        return float(stretch @ (point - target) ** 2), 2 * stretch * (point - target)

    np.testing.assert_allclose(lbfgs(objective, np.zeros(3), max_iter=100), target, atol=1e-4)
    with caplog.at_level(logging.DEBUG, logger="deblora.evaluate.softmax"):
        lbfgs(objective, np.zeros(3), max_iter=1)
    assert "before it converged" in caplog.text


@pytest.mark.parametrize(("n", "l2"), [(120, 1e-3), (5, 0.01)])  # more samples than dimensions, and fewer
def test_the_gradient_vanishes_at_the_fit_from_any_start(n: int, l2: float, rng: np.random.Generator) -> None:
    # Scales from 0.01 to 10 per dimension: the curvature differs by a million between directions.
    z = rng.normal(size=(n, 7)) * np.geomspace(0.01, 10, 7)
    y, weights, offset = np.arange(n) % 4, rng.uniform(0.5, 2, size=n), rng.normal(size=4)
    weights /= weights.sum()
    fits = [
        fit_cross_entropy(z, y, weights, offset, l2, start, max_iter=2000, tolerance=1e-15)
        for start in (np.zeros((8, 4)), rng.normal(size=(8, 4)))
    ]
    for fitted in fits:
        _, residual = weighted_cross_entropy(z @ fitted[:-1] + fitted[-1] + offset, y, weights)
        np.testing.assert_allclose(z.T @ residual + l2 * fitted[:-1], 0, atol=5e-5)
        np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-5)
    scores = [z @ fitted[:-1] + fitted[-1] - fitted[-1].mean() for fitted in fits]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)


def test_a_flat_start_does_not_stop_the_curvature(rng: np.random.Generator) -> None:
    # At this start all probabilities are 0 or 1 and the loss has no curvature of its own.
    z, y = rng.normal(size=(30, 3)), rng.integers(3, size=30)
    start = 1e4 * rng.normal(size=(4, 3))
    fitted = fit_cross_entropy(z, y, np.full(30, 1 / 30), np.zeros(3), 0.1, start, max_iter=2000)
    plain = fit_cross_entropy(z, y, np.full(30, 1 / 30), np.zeros(3), 0.1, np.zeros((4, 3)), max_iter=2000)
    np.testing.assert_allclose(fitted[:-1], plain[:-1], atol=1e-3)
