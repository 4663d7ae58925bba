"""The score above which detections are shown, against a loop over all scores."""

import numpy as np
import pytest

from deblora.evaluate.detection import ClassDetection
from deblora.evaluate.detection_threshold import best_threshold


def curve(scores: list[float], true: list[bool], n: int) -> ClassDetection:
    hits = np.cumsum(true)
    recall = hits / n if n else np.full(len(true), np.nan)
    precision = hits / np.arange(1, len(true) + 1)
    return ClassDetection(0.0, recall, precision, np.array(scores), n, 0, int(sum(true)), 0, 0, 0)


def test_a_case_by_hand() -> None:
    curves = {"a": curve([0.9, 0.8, 0.3], [True, True, False], 2), "b": curve([0.7, 0.2], [True, False], 1)}
    score, f1 = best_threshold(curves) or (0.0, 0.0)
    assert (score, f1) == (0.7, 1.0)  # below .7 only false ones are added, above class b is lost


def test_it_is_the_best_of_all_scores() -> None:
    rng = np.random.default_rng(0)
    curves, rows = {}, []
    for name in "abc":
        scores = np.sort(rng.random(40))[::-1]
        true = rng.random(40) < scores
        curves[name] = curve(scores.tolist(), true.tolist(), 30)
        rows.append((scores, true))
    best = 0.0
    for threshold in np.concatenate([scores for scores, _ in rows]):
        f1 = [
            2 * true[scores >= threshold].sum() / ((scores >= threshold).sum() + 30) for scores, true in rows
        ]
        best = max(best, float(np.mean(f1)))
    score, f1 = best_threshold(curves) or (0.0, 0.0)
    assert f1 == pytest.approx(best) and 0 < score < 1


def test_classes_without_truth_or_detections() -> None:
    assert best_threshold({"a": curve([], [], 3)}) is None
    assert best_threshold({"a": curve([0.5], [False], 0)}) is None
    assert best_threshold({"a": curve([0.5], [True], 1), "b": curve([0.9], [False], 0)}) == (0.5, 1.0)
