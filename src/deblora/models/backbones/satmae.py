"""SatMAE (arXiv 2207.08051): the ViT pre-trained on fMoW pictures or on fMoW-Sentinel, from its own checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from deblora.files import file_sha256
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones.folders import HALF
from deblora.models.backbones.mae_names import (
    decoder_config,
    decoder_weights,
    encoder_config,
    encoder_weights,
    fill,
    has_decoder,
)
from deblora.models.backbones.satmae_groups import from_weights, is_grouped
from deblora.models.backbones.vision import wrap
from deblora.models.presets import PRESETS
from deblora.models.weights import read_checkpoint, weights_file

FILES = PRESETS["satmae"].files


def load(path: Path, *, image_size: int | None = None, pool: str = "mean") -> Backbone:
    """Load SatMAE's encoder, or any masked autoencoder in the names of the original MAE code.

    A multispectral checkpoint is known by its ``channel_embed``; its input is described in ``satmae_groups.py``.

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
    backbone = wrap(
        encoder.eval(),
        spec=InputSpec(n_bands, size, half, half, 255.0),
        name="satmae",
        weights_sha256=file_sha256(file),
        pool=pool,
        interpolate=size != settings["image_size"],
        where=file,
    )
    if has_decoder(weights):
        backbone.open_decoder = lambda: _decoder(file)
    return backbone


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
    from deblora.models.backbones.mae_decoder import new_decoder

    weights: dict[str, torch.Tensor] = read_checkpoint(file)
    decoder = new_decoder({**encoder_config(weights, file), **decoder_config(weights)})
    fill(decoder, decoder_weights(weights), file)
    return decoder
