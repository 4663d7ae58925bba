"""From logits to class scores and to the class loss: focal, re-weighted focal, effective class margins.

Each is a module with the same four things: ``n_channels`` the head has to give, ``bias`` they start from, ``loss`` and
``scores``. Constants are buffers, so a saved detector keeps scoring as it was trained.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from deblora.errors import DataError

PRIOR = 0.01  # first score of every class: arXiv 1708.02002
BETA = 0.9999  # arXiv 1901.05555
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # arXiv 1708.02002, and mmrotate's rotated FCOS


class Scoring(nn.Module, ABC):
    """What the class channels of the head mean.

    Attributes:
        n_classes: Number of classes ``c``.
        n_channels: Channels ``k`` the head gives, ``c`` or ``c + 1``.
        bias: Bias of the last layer at the start.
    """

    n_classes: int
    n_channels: int
    bias: torch.Tensor

    @abstractmethod
    def loss(
        self, logits: Float[torch.Tensor, "n k"], labels: Int[torch.Tensor, " n"]
    ) -> Float[torch.Tensor, ""]:
        """Return the loss summed over locations; ``labels`` of ``c`` are background."""

    @abstractmethod
    def scores(self, logits: Float[torch.Tensor, "*n k"]) -> Float[torch.Tensor, "*n c"]:
        """Return scores of the classes from 0 to 1."""


class FocalScoring(Scoring):
    """Sigmoid scores and the focal loss, optionally with a weight per class.

    A location of class ``y`` counts with ``weights[y]`` in all its channels, as a sample does in the class-balanced
    loss (arXiv 1901.05555); a background location counts 1 (ours: background is no class of theirs).

    Args:
        n_classes: Number of classes.
        weights: One per class, :func:`class_balanced_weights` for re-weighting; all 1 if ``None``.
    """

    def __init__(self, n_classes: int, *, weights: Float[np.ndarray, " c"] | None = None) -> None:
        super().__init__()
        self.n_classes = self.n_channels = n_classes
        if weights is not None and len(weights) != n_classes:
            raise ValueError(f"got {len(weights)} weights for {n_classes} classes")
        table = torch.ones(n_classes + 1)
        if weights is not None:
            table[:-1] = torch.as_tensor(np.asarray(weights), dtype=torch.float32)
        self.weights: torch.Tensor
        self.register_buffer("weights", table)
        self.register_buffer("bias", torch.full((n_classes,), math.log(PRIOR / (1 - PRIOR))))

    def loss(
        self, logits: Float[torch.Tensor, "n k"], labels: Int[torch.Tensor, " n"]
    ) -> Float[torch.Tensor, ""]:
        """Return the weighted focal loss, summed."""
        return (self.weights[labels] * focal_loss(logits, labels).sum(dim=1)).sum()

    def scores(self, logits: Float[torch.Tensor, "*n k"]) -> Float[torch.Tensor, "*n c"]:
        """Return ``sigmoid(logits)``."""
        return logits.sigmoid()


class MarginScoring(Scoring):
    """Effective class margins (ECM, arXiv 2301.09724) with one more channel for the background.

    With ``n_c`` objects of class c, ``n_bg = ratio * sum_c n_c`` and the total over all ``C + 1`` channels::

        p_c  = sigmoid(2 s_c + 1/4 ln(n_c / (total - n_c)))
        a_c  = (total - n_c) / n_c,     w_c = a_c ln((1 + a_c) / a_c)
        loss = sum_c w_c BCE(p_c, y_c)                       y one-hot with the background
        score of class c = sigmoid(s_c) (1 - sigmoid(s_bg))

    ``w_c`` is ln 2 for a class that is half of everything and goes to 1 for rare classes. The paper takes counts of
    images and 6.3313 for the background of Mask R-CNN; here they are objects, and the ratio is measured with
    :func:`deblora.detect.fcos.assign.background_ratio`. The biases start at a shifted ``p`` of .01 for classes and .99
    for the background, else the first steps explode.

    Args:
        counts: Training objects per class.
        background_ratio: Background locations per assigned location, > 0.

    Raises:
        DataError: If a class has no object.
        ValueError: If the ratio is not positive.
    """

    def __init__(self, counts: Int[np.ndarray, " c"], *, background_ratio: float) -> None:
        super().__init__()
        self.n_classes, self.n_channels = len(counts), len(counts) + 1
        shift, weights = margins(counts, background_ratio=background_ratio)
        prior = torch.full((self.n_channels,), PRIOR)
        prior[-1] = 1 - PRIOR
        self.shift: torch.Tensor
        self.weights: torch.Tensor
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float32))
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32))
        self.register_buffer("bias", (prior.logit() - self.shift) / 2)

    def loss(
        self, logits: Float[torch.Tensor, "n k"], labels: Int[torch.Tensor, " n"]
    ) -> Float[torch.Tensor, ""]:
        """Return the weighted binary cross-entropy of shifted scores, summed."""
        target = one_hot(labels, self.n_channels).to(logits)
        entropy = functional.binary_cross_entropy_with_logits(
            2 * logits + self.shift, target, reduction="none"
        )
        return (self.weights * entropy).sum()

    def scores(self, logits: Float[torch.Tensor, "*n k"]) -> Float[torch.Tensor, "*n c"]:
        """Return ``sigmoid(s_c) (1 - sigmoid(s_bg))``, without the shift."""
        return logits[..., :-1].sigmoid() * (-logits[..., -1:]).sigmoid()


def class_balanced_weights(counts: Int[np.ndarray, " c"], *, beta: float = BETA) -> Float[np.ndarray, " c"]:
    """Return ``(1 - beta) / (1 - beta^n_c)`` scaled to mean 1: inverse effective numbers (arXiv 1901.05555).

    Args:
        counts: Training objects per class.
        beta: 0 weights all classes alike, toward 1 by inverse counts; .9999 is the largest of the paper.

    Raises:
        DataError: If a class has no object.
        ValueError: If beta is not in [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    n = _checked_counts(counts)
    weights = np.ones(len(n)) if beta == 0 else (1 - beta) / -np.expm1(n * np.log(beta))
    return np.asarray(weights / weights.mean())


def margins(
    counts: Int[np.ndarray, " c"], *, background_ratio: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return ECM's shifts ``1/4 ln(n_c / (total - n_c))`` and weights ``w_c``; the last one is the background's.

    Raises:
        DataError: If a class has no object.
        ValueError: If the ratio is not positive.
    """
    if not (math.isfinite(background_ratio) and background_ratio > 0):
        raise ValueError(f"background_ratio must be positive, got {background_ratio}")
    n = _checked_counts(counts)
    n = np.append(n, background_ratio * n.sum())
    odds = (n.sum() - n) / n
    return -np.log(odds) / 4, odds * np.log1p(1 / odds)


def _checked_counts(counts: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    n = np.asarray(counts, dtype=np.float64)
    if n.ndim != 1 or not len(n) or not np.isfinite(n).all():
        raise ValueError(f"counts must be one number per class, got {np.asarray(counts).tolist()}")
    if n.min() < 1:
        raise DataError(
            f"class {int(n.argmin())} has {int(n.min())} training objects; leave it out of the classes, "
            "or use the plain focal loss"
        )
    return n


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
