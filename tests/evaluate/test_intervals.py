"""Bootstrap over test samples, t intervals over seeds, and what a choice on validation promises."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from deblora.data.longtail import Groups
from deblora.evaluate.intervals import (
    DIFFERENCES,
    ENOUGH_TO_CHOOSE,
    bootstrap_scores,
    choose,
    interval,
    left_out,
    single_sample_groups,
    spread,
    stratified_draws,
    without_interval,
)
from deblora.evaluate.metrics import group_scores, macro_f1, per_class_f1

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
    monkeypatch.setattr("deblora.evaluate.intervals._CELLS_PER_CHUNK", 600)
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
        assert single_sample_groups(np.array(n_test), GROUPS) == names
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


values_over_seeds = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_by_hand() -> None:
    found = spread(np.array([0.2, 0.3, 0.4]))
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(0.3), pytest.approx(0.1))
    half = (
        4.302652729911275 * 0.1 / math.sqrt(3)
    )  # t quantile of two degrees of freedom, from a printed table
    assert (found.ci_lower, found.ci_upper) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))


@given(values_over_seeds)
def test_interval_agrees_with_scipy(values: list[float]) -> None:
    found, x = spread(np.array(values)), np.array(values)
    half = scipy.stats.t.ppf(0.975, len(x) - 1) * scipy.stats.sem(x)
    assert found.ci_lower == pytest.approx(max(0, x.mean() - half), abs=1e-12)
    assert found.ci_upper == pytest.approx(min(1, x.mean() + half), abs=1e-12)


@given(values_over_seeds)
def test_no_interval_leaves_what_a_score_can_be(values: list[float]) -> None:
    found = spread(np.array(values))
    assert 0 <= found.ci_lower <= found.mean + 1e-12 and found.mean - 1e-12 <= found.ci_upper <= 1
    found = spread(np.array([0.8, -0.6]), within=DIFFERENCES)
    assert (found.ci_lower, found.ci_upper) == (-1.0, 1.0)  # two seeds at the ends: nothing is known


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_seeds_have_no_spread(n: int) -> None:
    found = spread(np.full(n, 0.4))
    assert found.n == n
    assert found.mean == 0.4 if n else math.isnan(found.mean)
    assert all(math.isnan(x) for x in (found.sd, found.ci_lower, found.ci_upper))


def test_empty_groups_are_left_out() -> None:
    found = spread(np.array([0.2, math.nan, 0.4]))
    assert (found.n, found.mean) == (2, pytest.approx(0.3))


def test_equal_values_give_an_interval_without_width() -> None:
    found = spread(np.full(4, 0.25))
    assert (found.mean, found.sd, found.ci_lower, found.ci_upper) == (0.25, 0.0, 0.25, 0.25)


def test_more_seeds_narrow_the_interval() -> None:
    widths = []
    for n in (2, 4, 8, 16):
        found = spread(np.tile([0.4, 0.6], n // 2))
        widths.append(found.ci_upper - found.ci_lower)
    assert all(wide > narrow for wide, narrow in pairwise(widths))


def guesses(rng: np.random.Generator, y: np.ndarray, right: float) -> np.ndarray:
    return np.where(rng.random(len(y)) < right, y, rng.integers(0, y.max() + 1, len(y)))


FIVE = Groups((0, 1), (2,), (3, 4))


def test_the_best_is_chosen_and_its_gain_is_that_of_new_samples(rng: np.random.Generator) -> None:
    y = np.repeat(np.arange(5), 200)
    predicted = {"plain": guesses(rng, y, 0.5), "good": guesses(rng, y, 0.7), "bad": guesses(rng, y, 0.3)}
    choice = choose(predicted, y, FIVE, floor="plain", reference="plain", rng=rng)
    assert choice.name == choice.best == "good" and choice.sure > 0.99 and choice.n_fewest == 200
    assert choice.scores["good"] == macro_f1(y, predicted["good"], 5)
    for gain in choice.gains.values():
        assert 0.05 < gain.ci_lower < gain.value < gain.ci_upper < 0.35


def test_among_many_equal_candidates_the_floor_is_kept_and_no_gain_promised(rng: np.random.Generator) -> None:
    y = np.repeat(np.arange(4), 20)
    groups = Groups((0, 1), (), (2, 3))
    flattered, stated, kept = [], [], 0
    for _ in range(40):
        predicted = {i: guesses(rng, y, 0.5) for i in range(20)}
        choice = choose(predicted, y, groups, floor=0, reference=0, rng=rng, n_draws=100)
        flattered.append(choice.scores[choice.best] - choice.scores[0])
        stated.append(choice.gains["all"].value)
        kept += choice.name == 0
    assert np.mean(flattered) > 0.08  # what the validation scores themselves would promise
    assert abs(np.mean(stated)) < 0.35 * np.mean(flattered)
    assert kept >= 30


@pytest.mark.parametrize("n_rare", [1, 9])
def test_with_few_samples_of_a_class_nothing_but_the_floor_is_chosen(
    rng: np.random.Generator, n_rare: int
) -> None:
    y = np.repeat(np.arange(5), [100, 100, 100, 100, n_rare])
    predicted = {"floor": guesses(rng, y, 0.3), "right": y}
    choice = choose(predicted, y, FIVE, floor="floor", reference="floor", rng=rng, n_draws=50)
    assert choice.name == "floor" and choice.best == "right" and choice.n_fewest == n_rare
    assert choice.gains["all"].value == 0.0
    more = np.concatenate([y, np.full(ENOUGH_TO_CHOOSE - n_rare, 4)])
    predicted = {"floor": guesses(rng, more, 0.3), "right": more}
    assert (
        choose(predicted, more, FIVE, floor="floor", reference="floor", rng=rng, n_draws=50).name == "right"
    )


def test_the_first_candidate_wins_ties_and_a_tie_does_not_beat_the_floor(rng: np.random.Generator) -> None:
    y = np.arange(3).repeat(12)
    groups = Groups((0,), (1,), (2,))
    choice = choose({"a": y, "b": y}, y, groups, floor="b", reference="b", rng=rng, n_draws=50)
    assert choice.best == "a" and choice.name == "b" and choice.gains["all"].value == 0.0


def test_left_out_is_the_complement() -> None:
    draws = np.array([[0, 0, 2], [1, 1, 1]])
    assert left_out(draws, 3).tolist() == [[-1, 1, -1], [0, -1, 2]]


def test_an_unknown_reference_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        guess = {"a": np.zeros(2, dtype=int)}
        choose(guess, np.zeros(2, dtype=int), Groups((0,), (), (1,)), floor="a", reference="b", rng=rng)
