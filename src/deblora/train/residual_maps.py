"""Maps in feature space that a second adapter can be: they start as the identity and are trained on features alone."""

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional


class ResidualMap(nn.Module):
    """A low-rank residual in feature space, ``g(z) = z + B A z``; B starts at zero, so g starts as the identity.

    Args:
        feature_size: Size ``d`` of a feature.
        rank: Inner size ``r``.
        seed: Seed of ``A``.
    """

    def __init__(self, feature_size: int, rank: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.Linear(feature_size, rank, bias=False)
            self.up = nn.Linear(rank, feature_size, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b d"]:
        """Return the moved features."""
        moved: torch.Tensor = features + self.up(self.down(features))
        return moved


class ResidualMlp(nn.Module):
    """A residual with one hidden layer, ``g(z) = z + B gelu(A z + a)``; B starts at zero, so g starts as the identity.

    Unlike :class:`ResidualMap` it can move some regions of feature space and leave others where they are (ours; the
    authors name non-linear optimization as future work). ``A z`` is not standardized: features far below 1 see the
    nearly straight part of the gelu, and the map is then close to a linear one.

    Args:
        feature_size: Size ``d`` of a feature.
        n_hidden: Hidden size ``r``.
        seed: Seed of ``A`` and ``a``, uniform within ``1 / sqrt(d)`` (torch's default for a linear layer).
    """

    def __init__(self, feature_size: int, n_hidden: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.Linear(feature_size, n_hidden)
            self.up = nn.Linear(n_hidden, feature_size, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b d"]:
        """Return the moved features."""
        moved: torch.Tensor = features + self.up(functional.gelu(self.down(features)))
        return moved
