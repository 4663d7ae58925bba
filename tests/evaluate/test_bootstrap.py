import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.evaluate.bootstrap import (
    bootstrap_scores,
    interval,
    judged_by_one,
    stratified_draws,
    without_interval,
)
from deblora.evaluate.metrics import group_scores, per_class_f1

GROUPS = Groups(head=(0,), middle=(1,), tail=(2, 3))


def predictions(rng: np.random.Generator, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    y = rng.permutation(np.repeat([0, 1, 2, 3], [40, 25, 12, 5]))
    return y, np.where(rng.random(len(y)) < accuracy, y, rng.integers(4, size=len(y)))


def test_every_draw_keeps_the_class_counts_and_resamples(rng: np.random.Generator) -> None:
    y, _ = predictions(rng, 0.7)
    draws = stratified_draws(y, n_draws=200, rng=rng)
    assert draws.shape == (200, len(y))
    for row in draws:
        np.testing.assert_array_equal(np.bincount(y[row]), [40, 25, 12, 5])
    frequency = np.bincount(draws.ravel(), minlength=len(y)) / 200
    np.testing.assert_allclose(frequency, 1.0, atol=0.4)
    assert len(np.unique(draws[0])) < len(y)


def test_draws_repeat_with_the_seed() -> None:
    y = np.repeat([0, 1], 10)
    first, second = (stratified_draws(y, n_draws=5, rng=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_vectorized_scores_equal_one_draw_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deblora.evaluate.bootstrap._CELLS_PER_CHUNK", 600)
    y, pred = predictions(rng, 0.6)
    draws = stratified_draws(y, n_draws=30, rng=rng)
    draws[rng.random(draws.shape) < 0.2] = -1
    scores = bootstrap_scores(y, pred, 4, GROUPS, draws)
    for i, row in enumerate(draws):
        kept = row[row >= 0]
        expected = group_scores(per_class_f1(y[kept], pred[kept], 4), GROUPS)
        np.testing.assert_allclose([scores[name][i] for name in expected], list(expected.values()))


def test_perfect_predictions_have_no_width(rng: np.random.Generator) -> None:
    y, _ = predictions(rng, 1.0)
    scores = bootstrap_scores(y, y, 4, GROUPS, stratified_draws(y, n_draws=50, rng=rng))
    assert {name: interval(values) for name, values in scores.items()} == dict.fromkeys(scores, (1.0, 1.0))


def test_a_group_with_a_class_of_one_sample_has_no_interval(rng: np.random.Generator) -> None:
    for n_test, names in {
        (40, 25, 12, 5): (),
        (40, 25, 12, 0): (),
        (40, 25, 12, 1): ("tail", "all"),
        (1, 25, 1, 1): ("head", "tail", "all"),
    }.items():
        assert judged_by_one(np.array(n_test), GROUPS) == names
    y = np.repeat([0, 1, 2, 3], [40, 25, 12, 1])
    draws = stratified_draws(y, n_draws=50, rng=rng)
    scores = bootstrap_scores(y, np.where(rng.random(len(y)) < 0.7, y, 0), 4, GROUPS, draws)
    ends = {name: interval(own) for name, own in without_interval(scores, ("tail", "all")).items()}
    assert {name for name, own in ends.items() if np.isnan(own).all()} == {"tail", "all"}
    assert ends["head"] == interval(scores["head"])


def test_the_same_draws_narrow_the_interval_of_a_difference(rng: np.random.Generator) -> None:
    y, a = predictions(rng, 0.6)
    b = a.copy()
    b[np.flatnonzero(a != y)[:6]] = y[np.flatnonzero(a != y)[:6]]
    draws, other = (stratified_draws(y, n_draws=500, rng=rng) for _ in range(2))
    score_a = bootstrap_scores(y, a, 4, GROUPS, draws)["all"]
    lower, upper = interval(bootstrap_scores(y, b, 4, GROUPS, draws)["all"] - score_a)
    lower_2, upper_2 = interval(bootstrap_scores(y, b, 4, GROUPS, other)["all"] - score_a)
    assert upper - lower < upper_2 - lower_2


def test_interval_holds_the_middle_95_percent() -> None:
    values = np.append(np.arange(1001.0), np.nan)
    assert interval(values) == pytest.approx((25.0, 975.0))
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_wrong_arguments_are_refused(rng: np.random.Generator) -> None:
    y = np.array([0, 1, 1])
    with pytest.raises(ValueError, match="got 0 and 3"):
        stratified_draws(y, n_draws=0, rng=rng)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        bootstrap_scores(y, y, 2, Groups((), (), ()), np.array([[0, 3]]))
    with pytest.raises(ValueError, match="pred has 2"):
        bootstrap_scores(y, y[:2], 2, Groups((), (), ()), np.array([[0, 1]]))
