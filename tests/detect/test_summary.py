"""The scores above which detections are shown, against a loop over all scores."""

import numpy as np
import pytest

from deblora.detect.average_precision import ClassDetection, Threshold, best_thresholds


def curve(scores: list[float], true: list[bool], n: int) -> ClassDetection:
    hits = np.cumsum(true)
    recall = hits / n if n else np.full(len(true), np.nan)
    precision = hits / np.arange(1, len(true) + 1)
    return ClassDetection(0.0, recall, precision, np.array(scores), n, 0, int(sum(true)), 0, 0, 0)


def test_a_case_by_hand() -> None:
    curves = {"a": curve([0.9, 0.8, 0.3], [True, True, False], 2), "b": curve([0.7, 0.2], [False, True], 1)}
    found = best_thresholds(curves)
    assert found == {"a": Threshold(0.8, 1.0), "b": Threshold(0.2, pytest.approx(2 / 3))}


def test_equal_scores_are_shown_together() -> None:
    found = best_thresholds({"a": curve([0.5, 0.5, 0.5], [True, False, False], 1)})
    assert found["a"] == Threshold(0.5, pytest.approx(0.5))  # not 1, the F1 after the first of the three


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_of_all_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(40).round(2))[::-1]
    true = rng.random(40) < scores
    best = max(2 * true[scores >= t].sum() / ((scores >= t).sum() + 30) for t in scores)
    found = best_thresholds({"a": curve(scores.tolist(), true.tolist(), 30)})["a"]
    assert found.f1 == pytest.approx(best)
    kept = scores >= found.score
    assert 2 * true[kept].sum() / (kept.sum() + 30) == pytest.approx(best)


def test_classes_without_truth_or_detections_have_none() -> None:
    curves = {
        "no detection": curve([], [], 3),
        "no truth": curve([0.5], [False], 0),
        "nothing true": curve([0.5], [False], 2),
    }
    assert best_thresholds(curves) == {}
