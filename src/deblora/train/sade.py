"""SADE trained with the extractor: three experts with one trunk (arXiv 2107.09249)."""

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from deblora.train.supervised import Classifier, seeded_linear


class SadeClassifier(Classifier):
    """Experts for the training, the uniform and the reversed class frequencies; their mean predicts.

    ::

        loss = CE(s1, y) + CE(s2 + log pi, y) + CE(s3 + log pi - tau log pi_inv, y)

    ``pi_inv`` is the prior with ranks reversed. Equal weights stand in for the weights that the paper learns on test
    images without labels: they use no test chip. Experts are linear on layer-normalized features (ours).

    Args:
        feature_size: Size ``d`` of a feature.
        log_prior: Log class frequencies of the training chips.
        inverse_log_prior: Log of the prior with ranks reversed.
        tau: Strength of the reversed prior, >= 0 (authors' code: 2).
        seed: Seed of the weights.
    """

    def __init__(
        self,
        feature_size: int,
        *,
        log_prior: Float[torch.Tensor, " c"],
        inverse_log_prior: Float[torch.Tensor, " c"],
        tau: float,
        seed: int,
    ) -> None:
        super().__init__()
        if tau < 0:
            raise ValueError(f"tau must not be negative, got {tau}")
        self.norm = nn.LayerNorm(feature_size, elementwise_affine=False)
        self.experts = seeded_linear(feature_size, len(log_prior), 3, seed=seed)
        offsets = (torch.zeros_like(log_prior), log_prior, log_prior - tau * inverse_log_prior)
        self.offsets: torch.Tensor
        self.register_buffer("offsets", torch.stack(offsets).float())

    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b c"]:
        """Return the mean of the experts' logits."""
        return self._scores(features).mean(dim=0)

    def loss(self, features: Float[torch.Tensor, "b d"], labels: Int[torch.Tensor, " b"]) -> torch.Tensor:
        """Return the loss of a batch."""
        adjusted = self._scores(features) + self.offsets[:, None]
        return torch.stack([functional.cross_entropy(scores, labels) for scores in adjusted]).sum()

    def _scores(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "3 b c"]:
        normal = self.norm(features)
        return torch.stack([expert(normal) for expert in self.experts])
