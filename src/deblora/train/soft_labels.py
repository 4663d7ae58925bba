"""Self-training: an adapter and a linear classifier learn from labeled chips and from soft labels of others."""

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.train.supervised import Classifier, seeded_linear


class SoftLabelClassifier(Classifier):
    """A linear classifier under balanced softmax with soft targets (arXiv 2007.10740 with 1911.04252).

    ::

        loss = mean over the batch of -sum_c t_c log softmax(W norm(f(x)) + b + log pi)_c

    ``pi`` is the share of each class among all targets, labeled and not, so unlabeled chips of rare classes also make
    the prior less extreme. No prior at prediction.

    Args:
        feature_size: Size ``d`` of a feature.
        log_prior: Log of the mean target.
        seed: Seed of the weights.
    """

    def __init__(self, feature_size: int, *, log_prior: Float[torch.Tensor, " c"], seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_size, elementwise_affine=False)
        (self.linear,) = seeded_linear(feature_size, len(log_prior), 1, seed=seed)
        self.log_prior: torch.Tensor
        self.register_buffer("log_prior", log_prior.float())

    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b c"]:
        """Return the logits, without prior."""
        logits: torch.Tensor = self.linear(self.norm(features))
        return logits

    def loss(self, features: Float[torch.Tensor, "b d"], labels: Float[torch.Tensor, "b c"]) -> torch.Tensor:
        """Return the loss of a batch; rows of ``labels`` are probabilities."""
        return functional.cross_entropy(self(features) + self.log_prior, labels)
