"""What of the extractor takes part in detection, and what of it is trained."""

import torch
from jaxtyping import Float
from torch import nn

from deblora.models.backbone import Backbone
from deblora.models.maps import feature_maps, size_multiple

FRESH_STD = 0.02  # of class tokens and position codes, as ViTs start


def used_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """Return the parameters that feature maps depend on: a classifier on top of them does not count.

    Found by asking for the gradient of the maps of one blank image.
    """
    parameters = list(backbone.encoder.parameters())
    was = [parameter.requires_grad for parameter in parameters]
    size = 2 * size_multiple(backbone)
    try:
        backbone.encoder.requires_grad_(True)
        blank = torch.zeros(1, backbone.spec.n_bands, size, size, device=parameters[0].device)
        total = torch.stack([level.float().sum() for level in feature_maps(backbone, blank)]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for parameter, flag in zip(parameters, was, strict=True):
            parameter.requires_grad_(flag)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def n_parameters(backbone: Backbone) -> tuple[int, int]:
    """Return how many numbers of the extractor take part, and how many of these are trained."""
    used = used_parameters(backbone)
    return sum(p.numel() for p in used), sum(p.numel() for p in used if p.requires_grad)


def train_all(backbone: Backbone) -> None:
    """Make every parameter trainable that feature maps depend on. Batch-norm statistics stay as they are."""
    for parameter in used_parameters(backbone):
        parameter.requires_grad_(True)


@torch.no_grad()
def start_afresh(backbone: Backbone, *, seed: int, pixels: Float[torch.Tensor, "b c h w"]) -> None:
    """Replace all weights by random ones: the start of the row "from scratch".

    Layers draw as PyTorch initializes them, other parameters (tokens, position codes) from a normal distribution of
    deviation .02. Because statistics of batch norm stay fixed in training here, they are set once from ``pixels``.

    Args:
        backbone: Changed in place.
        seed: Of the weights; the global generator is left alone.
        pixels: Normalized training images.
    """
    owned: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in backbone.encoder.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                owned.update(id(parameter) for parameter in module.parameters())
        for parameter in backbone.encoder.parameters():
            if id(parameter) not in owned:
                parameter.normal_(std=FRESH_STD)
    norms = [module for module in backbone.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        feature_maps(backbone, pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
