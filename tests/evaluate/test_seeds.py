import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from deblora.evaluate.seeds import DIFFERENCES, spread

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
