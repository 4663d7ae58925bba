import logging

import numpy as np
import pytest
from scipy.special import log_softmax

from deblora.errors import DataError
from deblora.evaluate.metrics import macro_f1
from deblora.evaluate.probe import (
    L2_GRID,
    Loss,
    adjust_logits,
    fit_probe,
    log_prior,
    select_probe,
    select_tau,
)


def blobs(rng: np.random.Generator, counts: tuple[int, ...], size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    centers = np.random.default_rng(7).normal(size=(len(counts), size))
    y = np.repeat(np.arange(len(counts)), counts)
    return (centers[y] + rng.normal(size=(len(y), size))).astype(np.float32), y


def test_features_are_centered_and_scaled_to_mean_squared_norm_50(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (30, 20, 10))
    probe = fit_probe(x, y, 3, loss="cross_entropy", l2=0.1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    standardized = probe.scale * (unit - probe.mean)
    np.testing.assert_allclose(standardized.mean(axis=0), 0, atol=1e-5)
    assert np.mean(np.sum(standardized**2, axis=1)) == pytest.approx(50, rel=1e-5)
    np.testing.assert_allclose(probe.logits(x), standardized @ probe.weights + probe.bias, atol=1e-5)


def test_normalized_probe_ignores_the_length_of_a_feature(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (30, 20, 10))
    stretch = rng.uniform(0.5, 3.0, size=(len(x), 1))
    probe = fit_probe(x, y, 3, loss="cross_entropy", l2=0.1)
    np.testing.assert_allclose(probe.logits(x * stretch), probe.logits(x), atol=1e-5)
    plain = fit_probe(x, y, 3, loss="cross_entropy", l2=0.1, l2_normalize=False)
    assert np.abs(plain.logits(x * stretch) - plain.logits(x)).max() > 0.1


def test_statistics_come_from_the_uncalibrated_features(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (30, 20, 10))
    own = fit_probe(x, y, 3, loss="cross_entropy", l2=0.1)
    moved = fit_probe(x + 1.0, y, 3, loss="cross_entropy", l2=0.1, statistics_of=x)
    np.testing.assert_array_equal(moved.mean, own.mean)
    assert moved.scale == own.scale


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced_softmax"])
def test_fit_is_a_stationary_point_of_the_stated_loss(rng: np.random.Generator, loss: str) -> None:
    x, y = blobs(rng, (40, 15, 5))
    l2 = 0.03
    probe = fit_probe(x, y, 3, loss=loss, l2=l2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    inputs = probe.scale * (unit.astype(np.float64) - probe.mean)
    offset = np.log(np.array([40, 15, 5]) / 60) if loss == "balanced_softmax" else np.zeros(3)

    def value(weights: np.ndarray, bias: np.ndarray) -> float:
        scores = log_softmax(inputs @ weights + bias + offset, axis=1)
        return -scores[np.arange(len(y)), y].mean() + l2 / 2 * np.sum(weights**2)

    best = value(probe.weights, probe.bias)
    for _ in range(20):
        step_w, step_b = rng.normal(size=probe.weights.shape), rng.normal(size=3)
        for sign in (-1e-2, 1e-2):
            assert value(probe.weights + sign * step_w, probe.bias + sign * step_b) > best - 1e-9
        slope = (
            value(probe.weights + 1e-4 * step_w, probe.bias + 1e-4 * step_b)
            - value(probe.weights - 1e-4 * step_w, probe.bias - 1e-4 * step_b)
        ) / 2e-4
        assert abs(slope) < 1e-4


def test_balanced_softmax_is_cross_entropy_when_classes_are_balanced(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (20, 20, 20))
    plain = fit_probe(x, y, 3, loss="cross_entropy", l2=0.01).logits(x)
    balanced = fit_probe(x, y, 3, loss="balanced_softmax", l2=0.01).logits(x)
    np.testing.assert_allclose(balanced, plain, atol=1e-3)


def test_prior_in_the_loss_moves_only_the_bias_of_a_pure_bias_model(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (60, 30, 10))
    huge = 1e6
    plain = fit_probe(x, y, 3, loss="cross_entropy", l2=huge)
    balanced = fit_probe(x, y, 3, loss="balanced_softmax", l2=huge)
    np.testing.assert_allclose(plain.bias - plain.bias.mean(), (p := log_prior(y, 3)) - p.mean(), atol=1e-3)
    np.testing.assert_allclose(balanced.bias - balanced.bias.mean(), 0, atol=1e-3)


def test_balanced_softmax_lifts_the_rare_class(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (300, 60, 6))
    x_test, y_test = blobs(rng, (200, 200, 200))
    recall = {}
    for loss in ("cross_entropy", "balanced_softmax"):
        pred = fit_probe(x, y, 3, loss=loss, l2=0.1).logits(x_test).argmax(axis=1)
        recall[loss] = (pred[y_test == 2] == 2).mean()
    assert recall["balanced_softmax"] > recall["cross_entropy"] + 0.1


def test_warm_start_reaches_the_same_optimum(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (30, 20, 10))
    start = fit_probe(x, y, 3, loss="balanced_softmax", l2=1.0)
    cold = fit_probe(x, y, 3, loss="balanced_softmax", l2=0.05)
    warm = fit_probe(x, y, 3, loss="balanced_softmax", l2=0.05, start=start)
    np.testing.assert_allclose(warm.logits(x), cold.logits(x), atol=2e-3)


def test_too_few_iterations_are_logged(rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    x, y = blobs(rng, (30, 20, 10))
    with caplog.at_level(logging.DEBUG, logger="deblora.evaluate.softmax"):
        fit_probe(x, y, 3, loss="cross_entropy", l2=1e-4, max_iter=2)
    assert "l2=0.0001" in caplog.text


def test_selection_keeps_the_best_validation_score(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (60, 20, 8))
    x_val, y_val = blobs(rng, (30, 30, 30))
    probe, record = select_probe(x, y, x_val, y_val, 3, loss="cross_entropy")
    per_point = {l2: record[f"macro_f1_at_{l2:g}"] for l2 in L2_GRID}
    assert record["macro_f1"] == max(per_point.values())
    assert record["l2"] == max(l2 for l2, score in per_point.items() if score == record["macro_f1"])
    assert macro_f1(y_val, probe.logits(x_val).argmax(axis=1), 3) == record["macro_f1"]


def test_ties_go_to_the_larger_penalty(rng: np.random.Generator) -> None:
    y = np.repeat([0, 1, 2], 10)
    x = np.eye(3)[y] + 0.01 * rng.normal(size=(30, 3))
    _, record = select_probe(x, y, x, y, 3, loss="cross_entropy", l2_grid=(0.001, 0.1, 0.01))
    assert record["macro_f1"] == 1.0
    assert record["l2"] == 0.1


def test_default_grid_has_half_decades() -> None:
    np.testing.assert_allclose(np.log10(L2_GRID), np.arange(-4.0, 1.0), atol=1e-12)


def test_tau_undoes_a_known_prior_and_ties_go_to_the_smaller() -> None:
    prior = np.log([0.9, 0.1])
    y = np.array([0, 1])
    fair = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert select_tau(fair + prior, y, prior, grid=(0.0, 1.0, 3.0)) == 1.0
    assert select_tau(10 * fair, y, prior, grid=(1.0, 0.0)) == 0.0
    np.testing.assert_allclose(adjust_logits(fair + 2 * prior, prior, 2.0), fair)


def test_class_without_training_sample(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (20, 10))
    with pytest.raises(ValueError, match=r"classes \[2\]"):
        fit_probe(x, y, 3, loss="balanced_softmax", l2=0.1)
    plain = fit_probe(x, y, 3, loss="cross_entropy", l2=0.1)
    assert (plain.logits(x).argmax(axis=1) != 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2 must be positive, got 0.0"),
        ({"loss": "focal"}, "'focal'"),
        ({"statistics_of": np.ones((4, 2)) * np.arange(4)[:, None]}, "size 2"),
        ({"n_classes": 2}, "label 2"),
    ],
)
def test_wrong_arguments_are_refused(
    rng: np.random.Generator, change: dict[str, object], message: str
) -> None:
    x, y = blobs(rng, (5, 5, 5))
    arguments = {"n_classes": 3, "loss": "cross_entropy", "l2": 0.1, "l2_normalize": False, **change}
    with pytest.raises(ValueError, match=message):
        fit_probe(x, y, **arguments)


def test_wrong_shapes_are_refused(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (5, 5, 5))
    start = fit_probe(x[:, :3], y, 3, loss="cross_entropy", l2=0.1)
    with pytest.raises(ValueError, match=r"\(4, 3\), expected \(7, 3\)"):
        fit_probe(x, y, 3, loss="cross_entropy", l2=0.1, start=start)
    with pytest.raises(ValueError, match="14 labels"):
        fit_probe(x, y[:14], 3, loss="cross_entropy", l2=0.1)
    with pytest.raises(ValueError, match=r"\(0, 6\)"):
        fit_probe(x, y, 3, loss="cross_entropy", l2=0.1, statistics_of=x[:0])
    with pytest.raises(DataError, match="not finite"):
        fit_probe(x, y, 3, loss="cross_entropy", l2=0.1, statistics_of=np.full_like(x, np.inf))


def test_empty_grids_are_refused(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (5, 5, 5))
    with pytest.raises(ValueError, match="l2_grid is empty"):
        select_probe(x, y, x, y, 3, loss="cross_entropy", l2_grid=())
    with pytest.raises(ValueError, match="got 0 and 15"):
        select_tau(np.zeros((15, 3)), y, np.zeros(3), grid=())


def test_unusable_features_are_data_errors(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (5, 5, 5))
    with pytest.raises(DataError, match="the same"):
        fit_probe(np.full_like(x, 0.3), y, 3, loss="cross_entropy", l2=0.1)
    x[3, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit_probe(x, y, 3, loss="cross_entropy", l2=0.1)
    with pytest.raises(DataError, match="validation set is empty"):
        select_probe(x[:3], y[:3], x[:0], y[:0], 3, loss="cross_entropy")


def test_probe_refuses_features_of_another_size(rng: np.random.Generator) -> None:
    x, y = blobs(rng, (5, 5, 5))
    probe = fit_probe(x, y, 3, loss="cross_entropy", l2=0.1)
    with pytest.raises(ValueError, match="size 6"):
        probe.logits(x[:, :4])


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced_softmax"])
def test_searching_among_the_rows_finds_the_same_probe(loss: Loss) -> None:
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1, 2], [12, 6, 3])
    x = np.eye(3, 60)[y] + 0.3 * rng.standard_normal((21, 60))
    found, record = select_probe(x, y, x, y, 3, loss=loss, l2_grid=(0.1,))
    direct = fit_probe(x, y, 3, loss=loss, l2=0.1)
    assert record["l2"] == 0.1
    np.testing.assert_allclose(found.weights, direct.weights, atol=1e-4)
    np.testing.assert_allclose(found.logits(x), direct.logits(x), atol=1e-3)
