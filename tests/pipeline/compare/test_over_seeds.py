"""Differences over seeds: paired by run and never by position, compared with every baseline but not with itself."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.pipeline.compare.over_seeds import (
    BALANCED,
    PLAIN,
    baselines_in,
    class_gains,
    differences_to_first,
    mean_scores,
    paired_differences,
    summary_table,
)

NEW = ("new", "cross_entropy")

BY_SEED = Mapping[int, float]
values_over_seeds = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def scores(
    of: Mapping[tuple[str, str], BY_SEED], *, group: str = "tail", dataset: str = "aid"
) -> pd.DataFrame:
    rows = [
        (dataset, "vit", *name, "macro_f1", group, value, seed)
        for name, values in of.items()
        for seed, value in values.items()
    ]
    columns = ["dataset", "backbone", "method", "classifier", "metric", "group", "value", "seed"]
    return pd.DataFrame(rows, columns=columns)


def difference(values: BY_SEED, baseline: BY_SEED) -> pd.Series:
    found = paired_differences(scores({PLAIN: baseline, ("deblora", "cross_entropy"): values}), [PLAIN])
    assert len(found) == 1
    return found.iloc[0]


def by_seed(values: np.ndarray | list[float]) -> BY_SEED:
    return dict(enumerate(values))


def test_runs_are_matched_by_seed_not_by_position() -> None:
    found = difference({0: 0.5, 1: 0.2, 2: 0.3, 3: 0.9}, {2: 0.3, 1: 0.4, 0: 0.1})
    assert found["values"] == (pytest.approx(0.4), pytest.approx(-0.2), 0.0)
    assert (found["n_seeds"], found["n_wins"], found["n_ties"]) == (3, 1, 1)
    assert found["value"] == pytest.approx(0.2 / 3)


def test_undefined_scores_make_no_pair() -> None:
    assert difference({0: math.nan, 1: 0.2}, {0: 0.1, 1: 0.1})["values"] == (pytest.approx(0.1),)


def test_rounding_is_a_tie() -> None:
    found = difference({0: 0.1 + 0.2}, {0: 0.3})
    assert (found["n_wins"], found["n_ties"]) == (0, 1)


def test_swapping_the_sides_turns_every_number_around(rng: np.random.Generator) -> None:
    left, right = (by_seed(rng.random(5)) for _ in range(2))
    one, other = difference(left, right), difference(right, left)
    assert one["value"] == pytest.approx(-other["value"])
    assert one["ci_lower"] == pytest.approx(-other["ci_upper"])
    assert one["n_wins"] + other["n_wins"] + one["n_ties"] == 5


def test_pairing_removes_what_the_seeds_share() -> None:
    """A difference that every seed shows is found although the scores vary much more between seeds."""
    shared, gain = np.linspace(0.1, 0.7, 5), 0.02 + 0.001 * np.array([1, -1, 0, 1, -1])
    found = difference(by_seed(shared + gain), by_seed(shared))
    assert found["ci_lower"] > 0 and found["n_wins"] == 5
    own = mean_scores(scores({PLAIN: by_seed(shared)})).iloc[0]
    assert own["sd"] > 10 * found["sd"]


@settings(deadline=None, max_examples=30)
@given(values_over_seeds, st.floats(-1, 1))
def test_an_interval_without_zero_is_the_one_sample_t_test(values: list[float], offset: float) -> None:
    x = np.array(values) + offset
    if x.std() < 1e-6:
        return
    found = difference(by_seed(x), by_seed(np.zeros(len(x))))
    p = scipy.stats.ttest_1samp(x, 0.0).pvalue
    if abs(p - 0.05) > 1e-9:
        assert (found["ci_lower"] > 0 or found["ci_upper"] < 0) == (p < 0.05)


def test_every_entry_is_compared_with_both_baselines_but_not_with_itself() -> None:
    table = scores(
        {
            PLAIN: by_seed([0.2, 0.3, 0.4]),
            BALANCED: by_seed([0.3] * 3),
            ("deblora", "cross_entropy"): by_seed([0.5] * 3),
        }
    )
    found = paired_differences(table, [PLAIN, BALANCED])
    pairs = list(found[["method", "classifier", "baseline_classifier"]].itertuples(index=False, name=None))
    assert pairs == [
        ("lora", "balanced_softmax", "cross_entropy"),
        ("deblora", "cross_entropy", "cross_entropy"),
        ("lora", "cross_entropy", "balanced_softmax"),
        ("deblora", "cross_entropy", "balanced_softmax"),
    ]
    assert (found.loc[1, "value"], found.loc[1, "sd"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert mean_scores(table)["value"].tolist() == pytest.approx([0.3, 0.3, 0.5])


def test_groups_and_data_sets_are_never_mixed() -> None:
    table = pd.concat(
        [
            scores({PLAIN: by_seed([0.9])}, group="head"),
            scores({("deblora", "cross_entropy"): by_seed([0.1])}),
            scores({PLAIN: by_seed([0.5])}, dataset="dota"),
        ]
    )
    assert paired_differences(table, [PLAIN]).empty


def test_all_runs_together_count_each_run_once() -> None:
    new = ("deblora", "cross_entropy")
    parts = (
        scores({PLAIN: {0: 0.1, 1: 0.2}, new: {0: 0.2, 1: 0.3}}),
        scores({PLAIN: {0: 0.5}, new: {0: 0.4}}, dataset="b"),
    )
    both = pd.concat(parts, ignore_index=True)
    (together,) = paired_differences(both, [PLAIN], by=())["values"]
    assert sorted(together) == pytest.approx([-0.1, 0.1, 0.1])


def test_the_summary_has_a_block_of_columns_per_baseline() -> None:
    found = scores({PLAIN: {0: 0.1, 1: 0.2}, ("strong", "chosen"): {0: 0.3, 1: 0.5}})
    summary = summary_table(mean_scores(found), paired_differences(found, baselines_in(found)))
    plain, strong = (row for _, row in summary.iterrows())
    assert strong["mean"] == pytest.approx(0.4) and strong["minus_lora_cross_entropy_mean"] == pytest.approx(
        0.25
    )
    assert plain["minus_strong_mean"] == pytest.approx(-0.25) and plain["minus_strong_n_wins"] == 0
    assert np.isnan(strong["minus_strong_mean"]) and strong["minus_strong_n"] == 0


def test_variants_are_compared_with_the_first() -> None:
    parts = [scores({NEW: {0: 0.1 + i / 10, 1: 0.2 + i / 10}}).assign(variant=f"v{i}") for i in range(3)]
    found = differences_to_first(pd.concat(parts, ignore_index=True), "v0")
    assert list(found["variant"]) == ["v1", "v2"]
    assert list(found["value"]) == pytest.approx([0.1, 0.2])


def test_gain_by_class_by_hand() -> None:
    guesses = {PLAIN: "aabb", NEW: "abbb"}
    lines = [
        {"id": str(i), "true": true, "method": name[0], "classifier": name[1], "predicted": guess}
        for name, own in guesses.items()
        for i, (true, guess) in enumerate(zip("aaab", own, strict=True))
    ]
    classes = pd.DataFrame({"class": ["a", "b"], "group": ["head", "tail"]})
    found = class_gains(pd.DataFrame(lines), classes, [(NEW, PLAIN), (("absent", "x"), PLAIN)])
    # F1 of a: 2 * 2 / 5 before, 2 * 1 / 4 after; of b: 2 * 1 / 3 before, 2 * 1 / 4 after
    assert list(found["gain"]) == pytest.approx([1 / 2 - 4 / 5, 1 / 2 - 2 / 3])
    assert list(found["rank"]) == [0, 1] and set(found["baseline"]) == {"lora"}


def test_a_test_set_that_all_seeds_share_widens_the_interval() -> None:
    found = scores(
        {PLAIN: by_seed([0.4, 0.44, 0.48]), ("deblora", "cross_entropy"): by_seed([0.5, 0.54, 0.58])}
    )
    own = found.assign(standard_error=0.05, test_set=found["seed"].astype(str))
    shared = own.assign(test_set="one")
    free, fixed = (mean_scores(table).iloc[0] for table in (own, shared))
    assert fixed["ci_lower"] < free["ci_lower"] and free["ci_upper"] < fixed["ci_upper"]
    equal = mean_scores(shared.assign(value=0.5)).iloc[0]
    assert equal["ci_lower"] < 0.45 < 0.55 < equal["ci_upper"]
    alone = own[own["method"] == "deblora"][["dataset", "backbone", "seed", "method", "classifier", "group"]]
    alone = alone.assign(baseline=PLAIN[0], baseline_classifier=PLAIN[1], standard_error=0.2)
    (difference,) = paired_differences(shared, [PLAIN], alone=alone).to_dict("records")
    assert difference["value"] == pytest.approx(0.1) and difference["ci_lower"] < 0 < difference["ci_upper"]
