"""What an adapter minimizes. Each objective is a module whose forward returns ``{"loss": scalar}``.

The loss is a mean over the samples of the batch. A weighted mean returns the sum of its weights as ``"weight"``, so
that processes which share a batch can put their means together.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from deblora.models.backbone import Backbone
from deblora.models.backbones.clip_text import TextHead
from deblora.models.backbones.diffusion import diffusion_of, keyed_generator


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


class Numbered(Dataset[dict[str, torch.Tensor]]):
    """Pixels of a training order with their place in it; labels are left behind.

    Noise drawn by this number is the same after a resume and on any number of processes.
    """

    def __init__(self, samples: Dataset[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixels": self.samples[index]["pixels"], "number": torch.tensor(index)}


class Denoise(nn.Module):
    """Predict the noise in noised latents (arXiv 2006.11239, 2112.10752).

    ::

        loss = mean || UNet(sqrt(abar_t) z0 + sqrt(1 - abar_t) e, t, prompt) - target ||^2

    with t uniform over all steps of the scheduler and e standard normal. The target is e, or
    ``v = sqrt(abar_t) e - sqrt(1 - abar_t) z0`` where the model predicts velocity.

    Args:
        backbone: Diffusion model with a trainable adapter.
        seed: Seed of steps and noise.

    Raises:
        ModelError: If the backbone is no diffusion model.
    """

    def __init__(self, backbone: Backbone, *, seed: int) -> None:
        super().__init__()
        self.backbone, self.seed = backbone, seed
        diffusion_of(backbone)

    def forward(
        self, pixels: Float[torch.Tensor, "b 3 h w"], number: Int[torch.Tensor, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        diffusion = diffusion_of(self.backbone)
        clean = diffusion.latents(pixels)
        noise, steps = self.draw(number.tolist(), clean.shape[1:])
        noise, steps = noise.to(clean), steps.to(clean.device)
        noisy = diffusion.scheduler.add_noise(clean, noise, steps)
        predicted = diffusion.predict(self.backbone.encoder, noisy, steps)
        velocity = diffusion.scheduler.config.prediction_type == "v_prediction"
        target = diffusion.scheduler.get_velocity(clean, noise, steps) if velocity else noise
        return {"loss": functional.mse_loss(predicted.float(), target.float())}

    def draw(
        self, numbers: list[int], shape: torch.Size
    ) -> tuple[Float[torch.Tensor, "b c h w"], Int[torch.Tensor, " b"]]:
        """Return noise and timestep of some samples by their place in the training order."""
        n_steps = int(diffusion_of(self.backbone).scheduler.config.num_train_timesteps)
        noise, steps = [], []
        for number in numbers:
            generator = keyed_generator(self.seed, number)
            steps.append(int(torch.randint(n_steps, (), generator=generator)))
            noise.append(torch.randn(tuple(shape), generator=generator))
        return torch.stack(noise), torch.tensor(steps)


class Contrast(nn.Module):
    """Symmetric contrast of chips and class texts; only the vision tower's adapter is trained.

    With cosines ``s_ic`` of chip i and class c, CLIP's inverse temperature ``k``, and the classes C(b) of the batch::

        image to text   a = mean over chips i of    -log softmax over all classes c of k s_ic, at c = y_i
        text to image   b = mean over c in C(b) of  -mean over i with y_i = c of log softmax over chips of k s_ic
        loss = (a + b) / 2

    Several chips of one class are all right answers for its text, as in UniCL (arXiv 2204.03610); chips are compared
    with every class text instead of only those of the batch (our choice: the texts are few and computed once).

    Args:
        backbone: CLIP's vision tower with ``pool: cls`` and a trainable adapter.
        head: Texts of the training classes.
        n_classes: Classes that labels count.
        trained: Label of each text of ``head``; a class without training chips has no text.
    """

    def __init__(self, backbone: Backbone, head: TextHead, *, n_classes: int, trained: list[int]) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        place = torch.full((n_classes,), -1)
        place[torch.tensor(trained)] = torch.arange(len(trained))
        self.place: torch.Tensor
        self.register_buffer("place", place)

    def forward(
        self, pixels: Float[torch.Tensor, "b c h w"], labels: Int[torch.Tensor, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch."""
        logits = self.head.scale * self.head(self.backbone(pixels))
        return {"loss": contrast(logits, self.place[labels])}


def contrast(logits: Float[torch.Tensor, "b c"], texts: Int[torch.Tensor, " b"]) -> Float[torch.Tensor, ""]:
    """Return the symmetric loss of scaled cosines, given the right text of every chip."""
    to_text = functional.cross_entropy(logits, texts)
    right = functional.one_hot(texts, logits.shape[1]).to(logits)
    n_chips = right.sum(dim=0)
    present = n_chips > 0
    per_text = -(right * logits.log_softmax(dim=0)).sum(dim=0)[present] / n_chips[present]
    return (to_text + per_text.mean()) / 2


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
