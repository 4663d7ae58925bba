"""One table of everything that is said about a set of detections: per class, per group, with curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from deblora.data.longtail import Groups
from deblora.data.scenes.dota import Labels
from deblora.detect.evaluate.average_precision import (
    ClassDetection,
    Protocol,
    ap_at_thresholds,
    average_precision,
    evaluate_detections,
    map_over_groups,
)
from deblora.detect.files.task1 import QuadDetections


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


MEASURES = ("map50", "map50_area", "map50_95")
N_CURVE = 101  # points kept of a curve


def summarize_detections(
    detections: QuadDetections,
    ground_truth: Mapping[str, Labels],
    class_names: Sequence[str],
    groups: Groups,
    *,
    protocol: Protocol,
    train_counts: Int[np.ndarray, " c"] | None = None,
) -> dict[str, Any]:
    """Evaluate merged full images and return plain values for JSON; fractions, ``None`` where nothing is defined.

    Args:
        detections: Of all images.
        ground_truth: Labels of every evaluated image.
        class_names: Classes to evaluate.
        groups: Head, middle, tail as positions in ``class_names``.
        protocol: ``dota1.0`` or ``dota1.5``.
        train_counts: Training objects per class, if known.

    Returns:
        ``protocol``, ``n_images``, ``groups`` (per measure: ``map50`` is VOC07 at IoU .5 and the headline,
        ``map50_area``, ``map50_95``), ``missing`` (classes without ground truth, in no mean) and ``classes``, of
        which ``threshold`` is the score of the best F1.
    """
    curves = evaluate_detections(detections, ground_truth, class_names, protocol=protocol)
    voc = np.array([curves[name].ap for name in class_names])
    area = np.array(
        [
            average_precision(curves[name].recall, curves[name].precision, method="area")
            if curves[name].n_ground_truth
            else np.nan
            for name in class_names
        ]
    )
    strict = ap_at_thresholds(detections, ground_truth, class_names, protocol=protocol).mean(axis=0)
    per_group: dict[str, dict[str, float | None]] = {}
    missing: tuple[str, ...] = ()
    for measure, values in zip(MEASURES, (voc, area, strict), strict=True):
        means, missing = map_over_groups(values, class_names, groups)
        per_group[measure] = {name: _plain(value) for name, value in means.items()}
    thresholds = best_thresholds(curves)
    group_of = {i: name for name, members in groups.named().items() for i in members}
    return {
        "protocol": protocol,
        "n_images": len(ground_truth),
        "n_detections": len(detections.scores),
        "groups": per_group,
        "missing": list(missing),
        "classes": [
            {
                "class": name,
                "group": group_of.get(i, ""),
                "n_train": None if train_counts is None else int(train_counts[i]),
                **_counts(curves[name]),
                "ap50": _plain(voc[i]),
                "ap50_area": _plain(area[i]),
                "ap50_95": _plain(strict[i]),
                "threshold": thresholds[name].score if name in thresholds else None,
                "best_f1": thresholds[name].f1 if name in thresholds else None,
                "curve": _curve(curves[name]),
            }
            for i, name in enumerate(class_names)
        ],
    }


def _counts(entry: ClassDetection) -> dict[str, int]:
    return {
        key: getattr(entry, key)
        for key in ("n_ground_truth", "n_difficult", "n_true", "n_false", "n_ignored", "n_untangled")
    }


def _curve(entry: ClassDetection) -> dict[str, list[float]]:
    """Return at most 101 points of recall and precision, evenly spaced over the detections."""
    if not entry.n_ground_truth or not len(entry.recall):
        return {"recall": [], "precision": []}
    rows = np.unique(np.linspace(0, len(entry.recall) - 1, N_CURVE).round().astype(np.int64))
    return {
        "recall": [round(float(v), 5) for v in entry.recall[rows]],
        "precision": [round(float(v), 5) for v in entry.precision[rows]],
    }


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
