"""Scores above which detections are shown: the best F1 of each class."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deblora.evaluate.detection import ClassDetection


@dataclass(frozen=True)
class Threshold:
    """A score from which detections of a class are shown, and their F1."""

    score: float
    f1: float


def best_thresholds(curves: Mapping[str, ClassDetection]) -> dict[str, Threshold]:
    """Return the score at which the F1 of each class is largest.

    ``F1 = 2 P R / (P + R)`` of the detections whose score is at least the threshold; of equal values the highest
    score is taken. One threshold per class, because detectors give rare classes lower scores: a common one hides the
    tail. Classes without ground truth, without detections or without a true one are left out.

    Choose them on validation: on the test split they would be a choice by test labels.
    """
    found = {}
    for name, entry in curves.items():
        if not entry.n_ground_truth or not len(entry.scores):
            continue
        total = entry.precision + entry.recall
        f1 = np.divide(2 * entry.precision * entry.recall, total, out=np.zeros_like(total), where=total > 0)
        last = np.append(entry.scores[1:] < entry.scores[:-1], True)  # equal scores are shown together
        best = int(np.where(last, f1, -1.0).argmax())
        if f1[best] > 0:
            found[name] = Threshold(float(entry.scores[best]), float(f1[best]))
    return found
