"""ResLT trained with the extractor: three branches that are added up (arXiv 2101.10633)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from deblora.train.supervised import Classifier, seeded_linear

N_BRANCHES = 3


class ResltClassifier(Classifier):
    """Three branches, ``logits = s_H + s_M + s_T``.

    With ``CE_b`` summed over the chips of a batch that belong to branch ``b`` and ``m_b`` their number::

        (1 - beta) mean CE(s_H + s_M + s_T, y) + beta (CE_H + CE_M + CE_T) / (m_H + m_M + m_T)

    Branch H is trained on all chips, M on those of middle and tail classes, T on those of tail classes. The branches
    are linear on layer-normalized features (ours; the same normalization as in the other first objectives).

    Args:
        feature_size: Size ``d`` of a feature.
        in_branch: Whether a class belongs to branch H, M, T.
        beta: Weight of the branch loss, in [0, 1] (ours: .5; the authors' code has no default).
        seed: Seed of the weights.
    """

    def __init__(
        self, feature_size: int, *, in_branch: Bool[torch.Tensor, "3 c"], beta: float, seed: int
    ) -> None:
        super().__init__()
        if in_branch.ndim != 2 or len(in_branch) != N_BRANCHES:
            raise ValueError(f"in_branch must have {N_BRANCHES} rows, got shape {tuple(in_branch.shape)}")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], got {beta}")
        self.norm = nn.LayerNorm(feature_size, elementwise_affine=False)
        self.branches = seeded_linear(feature_size, in_branch.shape[1], N_BRANCHES, seed=seed)
        self.beta = beta
        self.in_branch: torch.Tensor
        self.register_buffer("in_branch", in_branch.bool())

    def forward(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "b c"]:
        """Return the sum of the branches' logits."""
        return self._scores(features).sum(dim=0)

    def loss(self, features: Float[torch.Tensor, "b d"], labels: Int[torch.Tensor, " b"]) -> torch.Tensor:
        """Return the loss of a batch."""
        scores = self._scores(features)
        member = self.in_branch[:, labels].to(scores.dtype)
        own = torch.stack([functional.cross_entropy(s, labels, reduction="none") for s in scores])
        branches = (own * member).sum() / member.sum()
        fused = functional.cross_entropy(scores.sum(dim=0), labels)
        return (1 - self.beta) * fused + self.beta * branches

    def _scores(self, features: Float[torch.Tensor, "b d"]) -> Float[torch.Tensor, "3 b c"]:
        normal = self.norm(features)
        return torch.stack([branch(normal) for branch in self.branches])


def branch_members(
    groups: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], n_classes: int
) -> Bool[torch.Tensor, "3 c"]:
    """Return which classes the branches H, M and T are trained on, from head, middle and tail classes."""
    head, middle, tail = groups
    members = torch.zeros(N_BRANCHES, n_classes, dtype=torch.bool)
    for row, classes in enumerate(((*head, *middle, *tail), (*middle, *tail), tail)):
        members[row, list(classes)] = True
    return members
