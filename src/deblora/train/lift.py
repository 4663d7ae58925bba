"""The classifier of LIFT trained with an adapter: cosine, logit-adjusted, from class means (arXiv 2309.10019)."""

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from deblora.train.supervised import Classifier


class LiftClassifier(Classifier):
    """``logits = scale cos(f(x), w_c)``, trained with ``CE(logits + log pi, y)``; no prior at prediction.

    Args:
        means: Class means of the frozen features, where the weights start (LIFT's start for models without a text
            tower); a mean of zeros stays without direction until it is trained.
        log_prior: Log class frequencies of the training chips.
        scale: Logits per unit of cosine, > 0 (LIFT's code: 25).
    """

    def __init__(
        self, means: Float[torch.Tensor, "c d"], *, log_prior: Float[torch.Tensor, " c"], scale: float
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.weight = nn.Parameter(functional.normalize(means.float(), dim=1))
        self.scale = scale
        self.log_prior: torch.Tensor
        self.register_buffer("log_prior", log_prior.float())

    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b c"]:
        """Return logits in ``[-scale, scale]``."""
        directions = functional.normalize(self.weight, dim=1)
        return self.scale * functional.normalize(features, dim=1) @ directions.T

    def loss(self, features: Float[torch.Tensor, "b d"], labels: Int[torch.Tensor, " b"]) -> torch.Tensor:
        """Return the loss of a batch."""
        return functional.cross_entropy(self(features) + self.log_prior, labels)
