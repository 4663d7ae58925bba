"""The loss of a batch: box losses, one value per row, and their sum with class loss and centerness."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch.nn import functional

from deblora.detect.fcos.assign import AngleCoding, Targets, anisotropy_vector, decode_boxes
from deblora.detect.fcos.class_loss import Scoring
from deblora.detect.fcos.head import Level
from deblora.detect.overlap import aligned_iou

BoxLoss = Literal["riou", "kld"]
ANGLE_BETA, ANGLE_WEIGHT = 0.1, 2.0  # ours
MIN_IOU = 1e-6  # mmrotate
MIN_SIDE = 1.0  # px: half sides of at least .5 px (ours), so that the covariance can be inverted


def riou_loss(
    predicted: Float[torch.Tensor, "n 5"], target: Float[torch.Tensor, "n 5"]
) -> Float[torch.Tensor, " n"]:
    """Return ``-ln max(IoU, 1e-6)`` of oriented boxes, row by row. Disjoint boxes have a loss but no gradient."""
    return -aligned_iou(predicted, target).clamp(min=MIN_IOU).log()


def kld_loss(
    predicted: Float[torch.Tensor, "n 5"], target: Float[torch.Tensor, "n 5"]
) -> Float[torch.Tensor, " n"]:
    """Return a bounded Kullback-Leibler distance of boxes as Gaussians (arXiv 2106.01883), row by row.

    With mean ``(cx, cy)`` and covariance ``R diag(w²/4, h²/4) R^T``, ``m`` the difference of the means::

        D    = m^T S_t^-1 m + tr(S_t^-1 S_p) + ln(det S_t / det S_p) - 2      (twice KL(p || t))
        loss = 1 - 1 / (1 + ln(1 + max(D, 0)))

    Range [0, 1), 0 for equal boxes. Sides count as at least 1 px.
    """
    wide, high = predicted[:, 2].clamp(min=MIN_SIDE), predicted[:, 3].clamp(min=MIN_SIDE)
    target_wide, target_high = target[:, 2].clamp(min=MIN_SIDE), target[:, 3].clamp(min=MIN_SIDE)
    cos, sin = target[:, 4].cos(), target[:, 4].sin()
    dx, dy = predicted[:, 0] - target[:, 0], predicted[:, 1] - target[:, 1]
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    turn = predicted[:, 4] - target[:, 4]
    cos2, sin2 = turn.cos().square(), turn.sin().square()
    distance = (
        4 * (along / target_wide).square()
        + 4 * (across / target_high).square()
        + (wide.square() * cos2 + high.square() * sin2) / target_wide.square()
        + (wide.square() * sin2 + high.square() * cos2) / target_high.square()
        + 2 * (target_wide.log() + target_high.log() - wide.log() - high.log())
        - 2
    )
    return 1 - 1 / (1 + distance.clamp(min=0).log1p())


def vector_loss(
    predicted: Float[torch.Tensor, "n 2"], target: Float[torch.Tensor, "n 2"]
) -> Float[torch.Tensor, " n"]:
    """Return the loss of anisotropy vectors: twice the smooth L1 (beta .1) summed over both channels (ours)."""
    smooth = functional.smooth_l1_loss(predicted, target, beta=ANGLE_BETA, reduction="none")
    return ANGLE_WEIGHT * smooth.sum(dim=1)


MIN_WEIGHT = 1e-6  # mmrotate: least sum of centerness to divide by


def detection_losses(
    parts: Sequence[tuple[Sequence[Level], Sequence[Targets]]],
    scoring: Scoring,
    *,
    coding: AngleCoding = "vector",
    box_loss: BoxLoss = "riou",
) -> dict[str, Float[torch.Tensor, ""]]:
    """Return the parts of the loss of a batch and their sum.

    ::

        class      = sum over all locations in the images / max(1, n_positive)
        box, angle = sum over positives of centerness * loss / max(1e-6, sum of centerness)
        centerness = sum over positives of BCE / max(1, n_positive)
        loss       = class + box + angle + centerness        (all weights 1, as in mmrotate)

    ``angle`` is there only for the vector, which the box loss does not train. Without a positive location the last
    three are 0 and still have a (zero) gradient, so that every parameter takes part in every step.

    Args:
        parts: Of the batch: images of one size, as raw outputs and targets, one per image, from
            :func:`deblora.detect.fcos.assign.assign`.
        scoring: Class loss.
        coding: Coding of boxes and angles.
        box_loss: ``riou`` (default) or ``kld``.

    Raises:
        ValueError: If targets and outputs differ in number.
    """
    kept = [_inside(levels, targets) for levels, targets in parts]
    logits, lengths, angle, center, points, labels, all_boxes, weights = (
        torch.cat(columns) for columns in zip(*kept, strict=True)
    )
    positive = labels < scoring.n_classes
    boxes, weight = all_boxes[positive], weights[positive]
    n_positive = max(1, len(boxes))
    total_weight = weight.sum().clamp(min=MIN_WEIGHT)

    losses = {"class": scoring.loss(logits, labels) / n_positive}
    angle = angle[positive]
    predicted = decode_boxes(points[positive], lengths[positive], angle, coding)
    if len(boxes):
        distance = riou_loss(predicted, boxes) if box_loss == "riou" else kld_loss(predicted, boxes)
        losses["box"] = (weight * distance).sum() / total_weight
    else:
        losses["box"] = predicted.sum()
    if coding == "vector":
        losses["angle"] = (weight * vector_loss(angle, anisotropy_vector(boxes))).sum() / total_weight
    losses["centerness"] = (
        functional.binary_cross_entropy_with_logits(center[positive], weight, reduction="sum") / n_positive
    )
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def _inside(levels: Sequence[Level], targets: Sequence[Targets]) -> tuple[torch.Tensor, ...]:
    """Return outputs, points and targets of the locations inside the images, one location per row."""
    n_images, n_points = levels[0].logits.shape[0], sum(len(level.points) for level in levels)
    if len(targets) != n_images or any(len(target.labels) != n_points for target in targets):
        raise ValueError(
            f"got targets of {[len(target.labels) for target in targets]} locations for {n_images} images of {n_points}"
        )
    inside = torch.cat([level.inside for level in levels])
    outputs = (
        torch.cat([getattr(level, name) for level in levels], dim=1)[:, inside].flatten(0, 1)
        for name in ("logits", "lengths", "angle", "centerness")
    )
    points = torch.cat([level.points for level in levels])[inside].repeat(n_images, 1)
    wanted = (
        torch.cat([getattr(target, name)[inside] for target in targets])
        for name in ("labels", "boxes", "centerness")
    )
    return *outputs, points, *wanted
