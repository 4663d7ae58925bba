"""Losses of the detector, one value per row; class imbalance is treated in ``scoring.py``."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch.nn import functional

from deblora.detect.boxes.overlap import aligned_iou

BoxLoss = Literal["riou", "kld"]
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # arXiv 1708.02002, and mmrotate's rotated FCOS
ANGLE_BETA, ANGLE_WEIGHT = 0.1, 2.0  # ours
MIN_IOU = 1e-6  # mmrotate
MIN_SIDE = 1.0  # px: half sides of at least .5 px (ours), so that the covariance can be inverted


def one_hot(labels: Int[torch.Tensor, " n"], n_channels: int) -> Float[torch.Tensor, "n c"]:
    """Return one channel per class; a label of ``n_channels`` (background) has none."""
    channels = torch.arange(n_channels, device=labels.device)
    return (labels[:, None] == channels).float()


def focal_loss(
    logits: Float[torch.Tensor, "n c"],
    labels: Int[torch.Tensor, " n"],
    *,
    alpha: float = FOCAL_ALPHA,
    gamma: float = FOCAL_GAMMA,
) -> Float[torch.Tensor, "n c"]:
    """Return the focal loss (arXiv 1708.02002) of each row and class.

    ``-alpha_t (1 - p_t)^gamma ln p_t`` with ``p = sigmoid(logit)``; ``p_t = p``, ``alpha_t = alpha`` for the class of
    the row, ``1 - p`` and ``1 - alpha`` for all others.

    Args:
        logits: One per class.
        labels: Class per row; ``c`` is background.
        alpha: Weight of the own class, .25 in the paper.
        gamma: Exponent, 2 in the paper.
    """
    target = one_hot(labels, logits.shape[1]).to(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    miss = p + target - 2 * p * target  # 1 - p_t
    loss: torch.Tensor = (alpha * target + (1 - alpha) * (1 - target)) * miss.pow(gamma) * entropy
    return loss


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
