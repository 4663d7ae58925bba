"""Cross-validated balanced softmax: folds, temperature, calibration, and the penalty it takes."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import f1_score

from deblora.errors import DataError
from deblora.evaluate.classifiers.cross_validation import (
    ALWAYS_TRAINS,
    PENALTIES,
    class_balanced_brier,
    class_balanced_loss,
    draw_folds,
    expected_calibration_error,
    fit_cross_validated,
    fit_temperature,
)
from deblora.evaluate.classifiers.linear import fit_linear, log_prior


def gaussians(
    rng: np.random.Generator, counts: list[int], *, d: int = 60, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    means = rng.standard_normal((len(counts), d)) * spread
    y = np.repeat(np.arange(len(counts)), counts)
    return means[y] + rng.standard_normal((len(y), d)), y, means


def test_every_class_is_spread_evenly_over_folds(rng: np.random.Generator) -> None:
    y = np.repeat(np.arange(4), [50, 11, 3, 2])
    fold = draw_folds(y, n_folds=5, rng=rng)
    for c, n in enumerate([50, 11, 3, 2]):
        held = np.bincount(fold[y == c], minlength=5)
        assert held.sum() == n and held.max() - held.min() <= 1


def test_a_class_of_one_sample_always_trains(rng: np.random.Generator) -> None:
    y = np.array([0] * 10 + [1])
    fold = draw_folds(y, n_folds=5, rng=rng)
    assert fold[-1] == ALWAYS_TRAINS and (fold[:-1] >= 0).all()


def test_units_are_never_parted_and_no_fold_takes_a_whole_class(rng: np.random.Generator) -> None:
    for _ in range(30):
        units = [f"u{n}" for n in rng.integers(8, size=60)]
        y = rng.integers(4, size=60)
        fold = draw_folds(y, n_folds=3, rng=rng, units=units)
        for unit in set(units):
            own = fold[[u == unit for u in units]]
            assert len(set(own[own != ALWAYS_TRAINS].tolist())) <= 1
        for number in set(fold.tolist()) - {ALWAYS_TRAINS}:
            assert set(y[fold != number].tolist()) == set(y.tolist())


def test_without_two_samples_of_a_class_nothing_can_be_judged(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="label some more"):
        draw_folds(np.arange(3), n_folds=5, rng=rng)
    with pytest.raises(ValueError, match="two folds"):
        draw_folds(np.zeros(4, dtype=int), n_folds=1, rng=rng)


def test_the_loss_counts_every_class_alike(rng: np.random.Generator) -> None:
    logits, y = rng.standard_normal((100, 3)), np.array([0] * 90 + [1] * 10)
    losses = -log_softmax(logits, axis=1)[np.arange(100), y]
    assert class_balanced_loss(logits, y) == pytest.approx((losses[:90].mean() + losses[90:].mean()) / 2)


def test_the_brier_score_counts_every_class_alike(rng: np.random.Generator) -> None:
    logits, y = rng.standard_normal((50, 2)), np.zeros(50, dtype=int)
    p = np.exp(log_softmax(logits, axis=1))
    assert class_balanced_brier(logits, y) == pytest.approx(2 * ((p[:, 1]) ** 2).mean())
    both = np.concatenate([y, [1]])
    last = np.array([[-50.0, 50.0]])
    assert class_balanced_brier(np.vstack([logits, last]), both) == pytest.approx((p[:, 1] ** 2).mean())


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(rng: np.random.Generator, true: float) -> None:
    logits = 3 * rng.standard_normal((20_000, 4))
    p = np.exp(log_softmax(logits / true, axis=1))
    y = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1).clip(max=3)
    temperature = fit_temperature(logits, y)
    assert temperature == pytest.approx(true, rel=0.05)
    assert class_balanced_loss(logits / temperature, y) <= class_balanced_loss(logits / true, y)
    after = expected_calibration_error(logits / temperature, y)
    assert after < 0.02
    if true != 1.0:
        assert expected_calibration_error(logits, y) > 2 * after


def test_a_sure_and_right_classifier_has_no_calibration_error() -> None:
    y = np.array([0, 1, 2])
    assert expected_calibration_error(1000 * np.eye(3), y) == pytest.approx(0.0)
    assert expected_calibration_error(1000 * np.eye(3), (y + 1) % 3) == pytest.approx(1.0)


def test_the_classifier_is_balanced_softmax_at_the_chosen_penalty(rng: np.random.Generator) -> None:
    x, y, _ = gaussians(rng, [60, 20, 4])
    found = fit_cross_validated(x, y, 3, rng=rng)
    assert found.l2 in PENALTIES
    direct = fit_linear(x, y, 3, l2=found.l2).adjusted(log_prior(y, 3))
    np.testing.assert_allclose(found.classifier.logits(x), direct.logits(x), rtol=1e-6, atol=1e-6)
    held = np.isfinite(found.held_out).all(axis=1)
    assert held.all()
    assert class_balanced_brier(found.held_out / found.temperature, y) == pytest.approx(found.score)


def test_its_penalty_is_near_the_best_one_on_new_samples(rng: np.random.Generator) -> None:
    """No more than two points of macro F1 below the penalty that the test itself would take, on average."""
    lost = []
    for spread in (0.3, 0.5, 1.0):
        x, y, means = gaussians(rng, [120, 50, 20, 8, 3], spread=spread)
        y_new = np.repeat(np.arange(5), 200)
        x_new = means[y_new] + rng.standard_normal((len(y_new), x.shape[1]))

        def score(l2: float) -> float:
            logits = fit_linear(x, y, 5, l2=l2).adjusted(log_prior(y, 5)).logits(x_new)  # noqa: B023
            return float(f1_score(y_new, logits.argmax(axis=1), average="macro"))  # noqa: B023

        chosen = fit_cross_validated(x, y, 5, rng=rng).l2
        lost.append(max(map(score, PENALTIES)) - score(chosen))
    assert np.mean(lost) < 0.02


def test_it_is_the_same_for_the_same_folds_and_refuses_a_class_without_samples() -> None:
    x, y, _ = gaussians(np.random.default_rng(1), [30, 6])
    first, second = (fit_cross_validated(x, y, 2, rng=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.held_out, second.held_out)
    with pytest.raises(DataError, match="no training sample"):
        fit_cross_validated(x, y, 3, rng=np.random.default_rng(3))
