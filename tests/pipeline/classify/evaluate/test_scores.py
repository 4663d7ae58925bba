"""Tables of the heads: what validation chooses, priors by hand, differences on the same draws."""

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.pipeline.classify.evaluate.scores import Judged, prior_accuracies, score_tables, with_chosen
from deblora.recipe.methods import CHOSEN, GUARDED
from deblora.recipe.methods import STRONG as STRONG_NAME

STRONG, FAIR = (STRONG_NAME, CHOSEN), (GUARDED, CHOSEN)
SEMI, TRANSDUCTIVE = ("semi-supervised", CHOSEN), ("transductive", CHOSEN)
GROUPS = Groups((0,), (1,), (2,))
Y = np.repeat([0, 1, 2], 20)
COUNTS = np.array([100, 20, 4])


def judged(predicted: np.ndarray, validation: float) -> Judged:
    return Judged(predicted, validation)


@pytest.fixture
def rows() -> dict[tuple[str, str], Judged]:
    never_rare, always = np.where(Y == 2, 0, Y), np.zeros_like(Y)
    return {
        ("lora", "cross_entropy"): judged(never_rare, 0.9),
        ("lora", "balanced_softmax"): judged(Y, 0.7),
        ("lora", "sade"): judged(always, 0.8),
        ("zero-shot", "sade"): judged(Y, 0.95),
        ("shift", "logit_adjustment"): judged(Y, 0.6),
    }


def test_validation_chooses_among_strong_heads_on_lora_features(rows: dict[tuple[str, str], Judged]) -> None:
    every, behind = with_chosen(rows)
    assert behind == {STRONG: ("lora", "sade")}
    assert every[STRONG].predicted is rows["lora", "sade"].predicted
    assert every[STRONG].n_trials == 2  # of the two it was chosen among


def test_rows_with_unlabeled_features_have_choices_of_their_own(rows: dict[tuple[str, str], Judged]) -> None:
    more = {
        ("semi-supervised", "gaussians_lora"): judged(Y, 0.9),
        ("semi-supervised", "gaussians_both"): judged(Y, 0.8),
        ("transductive", "gaussians_both"): judged(Y, 0.99),
    }
    _, behind = with_chosen({**rows, **more})
    assert behind[SEMI] == ("semi-supervised", "gaussians_lora")
    assert behind[TRANSDUCTIVE] == ("transductive", "gaussians_both")
    assert behind[STRONG] == ("lora", "sade")
    assert FAIR not in behind  # nobody knows how they do on chips they did not see


@pytest.mark.parametrize(("held_out", "winner"), [(0.7, ("lora", "sade")), (0.85, ("semi-supervised", "g"))])
def test_guarded_is_the_better_one_on_chips_it_did_not_see(
    rows: dict[tuple[str, str], Judged], held_out: float, winner: tuple[str, str]
) -> None:
    every, behind = with_chosen({**rows, ("semi-supervised", "g"): Judged(Y.copy(), 0.99, held_out)})
    assert behind[FAIR] == winner and every[FAIR].predicted is every[winner].predicted


def test_accuracy_under_other_priors() -> None:
    found = prior_accuracies(Y, np.where(Y == 2, 0, Y), COUNTS, seed=0)
    # Counts 20, 4, 1 (20 * 25^-0.5 = 4, 20 / 25 = 0.8) and reversed; only the last class is wrong.
    assert found["accuracy_forward"] == pytest.approx(24 / 25)
    assert found["accuracy_uniform"] == pytest.approx(2 / 3)
    assert found["accuracy_backward"] == pytest.approx(5 / 25)


def test_a_class_without_test_samples_has_no_other_prior() -> None:
    assert np.isnan(list(prior_accuracies(Y[:40], Y[:40], COUNTS, seed=0).values())).all()


def test_scores_and_differences(rows: dict[tuple[str, str], Judged]) -> None:
    every, _ = with_chosen(rows)
    results, differences = score_tables(
        every, Y, GROUPS, COUNTS, names={"dataset": "d", "backbone": "b"}, test_set="a", n_draws=100, seed=3
    )
    values = {(r["method"], r["classifier"], r["metric"], r["group"]): r["value"] for r in results}
    assert values["lora", "balanced_softmax", "macro_f1", "all"] == 1
    assert values["lora", "cross_entropy", "macro_f1", "tail"] == 0
    assert values["lora", "sade", "accuracy_uniform", "all"] == pytest.approx(1 / 3)
    assert {(r["seed"], r["n_test"]) for r in results} == {(3, 60)}
    one = next(
        d
        for d in differences
        if (d["method"], d["baseline_classifier"], d["group"]) == ("shift", "cross_entropy", "tail")
    )
    assert (
        one["value"] == 1 and one["ci_lower"] == ""
    )  # all draws agree: no interval, so it is not significant
    y = np.append(np.repeat([0, 1], 20), 2)
    alone = {("lora", "cross_entropy"): judged(y, 0.5), ("lora", "balanced_softmax"): judged(y * 0, 0.5)}
    for table in score_tables(alone, y, GROUPS, COUNTS, names={}, test_set="a", n_draws=100, seed=3):
        scored = [row for row in table if row.get("metric", "macro_f1") == "macro_f1"]
        assert all(np.isfinite(row["value"]) for row in scored)
        assert all(
            row["ci_lower"] == row["ci_upper"] == "" for row in scored if row["group"] in ("tail", "all")
        )
    assert not any(
        (d["method"], d["classifier"]) == (d["baseline"], d["baseline_classifier"]) for d in differences
    )
