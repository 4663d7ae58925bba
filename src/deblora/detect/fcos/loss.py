"""The loss of a batch: raw outputs and targets in, the parts of the loss out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch.nn import functional

from deblora.detect.fcos.assign import Targets
from deblora.detect.fcos.box_loss import BoxLoss, kld_loss, riou_loss, vector_loss
from deblora.detect.fcos.class_loss import Scoring
from deblora.detect.fcos.coding import AngleCoding, anisotropy_vector, decode_boxes
from deblora.detect.fcos.head import Level

MIN_WEIGHT = 1e-6  # mmrotate: least sum of centerness to divide by


def detection_losses(
    levels: Sequence[Level],
    targets: Sequence[Targets],
    scoring: Scoring,
    *,
    coding: AngleCoding = "vector",
    box_loss: BoxLoss = "riou",
) -> dict[str, Float[torch.Tensor, ""]]:
    """Return the parts of the loss of a batch and their sum.

    ::

        class      = sum over all locations / max(1, n_positive)
        box, angle = sum over positives of centerness * loss / max(1e-6, sum of centerness)
        centerness = sum over positives of BCE / max(1, n_positive)
        loss       = class + box + angle + centerness        (all weights 1, as in mmrotate)

    ``angle`` is there only for the vector, which the box loss does not train. Without a positive location the last
    three are 0 and still have a (zero) gradient, so that every parameter takes part in every step.

    Args:
        levels: Raw outputs of the batch.
        targets: One per image, from :func:`deblora.detect.fcos.assign.assign`.
        scoring: Class loss.
        coding: Coding of boxes and angles.
        box_loss: ``riou`` (default) or ``kld``.

    Raises:
        ValueError: If targets and outputs differ in number.
    """
    n_images, n_points = levels[0].logits.shape[0], sum(len(level.points) for level in levels)
    if len(targets) != n_images or any(len(target.labels) != n_points for target in targets):
        raise ValueError(
            f"got targets of {[len(target.labels) for target in targets]} locations for {n_images} images of {n_points}"
        )
    logits, lengths, angle, center = (
        torch.cat([getattr(level, name) for level in levels], dim=1).flatten(0, 1)
        for name in ("logits", "lengths", "angle", "centerness")
    )
    points = torch.cat([level.points for level in levels]).repeat(n_images, 1)
    labels = torch.cat([target.labels for target in targets])
    positive = labels < scoring.n_classes
    boxes = torch.cat([target.boxes for target in targets])[positive]
    weight = torch.cat([target.centerness for target in targets])[positive]
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
