"""One class against all others: how the adapter of a class is trained in class-wise LoRA."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from deblora.models.backbone import Backbone
from deblora.train.samples import training_order


class OneVsRest(nn.Module):
    """Binary cross-entropy of ``w f(x) + b`` with a throw-away head on layer-normalized features.

    Every second sample shows the class (see :func:`alternating_order`), so that a rare class is not ignored.

    Args:
        backbone: Model with a trainable adapter.
        seed: Seed of the head's weights.
    """

    def __init__(self, backbone: Backbone, *, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.feature_size, elementwise_affine=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(backbone.feature_size, 1)

    def forward(
        self, pixels: Float[torch.Tensor, "b c h w"], labels: Int[torch.Tensor, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch; labels are 1 for the class and 0 for the others."""
        logits = self.head(self.norm(self.backbone(pixels)))[:, 0]
        return {"loss": functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))}


def alternating_order(is_member: Bool[np.ndarray, " n"], n_samples: int, seed: int) -> Int[np.ndarray, " m"]:
    """Return chips of the class and of the others in turn, each side in seeded permutations of its own.

    Raises:
        ValueError: If one side is empty.
    """
    sides = np.flatnonzero(is_member), np.flatnonzero(~is_member)
    if not all(len(side) for side in sides):
        raise ValueError("a class against the others needs chips on both sides")
    n_each = -(-n_samples // 2)
    drawn = [side[training_order(len(side), n_each, seed + i)] for i, side in enumerate(sides)]
    return np.stack(drawn, axis=1).ravel()[:n_samples]
