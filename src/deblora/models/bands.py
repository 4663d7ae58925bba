"""Models for another number of bands: the first convolution is widened or narrowed without changing its mean.

With weights ``w`` (out, n, k, k) of a model for ``n`` bands, every one of the ``m`` new bands gets the same kernel::

    w'[:, j] = (n / m) * mean_i w[:, i]        j = 1 .. m

so ``sum_j w'[:, j] = sum_i w[:, i]``: an image whose bands are all equal gives the same response as before, whatever
``m`` is, and later layers see numbers of the size they were trained on. The bands differ only through what an adapter
or the normalization makes of them. Our choice; repeating and rescaling pre-trained RGB kernels is common practice.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from deblora.errors import ModelError
from deblora.models.backbone import Backbone


def widen(weight: Float[torch.Tensor, "o n h w"], n_bands: int) -> Float[torch.Tensor, "o m h w"]:
    """Return kernels for ``n_bands`` bands whose sum over the bands is that of ``weight``.

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
