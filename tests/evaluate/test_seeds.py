import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from deblora.evaluate.seeds import Entry, Unit, paired_spread, spread, studies, summarize_runs

values_over_seeds = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def units(n: int, *, dataset: str = "aid") -> list[Unit]:
    return [Unit(dataset, "vit", seed) for seed in range(n)]


def entry(method: str, *, probe: str = "cross_entropy", group: str = "tail") -> Entry:
    return Entry(method, probe, "macro_f1", group)


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


@given(values_over_seeds, values_over_seeds)
def test_no_interval_leaves_what_a_score_can_be(one: list[float], other: list[float]) -> None:
    found = spread(np.array(one))
    assert 0 <= found.ci_lower <= found.mean + 1e-12 and found.mean - 1e-12 <= found.ci_upper <= 1
    pairs = paired_spread(dict(zip(units(12), one, strict=False)), dict(zip(units(12), other, strict=False)))
    assert -1 <= pairs.spread.ci_lower <= pairs.spread.ci_upper <= 1


def test_two_seeds_at_the_ends_say_that_nothing_is_known() -> None:
    a, b = units(2)
    found = paired_spread({a: 0.9, b: 0.2}, {a: 0.1, b: 0.8})
    assert (found.spread.ci_lower, found.spread.ci_upper, found.verdict) == (-1.0, 1.0, "open")


@given(values_over_seeds, st.floats(-1, 1))
def test_a_paired_verdict_is_the_one_sample_t_test(values: list[float], offset: float) -> None:
    x = np.array(values) + offset
    if x.std() < 1e-6:
        return
    runs = units(len(x))
    found = paired_spread(dict(zip(runs, x, strict=True)), dict.fromkeys(runs, 0.0))
    p = scipy.stats.ttest_1samp(x, 0.0).pvalue
    if abs(p - 0.05) > 1e-9:
        assert (found.verdict != "open") == (p < 0.05)


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


def test_runs_are_matched_by_name_not_by_position() -> None:
    a, b, c, d = units(4)
    found = paired_spread({a: 0.5, b: 0.2, c: 0.3, d: 0.9}, {c: 0.3, b: 0.4, a: 0.1})
    assert found.differences == {a: pytest.approx(0.4), b: pytest.approx(-0.2), c: 0.0}
    assert (found.spread.n, found.n_wins, found.n_ties) == (3, 1, 1)
    assert found.spread.mean == pytest.approx(0.2 / 3)


def test_undefined_scores_make_no_pair() -> None:
    a, b = units(2)
    assert paired_spread({a: math.nan, b: 0.2}, {a: 0.1, b: 0.1}).differences == {b: pytest.approx(0.1)}


def test_rounding_is_a_tie() -> None:
    (a,) = units(1)
    found = paired_spread({a: 0.1 + 0.2}, {a: 0.3})
    assert (found.n_wins, found.n_ties) == (0, 1)


def test_swapping_the_sides_turns_every_number_around() -> None:
    rng = np.random.default_rng(0)
    left, right = (dict(zip(units(5), rng.random(5), strict=True)) for _ in range(2))
    one, other = paired_spread(left, right), paired_spread(right, left)
    assert one.spread.mean == pytest.approx(-other.spread.mean)
    assert one.spread.ci_lower == pytest.approx(-other.spread.ci_upper)
    assert one.n_wins + other.n_wins + one.n_ties == 5


def test_pairing_removes_what_the_seeds_share() -> None:
    """A difference that every seed shows is found although the scores vary much more between seeds."""
    runs, shared = units(5), np.linspace(0.1, 0.7, 5)
    gain = 0.02 + 0.001 * np.array([1, -1, 0, 1, -1])
    found = paired_spread(dict(zip(runs, shared + gain, strict=True)), dict(zip(runs, shared, strict=True)))
    assert found.verdict == "gain" and found.n_wins == 5
    assert spread(shared).sd > 10 * found.spread.sd


def test_more_seeds_narrow_the_interval() -> None:
    widths = []
    for n in (2, 4, 8, 16):
        found = spread(np.tile([0.4, 0.6], n // 2))
        widths.append(found.ci_upper - found.ci_lower)
    assert all(wide > narrow for wide, narrow in pairwise(widths))


def test_every_entry_is_compared_with_both_baselines_but_not_with_itself() -> None:
    scores = {
        unit: {
            entry("lora"): 0.2 + 0.1 * unit.seed,
            entry("lora", probe="balanced_softmax"): 0.3,
            entry("deblora"): 0.5,
        }
        for unit in units(3)
    }
    plain, balanced, deblora = summarize_runs(scores)
    assert list(plain.against) == [("lora", "balanced_softmax")]
    assert list(balanced.against) == [("lora", "cross_entropy")]
    assert deblora.against["lora", "cross_entropy"].spread.mean == pytest.approx(0.2)
    assert deblora.against["lora", "cross_entropy"].spread.sd == pytest.approx(0.1)
    assert deblora.spread.mean == 0.5 and list(deblora.values) == units(3)


def test_groups_and_metrics_are_never_mixed() -> None:
    scores = {
        unit: {entry("lora", group="head"): 0.9, entry("deblora", group="tail"): 0.1} for unit in units(2)
    }
    for row in summarize_runs(scores):
        assert all(found.spread.n == 0 for found in row.against.values())


def test_studies_hold_one_data_set_each_sorted_by_seed() -> None:
    a, b = Unit("b", "vit", 3), Unit("a", "vit", 1)
    c = Unit("b", "vit", 0)
    parts = studies({a: {}, b: {}, c: {}})
    assert list(parts) == [("b", "vit"), ("a", "vit")]
    assert list(parts["b", "vit"]) == [c, a]
