"""One protocol for every pre-trained model: normalized pixels in, one feature vector per chip out, any bands."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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


def widen(weight: Float[torch.Tensor, "o n h w"], n_bands: int) -> Float[torch.Tensor, "o m h w"]:
    """Return kernels for ``n_bands`` bands whose sum over the bands is that of ``weight``.

    With weights ``w`` (out, n, k, k) of a model for ``n`` bands, every one of the ``m`` new bands gets
    the same kernel::

        w'[:, j] = (n / m) * mean_i w[:, i]        j = 1 .. m

    so ``sum_j w'[:, j] = sum_i w[:, i]``: an image whose bands are all equal gives the same response as before,
    whatever ``m`` is, and later layers see numbers of the size they were trained on. The bands differ only through
    what an adapter or the normalization makes of them. Our choice; repeating and rescaling pre-trained RGB kernels is
    common practice.

    Args:
        weight: Kernels of the first convolution.
        n_bands: Number of new bands, >= 1.
    """
    mean = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / n_bands)
    return mean.expand(-1, n_bands, -1, -1).contiguous()


def with_bands(backbone: Backbone, n_bands: int) -> Backbone:
    """Return the backbone for images with ``n_bands`` bands; the same object where it already takes them.

    The normalization is a placeholder (mean and std .5): the model knows nothing of these bands, so the statistics
    of the training chips have to replace it (:mod:`deblora.pipeline.open_model`).

    Args:
        backbone: Changed in place, before an adapter is attached.
        n_bands: Bands of the images, >= 1.

    Raises:
        ModelError: If no plain convolution is the first to see the pixels (Galileo names its bands by
            ``backbone.sensor``).
    """
    if n_bands == backbone.spec.n_bands:
        return backbone
    name, stem = _first_convolution(backbone)
    wider = nn.Conv2d(
        n_bands,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        stride=stem.stride,  # type: ignore[arg-type]
        padding=stem.padding,  # type: ignore[arg-type]
        dilation=stem.dilation,  # type: ignore[arg-type]
        bias=stem.bias is not None,
    )
    with torch.no_grad():
        wider.weight.copy_(widen(stem.weight, n_bands))
        if stem.bias is not None and wider.bias is not None:
            wider.bias.copy_(stem.bias)
    wider.requires_grad_(False).eval()
    parent = backbone.encoder.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], wider)
    _rename_bands(backbone.encoder, n_bands)
    half = (0.5,) * n_bands
    backbone.spec = replace(backbone.spec, n_bands=n_bands, mean=half, std=half)
    return backbone


def _first_convolution(backbone: Backbone) -> tuple[str, nn.Conv2d]:
    """Return name and module of the convolution that is called first, found by calling the model once."""
    called: list[tuple[str, nn.Conv2d]] = []
    convolutions = [(n, m) for n, m in backbone.encoder.named_modules() if isinstance(m, nn.Conv2d)]
    handles = [
        module.register_forward_pre_hook(lambda _m, _i, found=(name, module): called.append(found))
        for name, module in convolutions
    ]
    spec = backbone.spec
    try:
        with torch.inference_mode():
            backbone(torch.zeros(1, spec.n_bands, spec.image_size, spec.image_size))
    finally:
        for handle in handles:
            handle.remove()
    fits = called and called[0][1].in_channels == spec.n_bands and called[0][1].groups == 1
    if not fits or getattr(backbone.encoder, "fixed_bands", False):
        raise ModelError(
            f"the backbone {backbone.name} takes {spec.n_bands} bands of its own and cannot be widened; leave "
            "backbone.n_bands out, or choose another backbone.name or backbone.sensor"
        )
    return called[0]


def _rename_bands(encoder: nn.Module, n_bands: int) -> None:
    """Tell modules and configuration, which check the number of bands of their input."""
    config: Any = getattr(encoder, "config", None)
    for holder in (*encoder.modules(), config):
        for key in ("num_channels", "in_chans"):
            if isinstance(getattr(holder, key, None), int):
                setattr(holder, key, n_bands)
