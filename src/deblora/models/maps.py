"""Dense feature maps of a backbone, for detection: what its pooled feature is made of, laid out in the plane."""

import inspect
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.backbone import Backbone
from deblora.models.backbones.layers import token_map


@runtime_checkable
class DenseEncoder(Protocol):
    """A network that gives feature maps itself; those of transformers need no such method."""

    map_multiple: int
    """Pixels of which height and width of an image must be multiples."""

    def feature_maps(self, pixels: Float[torch.Tensor, "b c h w"]) -> list[Float[torch.Tensor, "b d h2 w2"]]:
        """Return maps, finest first."""
        ...


@runtime_checkable
class DenseFeatures(Protocol):
    """What surrounds a network and takes its maps from inside of it (Stable Diffusion)."""

    def map_multiple_of(self, encoder: nn.Module) -> int:
        """Return the pixels of which height and width of an image must be multiples."""
        ...

    def maps(
        self, encoder: nn.Module, pixels: Float[torch.Tensor, "b c h w"]
    ) -> Float[torch.Tensor, "b d h2 w2"]:
        """Return the map."""
        ...


def feature_maps(
    backbone: Backbone, pixels: Float[torch.Tensor, "b c h w"]
) -> list[Float[torch.Tensor, "b d h2 w2"]]:
    """Return the feature maps of a batch, finest first; adapters that are attached take part.

    A transformer gives one map, its last patch tokens in the order of the patches, without class and register
    tokens; position codes follow the grid of the input, interpolated bicubically, or computed where the model
    computes them (Galileo). EfficientNet-Lite0 gives three maps of strides 8, 16 and 32, before its head
    convolution; an adapter on that convolution has no part in them. A convolutional model of Hugging Face gives its
    last map, Stable Diffusion the output of its block, averaged over the draws of noise.

    Args:
        backbone: Any backbone of :func:`deblora.models.backbone.load_backbone`, with or without adapters.
        pixels: Normalized images of any size that is a multiple of the patch or of the last stride.

    Raises:
        ModelError: If the size does not fit, or the tokens of the model cannot be laid out on the patches.
    """
    encoder, multiple = _without_adapters(backbone.encoder), size_multiple(backbone)
    height, width = pixels.shape[2:]
    if height % multiple or width % multiple:
        raise ModelError(
            f"images of {height} x {width} px do not fit the backbone {backbone.name}; "
            f"cut or pad them to multiples of {multiple} px"
        )
    around = _around(backbone)
    if isinstance(around, DenseFeatures):
        return [around.maps(backbone.encoder, pixels)]
    if isinstance(encoder, DenseEncoder):
        return encoder.feature_maps(pixels)
    options = {}
    if "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters:
        options["interpolate_pos_encoding"] = True  # other models interpolate without being told
    tokens = backbone.encoder(pixel_values=pixels, **options).last_hidden_state
    return [tokens if tokens.ndim == 4 else token_map(tokens, pixels, patch=multiple, name=backbone.name)]


def size_multiple(backbone: Backbone) -> int:
    """Return the number of pixels of which height and width of an image must be multiples for feature maps.

    Raises:
        ModelError: If the layout of the model is not known, or its patches are not square.
    """
    encoder = _without_adapters(backbone.encoder)
    around = _around(backbone)
    if isinstance(around, DenseFeatures):
        return around.map_multiple_of(encoder)
    if isinstance(encoder, DenseEncoder):
        return encoder.map_multiple
    config = getattr(encoder, "config", None)
    if config is None:
        raise ModelError(f"feature maps of the backbone {backbone.name} are not known; see models/maps.py")
    patch = getattr(config, "patch_size", 1)
    sides = {int(side) for side in patch} if isinstance(patch, Sequence) else {int(patch)}
    if len(sides) != 1:
        raise ModelError(f"feature maps need square patches, but the model has {patch}")
    return sides.pop()


def fill_up(pixels: Float[torch.Tensor, "*n h w"], multiple: int) -> Float[torch.Tensor, "*n h2 w2"]:
    """Add the mean color (0) at the right and lower side, up to whole multiples of the patch or the last stride."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, -width % multiple, 0, -height % multiple))


def map_strides(
    pixels: Float[torch.Tensor, "b c h w"], maps: Sequence[Float[torch.Tensor, "b d h2 w2"]]
) -> tuple[int, ...]:
    """Return the stride of every map in pixels, image size over map size.

    Raises:
        ModelError: If a stride is not a whole number or differs between height and width.
    """
    strides = []
    for level in maps:
        high, wide = (size / cells for size, cells in zip(pixels.shape[2:], level.shape[2:], strict=True))
        if high != wide or high != int(high):
            raise ModelError(
                f"a map of {level.shape[2]} x {level.shape[3]} cells does not divide images of "
                f"{pixels.shape[2]} x {pixels.shape[3]} px into equal squares; pad the images"
            )
        strides.append(int(high))
    return tuple(strides)


@torch.no_grad()
def map_channels(backbone: Backbone) -> tuple[int, ...]:
    """Return the channels of every map, from one blank image of about the backbone's own size."""
    multiple = size_multiple(backbone)
    size = max(1, backbone.spec.image_size // multiple) * multiple
    device = next(backbone.parameters()).device
    blank = torch.zeros(1, backbone.spec.n_bands, size, size, device=device)
    return tuple(level.shape[1] for level in feature_maps(backbone, blank))


def _without_adapters(encoder: nn.Module) -> nn.Module:
    return encoder.get_base_model() if hasattr(encoder, "peft_config") else encoder  # type: ignore[operator]


def _around(backbone: Backbone) -> object:
    return getattr(backbone.pooled, "inner", backbone.pooled)
