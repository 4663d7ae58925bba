"""SatMAE (arXiv 2207.08051): the ViT pre-trained on fMoW pictures or on fMoW-Sentinel, from its own checkpoint."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.mae_weights import (
    EPS,
    HEADS,
    block_weights,
    decoder_config,
    decoder_weights,
    depth,
    encoder_config,
    encoder_weights,
    fill,
    has_decoder,
)
from deblora.models.backbones.vision import wrap
from deblora.models.presets import PRESETS
from deblora.models.weights import HALF, read_checkpoint, weights_file

BANDS = (
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B11",
    "B12",
)  # published: without B01, B09, B10
GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
# Digital numbers (10000 times reflectance) of fMoW-Sentinel, from the published training code.
BAND_MEAN = (
    1184.3825,
    1120.7712,
    1136.2603,
    1263.7395,
    1645.4032,
    1846.8704,
    1762.5953,
    1972.6242,
    1732.1636,
    1247.9187,
)
BAND_STD = (
    650.2843,
    712.1251,
    965.2312,
    948.9820,
    1108.0665,
    1258.3639,
    1233.1492,
    1364.3869,
    1310.3700,
    1087.6021,
)
WHITE = 10_000.0  # data.scale that the input assumes


class GroupViT(nn.Module):
    """The encoder; its output is that of a transformers model.

    Args:
        settings: Fields of ``transformers.ViTConfig``.
        groups: Bands of every group.
        channel_width: Numbers of a token's code that name its group.
    """

    def __init__(
        self, settings: dict[str, Any], groups: tuple[tuple[int, ...], ...], channel_width: int
    ) -> None:
        super().__init__()
        import transformers
        from transformers.models.vit.modeling_vit import ViTLayer

        config = transformers.ViTConfig(**settings)
        config._attn_implementation = "sdpa"
        width, patch = config.hidden_size, config.patch_size
        n_patches = (config.image_size // patch) ** 2
        self.groups, self.fixed_bands = groups, True
        self.patch_embed = nn.ModuleList(nn.Conv2d(len(group), width, patch, patch) for group in groups)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + n_patches, width - channel_width))
        self.channel_embed = nn.Parameter(torch.zeros(1, len(groups), channel_width))
        self.channel_cls_embed = nn.Parameter(torch.zeros(1, 1, channel_width))
        self.layers = nn.ModuleList(ViTLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Float[torch.Tensor, "b c h w"]) -> Any:
        """Return class token, then the patches of the first group, of the second and so on."""
        from transformers.modeling_outputs import BaseModelOutput

        grids = [
            embed(pixel_values[:, group]) for embed, group in zip(self.patch_embed, self.groups, strict=True)
        ]
        positions = self._positions(*grids[0].shape[2:])
        tokens = [
            grid.flatten(2).transpose(1, 2)
            + torch.cat([positions, code.expand(1, positions.shape[1], -1)], dim=2)
            for grid, code in zip(grids, self.channel_embed.split(1, dim=1), strict=True)
        ]
        start = self.cls_token + torch.cat([self.pos_embed[:, :1], self.channel_cls_embed], dim=2)
        hidden = torch.cat([start.expand(len(pixel_values), -1, -1), *tokens], dim=1)
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutput(last_hidden_state=self.layernorm(hidden))

    def _positions(self, rows: int, columns: int) -> Float[torch.Tensor, "1 n p"]:
        """Return the position codes, interpolated bicubically for another grid than the model's."""
        codes = self.pos_embed[:, 1:]
        side = round(codes.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return codes
        plane = codes.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        plane = functional.interpolate(plane, size=(rows, columns), mode="bicubic", align_corners=False)
        return plane.permute(0, 2, 3, 1).flatten(1, 2)


def is_grouped(weights: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether weights in the names of the original code have codes of band groups."""
    return "channel_embed" in weights


def from_weights(weights: Mapping[str, torch.Tensor], where: Path) -> tuple[GroupViT, InputSpec]:
    """Return the encoder and its input.

    The published code stretches each band from two standard deviations below its mean to two above onto 0 to 1 and
    clips; the input here is stretched alike and not clipped. It assumes ``data.scale: 10000``.

    Raises:
        ModelError: If the weights are incomplete or have other groups than the published ones.
    """
    try:
        kernels = [weights[f"patch_embed.{i}.proj.weight"] for i in range(len(GROUPS))]
        (width, _, patch, _), channel_width = kernels[0].shape, weights["channel_embed"].shape[2]
        side = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
        inner = weights["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{where} does not hold a multispectral SatMAE in its original names: {error}"
        ) from error
    found = tuple(kernel.shape[1] for kernel in kernels)
    if found != tuple(map(len, GROUPS)) or weights["channel_embed"].shape[1] != len(GROUPS):
        raise ModelError(
            f"{where} groups its bands as {found}; only the published groups of {', '.join(BANDS)} are known"
        )
    settings = {
        "hidden_size": width,
        "num_hidden_layers": depth(weights, "blocks"),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "intermediate_size": inner,
        "image_size": side * patch,
        "patch_size": patch,
        "layer_norm_eps": EPS,
        "hidden_act": "gelu",
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
    }
    encoder = GroupViT(settings, GROUPS, channel_width)
    same = ("cls_token", "pos_embed", "channel_embed", "channel_cls_embed")
    renamed = {key: weights[key] for key in same if key in weights}
    renamed |= {
        key.replace("norm.", "layernorm."): weights[key]
        for key in ("norm.weight", "norm.bias")
        if key in weights
    }
    for i in range(len(GROUPS)):
        renamed |= {f"patch_embed.{i}.{k}": weights[f"patch_embed.{i}.proj.{k}"] for k in ("weight", "bias")}
    fill(encoder, renamed | block_weights(weights, "blocks", "layers"), where)
    low = tuple((mean - 2 * std) / WHITE for mean, std in zip(BAND_MEAN, BAND_STD, strict=True))
    return encoder, InputSpec(
        len(BANDS), side * patch, low, tuple(4 * std / WHITE for std in BAND_STD), 255.0
    )


FILES = PRESETS["satmae"].files


def load(path: Path, *, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load SatMAE's encoder, or any masked autoencoder in the names of the original MAE code.

    A multispectral checkpoint is known by its ``channel_embed``; its input is described at :func:`from_weights`.

    Pixels / 255 are normalized by mean and std .5 per band (authors' code of debLoRA), at 224 px for the published
    file; all sizes are those of the weights.

    Args:
        path: ``fmow_pretrain.pth``, ``pretrain-vit-large-e199.pth``, a converted safetensors file, or a folder with
            one of ``FILES``.
        image_size: Pixels per side; other sizes than the model's interpolate its position codes.
        pool: ``mean`` of the patch tokens, or the ``cls`` token.

    Raises:
        ModelError: If the file is missing, damaged, would run code, or is of another architecture.
    """
    import transformers

    file = weights_file(path, names=FILES)
    weights = read_checkpoint(file)
    if is_grouped(weights):
        return _grouped(weights, file, image_size=image_size, pool=pool)
    settings = encoder_config(weights, file)
    encoder = transformers.ViTModel(transformers.ViTConfig(**settings), add_pooling_layer=False)
    fill(encoder, encoder_weights(weights), file)
    size, n_bands = image_size or settings["image_size"], settings["num_channels"]
    half = HALF if n_bands == len(HALF) else (0.5,) * n_bands
    return wrap(
        encoder.eval(),
        spec=InputSpec(n_bands, size, half, half, 255.0),
        name="satmae",
        weights_sha256=file_sha256(file),
        pool=pool,
        interpolate=size != settings["image_size"],
        where=file,
        open_decoder=partial(_decoder, file) if has_decoder(weights) else None,
    )


def _grouped(weights: dict[str, torch.Tensor], file: Path, *, image_size: int | None, pool: str) -> Backbone:
    encoder, spec = from_weights(weights, file)
    return wrap(
        encoder.eval(),
        spec=replace(spec, image_size=image_size or spec.image_size),
        name="satmae",
        weights_sha256=file_sha256(file),
        pool=pool,
        interpolate=False,  # the encoder follows its input
        where=file,
    )


def _decoder(file: Path) -> nn.Module:
    """Read the decoder of the file; it is needed by one objective only."""
    from deblora.models.backbones.mae_weights import new_decoder

    weights: dict[str, torch.Tensor] = read_checkpoint(file)
    decoder = new_decoder({**encoder_config(weights, file), **decoder_config(weights)})
    fill(decoder, decoder_weights(weights), file)
    return decoder
