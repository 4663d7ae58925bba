"""Average precision of oriented detections as the devkit of DOTA computes it, per class and per group.

Evaluate merged full images, not tiles. For each class the detections of all images are taken by falling
score; the candidate of each is the ground truth with the largest IoU in its image, and IoU must be *above*
the threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deblora.data.longtail import Groups
from deblora.data.scenes.dota import Labels
from deblora.detect.boxes import untangle_quads
from deblora.detect.overlap import quad_hulls, quad_iou, touching_pairs
from deblora.detect.task1 import QuadDetections
from deblora.errors import DataError
from deblora.evaluate.metrics import group_scores


@dataclass(frozen=True)
class Candidates:
    """Detections of one class in all images, by falling score, each with its candidate.

    The candidate of a detection is the ground truth of its image with the largest IoU, the first of the file
    among equals, whether or not another detection has it; ``target`` is -1 and ``iou`` 0 where none overlaps.
    ``n_untangled`` counts self-crossing quads, detected or annotated, that were reordered to their hulls.
    """

    scores: Float[np.ndarray, " n"]
    iou: Float[np.ndarray, " n"]
    target: Int[np.ndarray, " n"]
    difficult: Bool[np.ndarray, " g"]
    n_untangled: int


def find_candidates(
    detections: QuadDetections,
    ground_truth: Mapping[str, Labels],
    class_name: str,
    *,
    count_difficult: bool,
) -> Candidates:
    """Find the candidates of all detections of a class; equal scores keep the order of the file.

    Self-crossing quads are reordered to their hulls first.
    """
    rows = np.array(
        [i for i, name in enumerate(detections.class_names) if name == class_name], dtype=np.int64
    )
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    index = {name: i for i, name in enumerate(ground_truth)}
    images = np.array([index[detections.image_names[row]] for row in rows], dtype=np.int64)
    target_quads, flags, target_images = _class_targets(ground_truth, class_name)
    quads, n_crossing = _untangled(detections.quads[rows])
    targets, n_crossing_targets = _untangled(target_quads)
    iou, target = _best_overlap(quads, images, targets, target_images)
    difficult = np.zeros(len(flags), dtype=bool) if count_difficult else flags > 0
    return Candidates(detections.scores[rows], iou, target, difficult, n_crossing + n_crossing_targets)


def judge(
    candidates: Candidates, iou_threshold: float
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return which detections are true and which are false positives; those that are neither are ignored.

    With IoU above the threshold, strictly: a difficult candidate makes the detection ignored, the first
    detection of a candidate is true, all others are false. Otherwise the detection is false.
    """
    hit = candidates.iou > iou_threshold
    ignored = hit.copy()
    ignored[hit] = candidates.difficult[candidates.target[hit]]
    claims = np.flatnonzero(hit & ~ignored)
    _, first = np.unique(candidates.target[claims], return_index=True)
    true = np.zeros(len(hit), dtype=bool)
    true[claims[first]] = True
    return true, ~true & ~ignored


def _class_targets(
    ground_truth: Mapping[str, Labels], class_name: str
) -> tuple[Float[np.ndarray, "g 4 2"], Int[np.ndarray, " g"], Int[np.ndarray, " g"]]:
    """Return quads, difficult flags and image indices of a class, in the order of images and files."""
    quads, flags, images = [np.zeros((0, 4, 2))], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for image, labels in enumerate(ground_truth.values()):
        rows = [row for row, name in enumerate(labels.class_names) if name == class_name]
        quads.append(labels.quads[rows])
        flags.append(labels.difficult[rows])
        images.append(np.full(len(rows), image, dtype=np.int64))
    return np.concatenate(quads), np.concatenate(flags), np.concatenate(images)


def _best_overlap(
    a: Float[Tensor, "n 4 2"],
    images: Int[np.ndarray, " n"],
    b: Float[Tensor, "g 4 2"],
    target_images: Int[np.ndarray, " g"],
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    best, target = np.zeros(len(a)), np.full(len(a), -1, dtype=np.int64)
    if not len(a) or not len(b):
        return best, target
    hulls_a, hulls_b = quad_hulls(a), quad_hulls(b)
    # Images side by side along x, so that one sweep serves all of them.
    low = torch.minimum(hulls_a.amin(), hulls_b.amin())
    span = float(torch.maximum(hulls_a.amax(), hulls_b.amax()) - low) + 1
    found = []
    for i, j in touching_pairs(_shifted(hulls_a, images, span), _shifted(hulls_b, target_images, span)):
        found.append((i.numpy(), j.numpy(), quad_iou(a[i], b[j]).numpy()))
    if not found:
        return best, target
    row, column, iou = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((column, -iou, row))
    row, column, iou = row[order], column[order], iou[order]
    _, first = np.unique(row, return_index=True)
    best[row[first]] = iou[first]
    target[row[first]] = column[first]
    return best, target


def _untangled(quads: Float[np.ndarray, "n 4 2"]) -> tuple[Float[Tensor, "n 4 2"], int]:
    simple, crossing = untangle_quads(torch.from_numpy(np.ascontiguousarray(quads, dtype=np.float64)))
    return simple, int(crossing.sum())


def _shifted(hulls: Tensor, images: Int[np.ndarray, " n"], span: float) -> Tensor:
    shift = torch.from_numpy(images) * span
    return hulls + torch.stack([shift, torch.zeros_like(shift)] * 2, dim=1)


Method = Literal["voc07", "area"]
Protocol = Literal["dota1.0", "dota1.5"]

COCO_THRESHOLDS = tuple(step / 100 for step in range(50, 100, 5))
"""0.50, 0.55 ... 0.95: the thresholds of mAP 50:95."""


@dataclass(frozen=True)
class ClassDetection:
    """What the detections of one class amount to.

    Entries of ``recall``, ``precision`` and ``scores`` follow the detections by falling score. ``ap`` and
    ``recall`` are nan for a class without ground truth that counts. ``n_untangled`` counts self-crossing quads,
    detected or annotated, that were taken as their hulls.
    """

    ap: float
    recall: Float[np.ndarray, " n"]
    precision: Float[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    n_ground_truth: int
    n_difficult: int
    n_true: int
    n_false: int
    n_ignored: int
    n_untangled: int


def average_precision(
    recall: Float[np.ndarray, " n"], precision: Float[np.ndarray, " n"], *, method: Method
) -> float:
    """Return the average precision of a curve, in [0, 1]; nan if recall is.

    ``voc07`` is the mean over ``t = 0, 0.1 ... 1`` of the largest precision at recall >= t, 0 if there is
    none, on the grid ``np.arange(0, 1.1, 0.1)`` of the devkit, whose fourth value is a rounding error above
    0.3. ``area`` is the area under the precision made monotone from the right.

    Args:
        recall: Never falling, by falling score.
        precision: At the same detections.
        method: ``voc07`` (headline of DOTA) or ``area``.

    Raises:
        ValueError: If the lengths differ or the method is unknown.

    Example:
        >>> average_precision(np.array([0.5, 1.0]), np.array([1.0, 0.5]), method="area")
        0.75
    """
    if recall.shape != precision.shape or recall.ndim != 1:
        raise ValueError(f"recall has shape {recall.shape}, precision {precision.shape}")
    if method not in ("voc07", "area"):
        raise ValueError(f"method must be voc07 or area, got {method!r}")
    if np.isnan(recall).any():
        return float("nan")
    # Largest precision from each detection on, 0 after the last.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if method == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope[:-1]))
    grid = np.arange(0.0, 1.1, 0.1)
    return float(envelope[np.searchsorted(recall, grid, side="left")].mean())


def evaluate_detections(
    detections: QuadDetections,
    ground_truth: Mapping[str, Labels],
    class_names: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    method: Method = "voc07",
    protocol: Protocol = "dota1.0",
) -> dict[str, ClassDetection]:
    """Evaluate the detections of all images, class by class.

    ``recall = TP / n``, ``precision = TP / max(TP + FP, eps)`` after each detection, with ``n`` the ground
    truth that is not difficult. A detection whose candidate is difficult counts for neither.

    Args:
        detections: In any order; equal scores keep it.
        ground_truth: Labels of every evaluated image, also of those without objects.
        class_names: The classes to evaluate. Ground truth of other classes is left out.
        iou_threshold: In [0, 1); 0.5 in the devkit.
        method: See :func:`average_precision`.
        protocol: ``dota1.0`` honors the difficult flag; ``dota1.5`` counts every object, as its script does.

    Returns:
        One entry per class, in the order of ``class_names``.

    Raises:
        DataError: If a detection lies in an image without labels or has an unknown class, or a score or
            coordinate is not finite.
        ValueError: If an option is out of range.
    """
    curves = precision_curves(
        detections,
        ground_truth,
        class_names,
        iou_thresholds=(iou_threshold,),
        method=method,
        protocol=protocol,
    )
    return {name: entries[0] for name, entries in curves.items()}


def map_over_groups(
    ap_per_class: Float[np.ndarray, " c"], class_names: Sequence[str], groups: Groups
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Average AP over the classes of each group and over all; nan where no class of a group has an AP.

    Returns:
        Means under ``head``, ``middle``, ``tail``, ``all``, and the classes left out for want of ground truth.

    Raises:
        ValueError: If the lengths differ or a group names a class that has no entry.
    """
    if len(ap_per_class) != len(class_names):
        raise ValueError(f"{len(ap_per_class)} values of AP for {len(class_names)} classes")
    missing = tuple(name for name, ap in zip(class_names, ap_per_class, strict=True) if np.isnan(ap))
    return group_scores(np.asarray(ap_per_class, dtype=np.float64), groups), missing


def precision_curves(
    detections: QuadDetections,
    ground_truth: Mapping[str, Labels],
    class_names: Sequence[str],
    *,
    iou_thresholds: Sequence[float] = COCO_THRESHOLDS,
    method: Method = "voc07",
    protocol: Protocol = "dota1.0",
) -> dict[str, list[ClassDetection]]:
    """Return what :func:`evaluate_detections` does at each of several thresholds; IoU is computed once.

    Arguments and errors as there.
    """
    if protocol not in ("dota1.0", "dota1.5"):
        raise ValueError(f"protocol must be dota1.0 or dota1.5, got {protocol!r}")
    if not iou_thresholds or not all(0 <= value < 1 for value in iou_thresholds):
        raise ValueError(f"IoU thresholds must be in [0, 1), got {tuple(iou_thresholds)}")
    _check(detections, ground_truth, class_names)
    curves: dict[str, list[ClassDetection]] = {}
    for name in class_names:
        candidates = find_candidates(detections, ground_truth, name, count_difficult=protocol == "dota1.5")
        n_difficult = int(candidates.difficult.sum())
        n_ground_truth = len(candidates.difficult) - n_difficult
        curves[name] = []
        for threshold in iou_thresholds:
            true, false = judge(candidates, threshold)
            n_true, n_false = true.cumsum(), false.cumsum()
            recall = n_true / n_ground_truth if n_ground_truth else np.full(len(true), np.nan)
            precision = n_true / np.maximum(n_true + n_false, np.finfo(np.float64).eps)
            ap = average_precision(recall, precision, method=method) if n_ground_truth else float("nan")
            totals = int(true.sum()), int(false.sum())
            curves[name].append(
                ClassDetection(
                    ap,
                    recall,
                    precision,
                    candidates.scores,
                    n_ground_truth,
                    n_difficult,
                    *totals,
                    len(true) - sum(totals),
                    candidates.n_untangled,
                )
            )
    return curves


def _check(
    detections: QuadDetections, ground_truth: Mapping[str, Labels], class_names: Sequence[str]
) -> None:
    if len(set(class_names)) != len(class_names) or not class_names:
        raise ValueError(f"class names must be distinct and not empty, got {list(class_names)}")
    foreign = sorted(set(detections.image_names) - set(ground_truth))
    if foreign:
        raise DataError(
            f"there are detections in {foreign[0]} and {len(foreign) - 1} other images that have no labels; "
            "evaluate the split they belong to, with image names without extension"
        )
    unknown = sorted(set(detections.class_names) - set(class_names))
    if unknown:
        raise DataError(
            f"there are detections of the class {unknown[0]!r}, which is not evaluated; "
            f"the classes are {', '.join(class_names)}"
        )
    if not (np.isfinite(detections.scores).all() and np.isfinite(detections.quads).all()):
        raise DataError("detections hold scores or coordinates that are not finite; remove them")


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
    every = precision_curves(detections, ground_truth, class_names, protocol=protocol)
    curves = {name: entries[0] for name, entries in every.items()}
    voc = np.array([curves[name].ap for name in class_names])
    areas = np.array([[_area(entry) for entry in every[name]] for name in class_names]).T
    area, strict = areas[0], areas.mean(axis=0)
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


def _area(entry: ClassDetection) -> float:
    if not entry.n_ground_truth:
        return float("nan")
    return average_precision(entry.recall, entry.precision, method="area")


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
