"""An extractor trained together with a classifier that is kept: one objective for every such classifier."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Shaped
from torch import nn

from deblora.models.backbone import Backbone


class Classifier(nn.Module):
    """From features to logits, and the loss by which it is trained together with the extractor."""

    @abstractmethod
    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b c"]:
        """Return the logits whose largest is the prediction."""

    @abstractmethod
    def loss(
        self, features: Float[torch.Tensor, "b d"], labels: Shaped[torch.Tensor, "b ..."]
    ) -> torch.Tensor:
        """Return the loss of a batch, a scalar; ``labels`` are classes, or one probability per class."""


class Supervised(nn.Module):
    """Minimize the loss of a classifier over its weights and over what is trainable in the extractor.

    Args:
        backbone: Model with trainable weights.
        classifier: What stands on its features.
    """

    def __init__(self, backbone: Backbone, classifier: Classifier) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(
        self, pixels: Float[torch.Tensor, "b c h w"], labels: Shaped[torch.Tensor, "b ..."]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        return {"loss": self.classifier.loss(self.backbone(pixels), labels)}


def seeded_linear(feature_size: int, n_classes: int, n_layers: int, *, seed: int) -> nn.ModuleList:
    """Return linear layers drawn from a seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(nn.Linear(feature_size, n_classes) for _ in range(n_layers))
