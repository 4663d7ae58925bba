"""Masked autoencoders in the names of their original code, read as the transformers models of the same function.

MAE (arXiv 2111.06377) and SatMAE (arXiv 2207.08051) store ``cls_token, pos_embed, patch_embed.proj, blocks.N.norm1,
blocks.N.attn.qkv, blocks.N.attn.proj, blocks.N.norm2, blocks.N.mlp.fc1, blocks.N.mlp.fc2, norm`` and a decoder under
``decoder_*`` and ``mask_token``. All sizes but the number of heads follow from the shapes.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.weights import quiet

HEADS = {768: 12, 1024: 16, 1280: 16}  # ViT-B, -L, -H; other widths: 64 numbers per head
DECODER_HEAD_SIZE = 32  # 512 numbers and 16 heads in all published decoders
EPS = 1e-6  # of every layer norm in the original code
_BLOCK = re.compile(r"(?P<stem>blocks|decoder_blocks)\.(?P<number>\d+)\.(?P<rest>.+)")
_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_ENCODER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def encoder_config(weights: Mapping[str, torch.Tensor], where: Path) -> dict[str, Any]:
    """Return the settings of ``transformers.ViTConfig`` that the shapes state.

    Raises:
        ModelError: If they are not those of a plain ViT with a class token.
    """
    try:
        _, n_tokens, width = weights["pos_embed"].shape
        out, n_bands, height, side = weights["patch_embed.proj.weight"].shape
        inner, _ = weights["blocks.0.mlp.fc1.weight"].shape
        has_class = weights["cls_token"].shape[-1] == width
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{where} does not hold a masked autoencoder in its original names: {error}"
        ) from error
    grid = math.isqrt(n_tokens - 1)
    if out != width or height != side or grid * grid != n_tokens - 1 or not has_class:
        raise ModelError(
            f"{where}: position codes {tuple(weights['pos_embed'].shape)} and patches "
            f"{tuple(weights['patch_embed.proj.weight'].shape)} are not those of a plain ViT (a temporal SatMAE is not "
            "supported)"
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": depth(weights, "blocks"),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "intermediate_size": inner,
        "image_size": grid * side,
        "patch_size": side,
        "num_channels": n_bands,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "layer_norm_eps": EPS,
        "hidden_act": "gelu",
    }


def encoder_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the encoder's weights under the names of ``transformers.ViTModel``; the fused qkv is split."""
    renamed = {new: weights[old] for old, new in _ENCODER.items() if old in weights}
    return renamed | block_weights(weights, "blocks", "layers")


def has_decoder(weights: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether the file holds the decoder too."""
    return "decoder_embed.weight" in weights and "decoder_pred.weight" in weights


def decoder_config(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the settings of ``transformers.ViTMAEConfig`` that describe the decoder."""
    width = weights["decoder_embed.weight"].shape[0]
    return {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": depth(weights, "decoder_blocks"),
        "decoder_num_attention_heads": max(1, width // DECODER_HEAD_SIZE),
        "decoder_intermediate_size": weights["decoder_blocks.0.mlp.fc1.weight"].shape[0],
    }


def decoder_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the decoder's weights under the names of the decoder of ``transformers.ViTMAEForPreTraining``."""
    same = ("decoder_embed.", "decoder_pred.", "decoder_norm.", "decoder_pos_embed", "mask_token")
    renamed = {key: value for key, value in weights.items() if key.startswith(same)}
    return renamed | block_weights(weights, "decoder_blocks", "decoder_layers")


def fill(module: nn.Module, weights: Mapping[str, torch.Tensor], where: Path) -> None:
    """Load weights, all of them and no others.

    Raises:
        ModelError: If names or shapes differ.
    """
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ModelError(f"{where} does not fit its own sizes: {str(error)[:300]}") from error


def depth(weights: Mapping[str, torch.Tensor], stem: str) -> int:
    """Return the number of transformer blocks of one stack."""
    found = (_BLOCK.fullmatch(key) for key in weights)
    return 1 + max((int(m["number"]) for m in found if m and m["stem"] == stem), default=-1)


def block_weights(weights: Mapping[str, torch.Tensor], stem: str, new: str) -> dict[str, torch.Tensor]:
    """Return the transformer blocks of one stack under the names of transformers."""
    renamed: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        match = _BLOCK.fullmatch(key)
        if not match or match["stem"] != stem:
            continue
        layer, _, kind = match["rest"].rpartition(".")
        prefix = f"{new}.{match['number']}"
        if layer == "attn.qkv":  # rows: all of q, then all of k, then all of v
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{prefix}.attention.{part}_proj.{kind}"] = rows.contiguous()
        else:
            renamed[f"{prefix}.{_IN_BLOCK.get(layer, layer)}.{kind}"] = value
    return renamed


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
