"""One protocol for every pre-trained model: normalized pixels in, one feature vector per chip out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.presets import PRESETS


@dataclass(frozen=True)
class InputSpec:
    """What the model was trained to see: ``(pixels / scale - mean) / std`` at ``image_size`` squared."""

    n_bands: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


class Backbone(nn.Module):
    """A frozen model with one feature per chip. There is no parameter through which a label could come in.

    Args:
        encoder: The network; adapters are attached to it.
        features: Turns the encoder and a batch into features ``b d``.
        spec: Input of the model.
        feature_size: Size ``d`` of a feature.
        name: Name of the backbone.
        weights_sha256: Hash of the weight file.
        lora_targets: Full names of the modules inside ``encoder`` that an adapter changes.
        pool: How tokens become one vector.
        open_decoder: Reads the decoder of a masked autoencoder, where the weights may hold one.
        train_statistics: Whether mean and standard deviation of the input are to be those of training chips.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: Callable[[nn.Module, torch.Tensor], torch.Tensor],
        *,
        spec: InputSpec,
        feature_size: int,
        name: str,
        weights_sha256: str,
        lora_targets: tuple[str, ...],
        pool: str,
        open_decoder: Callable[[], nn.Module | None] | None = None,
        train_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.pooled = encoder, features
        self.spec, self.feature_size, self.name = spec, feature_size, name
        self.weights_sha256, self.lora_targets, self.pool = weights_sha256, lora_targets, pool
        self.open_decoder, self.train_statistics = open_decoder, train_statistics
        self.encoder.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Keep the encoder in evaluation mode: dropout off, batch-norm statistics frozen, also while adapting."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, pixels: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d"]:
        """Return one feature per chip."""
        return self.pooled(self.encoder, pixels)


def load_backbone(name: str, *, path: Path | None, **settings: Any) -> Backbone:
    """Load a known backbone, frozen and in evaluation mode.

    Args:
        name: One of :func:`deblora.models.presets.names`.
        path: Folder or file with the weights; not used by ``embedded``.
        settings: ``image_size`` (pixels per side; the model's own if ``None``), ``pool`` (``mean`` of the patch
            tokens or ``cls`` token, where the model has one), ``sensor`` (Galileo's band group) and whatever else
            ``presets.py`` lists; each loader is given those it reads.

    Raises:
        ModelError: If the name is unknown or the weights are missing, damaged or pickled.
    """
    if name not in PRESETS:
        raise ModelError(f"unknown backbone {name!r}; known are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if preset.needs_path and path is None:
        raise ModelError(f"the backbone {name} needs a path to the folder with its weights")
    options = {key: value for key, value in settings.items() if key in preset.options}
    where = (path,) if preset.needs_path else ()
    return preset.function()(*where, **preset.fixed, **options)


class UnitFeatures(nn.Module):
    """Features of ``inner`` divided by their Euclidean norm; a module, so that what ``inner`` holds is moved along."""

    def __init__(self, inner: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, encoder: nn.Module, pixels: Float[torch.Tensor, "b c h w"]
    ) -> Float[torch.Tensor, "b d"]:
        """Return unit features."""
        return functional.normalize(self.inner(encoder, pixels), dim=1)


def with_unit_features(backbone: Backbone) -> Backbone:
    """Return the same model with every feature divided by its Euclidean norm."""
    return Backbone(
        backbone.encoder,
        UnitFeatures(backbone.pooled),
        spec=backbone.spec,
        feature_size=backbone.feature_size,
        name=backbone.name,
        weights_sha256=backbone.weights_sha256,
        lora_targets=backbone.lora_targets,
        pool=f"{backbone.pool}, unit length",
        open_decoder=backbone.open_decoder,
        train_statistics=backbone.train_statistics,
    )
