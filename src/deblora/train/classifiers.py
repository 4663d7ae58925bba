"""An extractor trained together with a classifier that is kept: one objective for every such classifier."""

from abc import abstractmethod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import nn
from torch.nn import functional

from deblora.models.backbone import Backbone
from deblora.train.samples import training_order


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
