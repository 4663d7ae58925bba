"""Which ground truth each detection stands for, as the devkit of DOTA decides it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deblora.data.scenes.dota import Labels
from deblora.detect.boxes.candidates import touching_pairs
from deblora.detect.boxes.convert import untangle_quads
from deblora.detect.boxes.quad_overlap import quad_hulls, quad_iou
from deblora.detect.files.task1 import QuadDetections


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
