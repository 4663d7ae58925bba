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
    Draws,
    bootstrap_f1,
    choose,
    group_estimates,
    left_out,
    single_unit_groups,
    spread,
    stratified_draws,
)
from deblora.evaluate.metrics import macro_f1, per_class_f1

GROUPS = Groups(head=(0,), middle=(1,), tail=(2, 3))


def predictions(rng: np.random.Generator, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    y = rng.permutation(np.repeat([0, 1, 2, 3], [40, 25, 12, 5]))
    return y, np.where(rng.random(len(y)) < accuracy, y, rng.integers(4, size=len(y)))


def test_a_draw_holds_one_sample_less_of_each_class_and_weighs_them_up(rng: np.random.Generator) -> None:
    y, _ = predictions(rng, 0.7)
    draws = stratified_draws(y, 4, n_draws=200, rng=rng)
    for row in draws.indices:
        np.testing.assert_array_equal(np.bincount(y[row]), [39, 24, 11, 4])
        np.testing.assert_allclose(np.bincount(y[row], draws.weights[row]), [40, 25, 12, 5])
    frequency = np.bincount(draws.indices.ravel(), minlength=len(y)) * draws.weights / 200
    np.testing.assert_allclose(frequency, 1.0, atol=0.5)
    np.testing.assert_array_equal(draws.n_units, [40, 25, 12, 5])


def test_units_are_drawn_whole_and_classes_that_share_one_together(rng: np.random.Generator) -> None:
    y = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    units = ["a", "a", "b", "c", "d", "d", "d", "e", "f", "f"]
    draws = stratified_draws(y, 4, units=units, n_draws=300, rng=rng)
    np.testing.assert_array_equal(draws.n_units, [2, 2, 3, 0])
    np.testing.assert_allclose(draws.weights, [2, 2, 2, *[4 / 3] * 7])
    members = {unit: [i for i, own in enumerate(units) if own == unit] for unit in units}
    for row in draws.indices:
        n = np.bincount(row[row >= 0], minlength=len(y))
        assert all(len(set(n[own])) == 1 for own in members.values())
        per_unit = {unit: n[own[0]] for unit, own in members.items()}
        assert per_unit["a"] + per_unit["b"] == 1
        assert sum(per_unit[unit] for unit in "cdef") == 3


def test_draws_repeat_with_the_seed() -> None:
    y = np.repeat([0, 1], 10)
    first, second = (stratified_draws(y, 2, n_draws=5, rng=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.indices, second.indices)


def test_vectorized_scores_equal_one_draw_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deblora.evaluate.intervals._CELLS_PER_CHUNK", 600)
    y, pred = predictions(rng, 0.6)
    indices = stratified_draws(y, 4, n_draws=30, rng=rng).indices
    indices[rng.random(indices.shape) < 0.2] = -1
    scores = bootstrap_f1(y, pred, Draws(indices, np.ones(len(y)), np.bincount(y)))
    for own, row in zip(scores, indices, strict=True):
        np.testing.assert_allclose(own, per_class_f1(y[row[row >= 0]], pred[row[row >= 0]], 4))


def estimates(y: np.ndarray, pred: np.ndarray, draws: Draws) -> dict[str, tuple[float, float]]:
    found = group_estimates(per_class_f1(y, pred, 4), bootstrap_f1(y, pred, draws), GROUPS, draws.n_units)
    assert all(np.isnan(own.standard_error) == np.isnan(own.ci_lower) for own in found.values())
    return {name: (own.ci_lower, own.ci_upper) for name, own in found.items()}


def test_where_nothing_varies_there_is_no_interval(rng: np.random.Generator) -> None:
    y, pred = predictions(rng, 0.7)
    draws = stratified_draws(y, 4, n_draws=50, rng=rng)
    assert np.isnan(list(estimates(y, y, draws).values())).all()
    same = bootstrap_f1(y, pred, draws)
    nothing = group_estimates(np.zeros(4), same - same, GROUPS, draws.n_units, is_difference=True)
    assert all(own.value == 0 and np.isnan(own.ci_lower) for own in nothing.values())


def test_a_group_with_a_class_of_one_unit_has_no_interval(rng: np.random.Generator) -> None:
    for n_test, names in {
        (40, 25, 12, 5): (),
        (40, 25, 12, 0): (),
        (40, 25, 12, 1): ("tail", "all"),
        (1, 25, 1, 1): ("head", "tail", "all"),
    }.items():
        assert single_unit_groups(np.array(n_test), GROUPS) == names
    y = np.repeat([0, 1, 2, 3], [40, 25, 12, 1])
    draws = stratified_draws(y, 4, n_draws=50, rng=rng)
    ends = estimates(y, np.where(rng.random(len(y)) < 0.7, y, 0), draws)
    assert {name for name, own in ends.items() if np.isnan(own).all()} == {"tail", "all"}


def test_a_class_without_test_samples_is_in_no_mean_and_no_interval(rng: np.random.Generator) -> None:
    y = np.repeat([0, 1, 2], [40, 25, 12])
    pred = np.where(rng.random(len(y)) < 0.7, y, rng.integers(4, size=len(y)))
    draws = stratified_draws(y, 4, n_draws=200, rng=rng)
    ends = estimates(y, pred, draws)
    assert np.isfinite(list(ends.values())).all()
    f1 = per_class_f1(y, pred, 4)
    assert ends["tail"][0] < f1[2] < ends["tail"][1]


def test_intervals_of_scores_stay_in_the_range_and_hold_the_value(rng: np.random.Generator) -> None:
    y, pred = predictions(rng, 0.95)
    for low, high in estimates(y, pred, stratified_draws(y, 4, n_draws=200, rng=rng)).values():
        assert 0 < low < high < 1


def test_the_same_draws_narrow_the_interval_of_a_difference(rng: np.random.Generator) -> None:
    y, a = predictions(rng, 0.6)
    b = a.copy()
    b[np.flatnonzero(a != y)[:6]] = y[np.flatnonzero(a != y)[:6]]
    draws, other = (stratified_draws(y, 4, n_draws=500, rng=rng) for _ in range(2))
    f1_a = bootstrap_f1(y, a, draws)
    difference = per_class_f1(y, b, 4) - per_class_f1(y, a, 4)
    paired, unpaired = (
        group_estimates(
            difference, bootstrap_f1(y, b, own) - f1_a, GROUPS, draws.n_units, is_difference=True
        )["all"]
        for own in (draws, other)
    )
    assert paired.standard_error < unpaired.standard_error
    assert paired.ci_lower < paired.value < paired.ci_upper


def test_scenes_of_alike_chips_widen_the_interval(rng: np.random.Generator) -> None:
    y = np.repeat([0, 1, 2, 3], 40)
    scene = np.arange(160) // 8
    pred = np.where((rng.random(20) < 0.7)[scene], y, (y + 1) % 4)  # a whole scene is right or wrong
    errors = [
        group_estimates(per_class_f1(y, pred, 4), bootstrap_f1(y, pred, own), GROUPS, own.n_units)["all"]
        for own in (
            stratified_draws(y, 4, rng=rng),
            stratified_draws(y, 4, units=[str(s) for s in scene], rng=rng),
        )
    ]
    assert errors[1].standard_error > 2 * errors[0].standard_error


def test_five_samples_per_class_are_enough_for_an_honest_interval(rng: np.random.Generator) -> None:
    """Predicted classes are drawn from a known confusion, so the true F1 is known."""
    confusion = 0.6 * np.eye(8) + 0.4 * rng.dirichlet(np.ones(8), size=8)
    true = np.diagonal(confusion) * 2 / (1 + confusion.sum(axis=0))
    groups, y = Groups((0, 1), (2, 3, 4), (5, 6, 7)), np.repeat(np.arange(8), 5)
    held = []
    for _ in range(150):
        pred = np.array([rng.choice(8, p=confusion[label]) for label in y])
        draws = stratified_draws(y, 8, rng=rng, n_draws=150)
        found = group_estimates(per_class_f1(y, pred, 8), bootstrap_f1(y, pred, draws), groups, draws.n_units)
        held += [
            own.ci_lower <= true[list(c)].mean() <= own.ci_upper
            for own, c in ((found["tail"], groups.tail), (found["all"], range(8)))
        ]
    assert np.mean(held) >= 0.92


def test_wrong_arguments_are_refused(rng: np.random.Generator) -> None:
    y = np.array([0, 1, 1])
    with pytest.raises(ValueError, match="got 0 and 3"):
        stratified_draws(y, 2, n_draws=0, rng=rng)
    with pytest.raises(ValueError, match="2 units for 3"):
        stratified_draws(y, 2, units=["a", "b"], rng=rng)
    with pytest.raises(ValueError, match="pred has 2"):
        bootstrap_f1(y, y[:2], stratified_draws(y, 2, rng=rng, n_draws=3))


values_over_seeds = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda x: np.std(x) > 1e-9)


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


def test_equal_values_give_no_interval() -> None:
    found = spread(np.full(4, 0.25))
    assert (found.mean, found.sd) == (0.25, 0.0) and math.isnan(found.ci_lower) and math.isnan(found.ci_upper)


def test_seeds_that_share_a_test_set_keep_its_uncertainty() -> None:
    values = np.array([0.50, 0.54, 0.58])
    own = spread(values)
    shared = spread(values, errors=np.full(3, 0.05))
    assert shared.ci_lower < own.ci_lower and own.ci_upper < shared.ci_upper
    equal = spread(np.full(3, 0.5), errors=np.full(3, 0.05))  # nothing but the test sample varies
    assert (equal.ci_lower, equal.ci_upper) == (
        pytest.approx(0.5 - 1.959964 * 0.05),
        pytest.approx(0.5 + 1.959964 * 0.05),
    )
    unknown = spread(values, errors=np.full(3, np.nan))
    assert unknown == own


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
    draws = Draws(np.array([[0, 0, 2], [1, 1, -1]]), np.full(3, 1.5), np.array([3]))
    found = left_out(draws)
    assert found.indices.tolist() == [[-1, 1, -1], [0, -1, 2]]
    assert found.weights.tolist() == [1, 1, 1]


def test_units_count_where_a_choice_needs_enough(rng: np.random.Generator) -> None:
    y = np.repeat(np.arange(5), 40)
    predicted = {"floor": guesses(rng, y, 0.3), "right": y}
    units = [f"scene {i // 8}" for i in range(200)]  # five scenes a class
    choice = choose(predicted, y, FIVE, floor="floor", reference="floor", rng=rng, units=units, n_draws=50)
    assert choice.n_fewest == 5 and choice.name == "floor"


def test_an_unknown_reference_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="no candidate"):
        guess = {"a": np.zeros(2, dtype=int)}
        choose(guess, np.zeros(2, dtype=int), Groups((0,), (), (1,)), floor="a", reference="b", rng=rng)
