"""What the sentences claim follows from the numbers, for one run and over seeds."""

import math
from typing import Any

import pandas as pd
import pytest

from deblora.pipeline.compare.over_seeds import BALANCED, PLAIN, mean_scores, paired_differences
from deblora.report import tables
from deblora.report.summary import say_choice, say_tested, summarize

GROUPS = ("head", "middle", "tail", "all")


def score(method: str, value: float, *, group: str = "tail") -> dict[str, Any]:
    ends = {"value": value, "ci_lower": value - 0.1, "ci_upper": value + 0.1}
    return {"method": method, "classifier": "linear", "group": group, **ends}


def difference(value: float, half: float, *, method: str = "new", group: str = "tail") -> dict[str, Any]:
    names = {"method": method, "classifier": "linear", "baseline": "old", "baseline_classifier": "linear"}
    return {**names, "group": group, "value": value, "ci_lower": value - half, "ci_upper": value + half}


def told(scores: list[dict[str, Any]], differences: list[dict[str, Any]], **options: Any) -> str:
    columns = [*tables.PAIR, "group", "value", "ci_lower", "ci_upper"]
    return " ".join(summarize(pd.DataFrame(scores), pd.DataFrame(differences, columns=columns), **options))


def test_clear_win() -> None:
    text = told([score("old", 0.3), score("new", 0.4)], [difference(0.1, 0.05)])
    assert (
        "On the tail classes, new · linear scores highest: 40.0 % macro F1 (95 % interval 30.0 to 50.0)"
        in text
    )
    assert "10.0 points above old · linear, and the paired interval (+5.0 to +15.0) excludes zero" in text
    assert "There is no score over all classes." in text


def test_open_win_is_not_sold_as_one() -> None:
    text = told([score("old", 0.3), score("new", 0.31)], [difference(0.01, 0.05)])
    assert "(−4.0 to +6.0) includes zero: the test cannot tell them apart." in text
    assert "excludes zero." not in text.split("includes zero")[0]


def test_winning_baseline_and_losses_are_said() -> None:
    text = told([score("old", 0.5), score("new", 0.3)], [difference(-0.2, 0.05)])
    assert "This is a baseline: nothing that was compared with it scores higher." in text
    assert "Losses whose interval excludes zero: new · linear on the tail classes, −20.0 points" in text


def test_lead_below_another_baseline_reads_below() -> None:
    assert "2.0 points below old" in told([score("new", 0.3)], [difference(-0.02, 0.01)])


def test_level_scores_are_named() -> None:
    assert "level with old · linear. No paired" in told([score("old", 0.3), score("new", 0.30001)], [])


def test_of_many_level_scores_three_are_named() -> None:
    text = told([score("new", 0.3), *(score(f"old{i}", 0.3) for i in range(5))], [])
    assert "old0 · linear and old1 · linear and old2 · linear and 2 more." in text


def test_many_losses_are_cut() -> None:
    losses = [difference(-0.1 - i / 100, 0.01, method=f"m{i}") for i in range(9)]
    text = told([score("old", 0.5)], losses)
    assert f"; and {9 - 4} more, in the table." in text
    assert "m8" in text


def test_without_pairs_no_lead_is_claimed() -> None:
    text = told([score("new", 0.4)], [])
    assert "No paired comparison backs this lead." in text
    assert "No paired differences were computed" in text


def test_a_method_that_repeats_another_leads_the_page_but_is_no_leader() -> None:
    scores = [score("old", 0.3), score("guarded", 0.5), score("new", 0.5)]
    found = [difference(0.2, 0.1, method="guarded"), difference(0.2, 0.1)]
    text = told(scores, found, focus=["guarded"], derived=["guarded"])
    assert text.startswith(
        "guarded · linear against old · linear: on the tail classes +20.0 points (+10.0 to +30.0; a gain)"
    )
    assert "On the tail classes, new · linear scores highest" in text


def over_seeds(values: dict[tuple[str, str], list[float]]) -> str:
    """Return the summary of scores by method and seed, the same in every group."""
    lines = [
        {"method": name[0], "classifier": name[1], "group": group, "seed": seed, "value": value}
        for name, own in values.items()
        for seed, value in enumerate(own)
        for group in GROUPS
    ]
    results = pd.DataFrame(lines).assign(dataset="aid", backbone="vit", metric="macro_f1")
    baselines = [name for name in (PLAIN, BALANCED) if name in values]
    return " ".join(summarize(mean_scores(results), paired_differences(results, baselines)))


def test_a_clear_win_over_seeds() -> None:
    text = over_seeds({PLAIN: [0.3, 0.4, 0.35], ("new", "cross_entropy"): [0.4, 0.51, 0.44]})
    assert "3 seeds; intervals are 95 % t intervals" in text
    assert "On the tail classes, new · cross_entropy scores highest: 45.0 % macro F1" in text
    assert "It is 10.0 points above lora · cross_entropy (higher in 3 of 3 seeds), and the" in text
    assert "No paired comparison in any group shows a loss" in text


def test_an_open_win_over_seeds_is_not_sold_as_one() -> None:
    text = over_seeds({PLAIN: [0.3, 0.4, 0.35], ("new", "cross_entropy"): [0.5, 0.3, 0.4]})
    assert "(higher in 2 of 3 seeds), but the paired interval" in text
    assert "includes zero: the seeds cannot tell them apart." in text
    assert "1 paired comparison on the tail classes, 0 show a gain" in text


def test_losses_over_seeds_are_said() -> None:
    text = over_seeds({PLAIN: [0.5, 0.6, 0.55], ("deblora", "cross_entropy"): [0.3, 0.41, 0.34]})
    assert "This is a baseline: nothing that was compared with it scores higher." in text
    assert (
        "Against lora with the same cross_entropy classifier on the tail classes: deblora −20.0 points"
        in text
    )
    assert "a loss; higher in 0 of 3 seeds)" in text
    assert "Losses whose interval excludes zero: deblora · cross_entropy on the head classes" in text


def test_one_seed_claims_nothing() -> None:
    text = over_seeds({PLAIN: [0.3], ("new", "cross_entropy"): [0.4]})
    assert "One seed: no spread can be given" in text
    assert "new · cross_entropy scores highest: 40.0 % macro F1. It is 10.0 points above" in text
    assert "excludes zero" not in text and "includes zero" not in text and "a gain" not in text


def test_equal_scores_are_called_equal() -> None:
    text = over_seeds({("same", "cross_entropy"): [0.3, 0.4], PLAIN: [0.3, 0.4]})
    assert "level with lora · cross_entropy. It equals lora · cross_entropy in every seed." in text


def test_the_prior_of_the_classifier_is_kept_apart_from_the_features() -> None:
    text = over_seeds({PLAIN: [0.2, 0.3], BALANCED: [0.5, 0.6], ("deblora", "balanced_softmax"): [0.4, 0.52]})
    assert (
        "Against lora with the same balanced_softmax classifier on the tail classes: deblora −9.0 points"
        in text
    )
    assert "with the same cross_entropy classifier" not in text


CHOICE = {
    "method": "lora",
    "classifier": "sade",
    "best": ["lora", "sade"],
    "floor": ["lora", "balanced_softmax_cv"],
    "reference": ["zero-shot", "balanced_softmax_cv"],
    "gains": {
        "tail": {"value": 0.03, "ci_lower": -0.02, "ci_upper": 0.08},
        "all": {"value": 0.02, "ci_lower": -0.01, "ci_upper": 0.05},
    },
    "sure": 0.94,
    "n_val": 300,
    "fewest_val": 20,
    "is_refitted": True,
    "candidates": [{"method": "lora", "classifier": "sade", "macro_f1": 0.5}],
}


def test_a_choice_says_why_it_was_taken_and_what_it_gains() -> None:
    text = " ".join(say_choice(CHOICE))
    assert (
        "the best of 1 candidates on 300 validation chips, better than lora · balanced_softmax_cv in 94 %"
        in text
    )
    assert "+3.0 points on the tail classes" in text and "+2.0 points over all classes" in text
    assert "does not exclude zero" in text and "fitted again" in text
    surer = {**CHOICE["gains"], "all": {"value": 0.02, "ci_lower": 0.01, "ci_upper": 0.05}}
    assert "exclude zero" not in " ".join(say_choice({**CHOICE, "gains": surer}))
    unknown = {**CHOICE["gains"], "tail": dict.fromkeys(("value", "ci_lower", "ci_upper"), math.nan)}
    assert "tail" not in " ".join(say_choice({**CHOICE, "gains": unknown}))
    assert "fitted again" not in " ".join(say_choice({**CHOICE, "is_refitted": False}))


def test_without_enough_validation_chips_the_floor_says_so() -> None:
    floor = {**CHOICE, "method": "lora", "classifier": "balanced_softmax_cv", "fewest_val": 2}
    assert "only 2 validation chips, and below 10 of every class nothing is chosen" in say_choice(floor)[0]
    assert "no candidate was surely better" in say_choice({**floor, "fewest_val": 20})[0]
    simplest = {**floor, "method": "zero-shot", "floor": CHOICE["reference"]}
    assert "no gain is stated" in " ".join(say_choice(simplest))


def test_the_test_score_of_the_model_for_new_chips_stands_beside_the_simplest_thing() -> None:
    lines = [
        ("shipped", "sade", "tail", 0.62), ("shipped", "sade", "all", 0.7),
        ("zero-shot", "balanced_softmax_cv", "tail", 0.5), ("zero-shot", "balanced_softmax_cv", "all", 0.6),
    ]  # fmt: skip
    scores = pd.DataFrame(lines, columns=["method", "classifier", "group", "value"]).assign(
        ci_lower=0.4, ci_upper=0.8
    )
    (text,) = say_tested(scores, CHOICE)
    assert text.startswith("Macro F1 on the test: 62.0 % (40.0 to 80.0) on the tail classes and 70.0 %")
    assert "; zero-shot · balanced_softmax_cv has 50.0 %" in text
    assert say_tested(scores[scores["method"] != "shipped"], CHOICE) == []


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
    assert tables.verdict({"ci_lower": ends[0], "ci_upper": ends[1]}) == verdict
    assert tables.verdict({"ci_lower": math.nan, "ci_upper": math.nan}) == "open"
