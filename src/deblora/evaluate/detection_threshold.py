"""One score above which detections are shown: the best mean F1 over classes."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from deblora.evaluate.detection import ClassDetection

N_TRIED = 500  # scores tried, evenly spaced over the detections


def best_threshold(curves: Mapping[str, ClassDetection]) -> tuple[float, float] | None:
    """Return the score at which the mean F1 over classes is largest, and that F1.

    ``F1 = 2 P R / (P + R)`` of the detections of a class whose score is at least the threshold, 0 if there is none;
    classes without ground truth are left out. One threshold for all classes, so that scores of a page compare; rare
    classes count as much as frequent ones. Of equal values the highest score is taken. ``None`` without detections.

    Choose it on validation: on the test split it would be a choice by test labels.
    """
    judged = [entry for entry in curves.values() if entry.n_ground_truth]
    scores = np.unique(np.concatenate([np.zeros(0), *(entry.scores for entry in judged)]))[::-1]
    if not len(scores):
        return None
    tried = scores[np.unique(np.linspace(0, len(scores) - 1, N_TRIED).round().astype(np.int64))]
    mean = np.mean([_f1(entry, tried) for entry in judged], axis=0)
    best = int(mean.argmax())
    return float(tried[best]), float(mean[best])


def _f1(entry: ClassDetection, thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    n_kept = np.searchsorted(-entry.scores, -thresholds, side="right")
    precision, recall = (np.append(0.0, values)[n_kept] for values in (entry.precision, entry.recall))
    total = precision + recall
    return np.asarray(np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0))
