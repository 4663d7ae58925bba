"""What an adapter minimizes. Each objective is a module whose forward returns ``{"loss": scalar}``.

The loss is a mean over the samples of the batch. A weighted mean returns the sum of its weights as ``"weight"``, so
that processes which share a batch can put their means together.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from deblora.models.backbone import Backbone


class Classify(nn.Module):
    """Cross-entropy with a throw-away linear head: stage 0, the LoRA adapter.

    With a log prior the loss is balanced softmax (arXiv 2007.10740)::

        loss = CE(W f(x) + b + log pi, y)

    Args:
        backbone: Model with a trainable adapter.
        n_classes: Classes of the head.
        log_prior: Log of the training class frequencies, or ``None`` for plain cross-entropy.
        seed: Seed of the head's weights.
    """

    def __init__(
        self, backbone: Backbone, n_classes: int, *, log_prior: Float[torch.Tensor, " c"] | None, seed: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.norm = nn.LayerNorm(backbone.feature_size, elementwise_affine=False)
            self.head = nn.Linear(backbone.feature_size, n_classes)
        self.register_buffer("offset", torch.zeros(n_classes) if log_prior is None else log_prior.float())

    def forward(
        self, pixels: Float[torch.Tensor, "b c h w"], labels: Int[torch.Tensor, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        logits = self.head(self.norm(self.backbone(pixels)))
        return {"loss": functional.cross_entropy(logits + self.offset, labels)}


FeatureLoss = Literal["squared_l2", "l2", "cosine"]


class Regress(nn.Module):
    """Reproduce calibrated features: the debLoRA objective ``|| g(f(x)) - z~ ||``.

    Both sides are divided by the standard deviation of each dimension (our choice: dimensions of large variance
    would dominate otherwise) and the squared distance is averaged over dimensions.

    Args:
        backbone: Model with a trainable adapter.
        scale: Standard deviation of each dimension over the training features; ones for the raw space.
        loss: Distance; the paper prints a plain norm, ``squared_l2`` is our default.
    """

    def __init__(
        self, backbone: nn.Module, *, scale: Float[torch.Tensor, " d"], loss: FeatureLoss = "squared_l2"
    ) -> None:
        super().__init__()
        self.backbone, self.loss = backbone, loss
        self.scale: torch.Tensor
        self.register_buffer("scale", scale.float())

    def forward(
        self,
        pixels: Float[torch.Tensor, "b ..."],
        target: Float[torch.Tensor, "b d"],
        weight: Float[torch.Tensor, " b"],
    ) -> dict[str, torch.Tensor]:
        """Return the weighted mean distance of a batch, and its weight."""
        distance = feature_distance(self.backbone(pixels) / self.scale, target / self.scale, self.loss)
        return {"loss": (weight * distance).sum() / weight.sum(), "weight": weight.sum()}


def feature_distance(
    a: Float[torch.Tensor, "b d"], b: Float[torch.Tensor, "b d"], loss: FeatureLoss
) -> Float[torch.Tensor, " b"]:
    """Return one distance per row: mean squared, Euclidean, or one minus cosine."""
    if loss == "squared_l2":
        return (a - b).pow(2).mean(dim=1)
    if loss == "l2":
        return (a - b).norm(dim=1)
    return 1 - functional.cosine_similarity(a, b, dim=1)
