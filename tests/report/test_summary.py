import math
from collections.abc import Callable

import pytest

from deblora.report import tables
from deblora.report.content import DifferenceRow, ReportContent, ScoreRow
from deblora.report.summary import summarize


def score(method: str, value: float, *, group: str = "tail") -> ScoreRow:
    return ScoreRow(method, "linear", group, value, value - 0.1, value + 0.1)


def difference(value: float, half: float, *, method: str = "new", group: str = "tail") -> DifferenceRow:
    return DifferenceRow(method, "linear", "old", "linear", group, value, value - half, value + half)


@pytest.fixture
def told(changed: Callable[..., ReportContent]) -> Callable[..., str]:
    return lambda rows, differences: " ".join(
        summarize(changed(rows=tuple(rows), differences=tuple(differences)))
    )


def test_clear_win(told: Callable[..., str]) -> None:
    text = told([score("old", 0.3), score("new", 0.4)], [difference(0.1, 0.05)])
    assert "On the tail classes, new with the linear probe scores highest: 40.0 % macro F1" in text
    assert (
        "10.0 points above old with the linear probe, and the paired interval (+5.0 to +15.0) excludes zero"
        in text
    )
    assert "There is no score over all classes." in text


def test_open_win_is_not_sold_as_one(told: Callable[..., str]) -> None:
    text = told([score("old", 0.3), score("new", 0.31)], [difference(0.01, 0.05)])
    assert "(−4.0 to +6.0) includes zero" in text
    assert "excludes zero." not in text.split("includes zero")[0]


def test_winning_baseline_and_losses_are_said(told: Callable[..., str]) -> None:
    text = told([score("old", 0.5), score("new", 0.3)], [difference(-0.2, 0.05)])
    assert "This is the baseline: nothing that was compared with it scores higher." in text
    assert "Losses whose interval excludes zero: new · linear on the tail classes, −20.0 points" in text


def test_lead_below_another_baseline_reads_below(told: Callable[..., str]) -> None:
    assert "2.0 points below old" in told([score("new", 0.3)], [difference(-0.02, 0.01)])


def test_level_scores_are_named(told: Callable[..., str]) -> None:
    assert "level with old · linear. No paired" in told([score("old", 0.3), score("new", 0.30001)], [])


def test_of_many_level_scores_three_are_named(told: Callable[..., str]) -> None:
    text = told([score("new", 0.3), *(score(f"old{i}", 0.3) for i in range(5))], [])
    assert "old0 · linear and old1 · linear and old2 · linear and 2 more." in text


def test_many_losses_are_cut(told: Callable[..., str]) -> None:
    losses = [difference(-0.1 - i / 100, 0.01, method=f"m{i}") for i in range(9)]
    text = told([score("old", 0.5)], losses)
    assert "; and 3 more, in the table." in text
    assert "m8" in text


def test_without_pairs_no_lead_is_claimed(told: Callable[..., str]) -> None:
    text = told([score("new", 0.4)], [])
    assert "No paired comparison backs this lead." in text
    assert "No paired differences were computed" in text


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0123, "+1.2"), (-0.0123, "−1.2"), (0.0, "0.0"), (-1e-18, "0.0"), (-0.0002, "−0.02"), (math.nan, "-")],
)
def test_points(fraction: float, expected: str) -> None:
    assert tables.points(fraction) == expected


@pytest.mark.parametrize(
    ("ends", "verdict"), [((0.1, 0.2), "gain"), ((-0.2, -0.1), "loss"), ((-0.1, 0.1), "open")]
)
def test_verdict(ends: tuple[float, float], verdict: str) -> None:
    assert DifferenceRow("a", "b", "c", "d", "tail", 0.0, *ends).verdict == verdict
    assert DifferenceRow("a", "b", "c", "d", "tail", 0.0, math.nan, math.nan).verdict == "open"


def test_scores_mark_the_best_and_dash_the_missing(content: ReportContent) -> None:
    table = tables.scores(content)
    tail = table.header.index("Tail")
    best = [row[0].text for row in table.rows if row[tail].style == "best"]
    assert best == ["deblora"]
    missing = [cell.text for row in table.rows for cell in row if row[0].text == "frozen"]
    assert missing.count("-") == 1
