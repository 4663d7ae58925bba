"""Decoders of masked autoencoders: visible tokens in, pixels of every patch out."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from deblora.models.hub import quiet

LIGHT = {  # a decoder that is trained beside the adapter and thrown away (our choice)
    "decoder_hidden_size": 128,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 256,
}


def new_decoder(settings: dict[str, Any]) -> nn.Module:
    """Return an untrained decoder of ``transformers.ViTMAEForPreTraining``.

    Args:
        settings: Fields of ``transformers.ViTMAEConfig``; ``image_size`` fixes the grid of patches.
    """
    import transformers
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

    config = transformers.ViTMAEConfig(**settings)
    config._attn_implementation = "sdpa"  # what a model would choose; a lone part does not
    decoder: nn.Module = ViTMAEDecoder(config, (config.image_size // config.patch_size) ** 2)
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return decoder


def folder_decoder(folder: Path) -> nn.Module | None:
    """Return the decoder of a ViTMAE folder; ``None`` where only the encoder was saved."""
    import transformers

    with quiet():
        model, notes = transformers.ViTMAEForPreTraining.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    # transformers would fill what is missing with random numbers, and this decoder is not trained
    if any(key.startswith("decoder.") for key in notes["missing_keys"]):
        return None
    decoder: nn.Module = model.float().decoder
    return decoder


@torch.no_grad()
def fit_grid(decoder: Any, side: int) -> None:
    """Interpolate the position codes of a decoder to ``side`` x ``side`` patches, bicubically, in place."""
    codes = decoder.decoder_pos_embed
    before = round((codes.shape[1] - 1) ** 0.5)
    if before == side:
        return
    plane = codes[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    plane = functional.interpolate(plane, size=(side, side), mode="bicubic", align_corners=False)
    fitted = torch.cat([codes[:, :1], plane.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    decoder.decoder_pos_embed = nn.Parameter(fitted, requires_grad=False)
