import logging

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.special import log_softmax

from deblora.heads.softmax import fit_softmax, lbfgs, weighted_cross_entropy


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
    with caplog.at_level(logging.DEBUG, logger="deblora.heads.softmax"):
        lbfgs(objective, np.zeros(3), max_iter=1)
    assert "before it converged" in caplog.text


def test_offset_alone_is_learned_by_the_bias(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    y = blobs[1]
    offset = np.array([0.5, -1.0, 2.0, 0.0])
    weights, bias = fit_softmax(standardized, y, 4, l2=0.1)
    moved, moved_bias = fit_softmax(standardized, y, 4, l2=0.1, offset=offset)
    np.testing.assert_allclose(moved, weights, atol=2e-3)
    difference = moved_bias + offset - bias
    np.testing.assert_allclose(difference - difference.mean(), 0, atol=5e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": -1.0}, "l2 must be positive, got -1"),
        ({"l2": float("inf")}, "l2 must be positive, got inf"),
        ({"l2": 1.0, "class_weights": np.ones(3)}, "class_weights must be 2 positive"),
        ({"l2": 1.0, "class_weights": np.array([1.0, 0.0])}, "class_weights must be 2 positive"),
        ({"l2": 1.0, "offset": np.array([1.0, np.inf])}, "offset must be 2 finite"),
        ({"l2": 1.0, "offset": np.zeros(3)}, "offset must be 2 finite"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_softmax(np.eye(2), np.array([0, 1]), 2, **settings)
