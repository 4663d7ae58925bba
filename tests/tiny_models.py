"""Tiny models with random weights in the layouts that real ones are published in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PX, PATCH, WIDTH = 32, 8, 16
SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": PX,
    "patch_size": PATCH,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 20,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CONV = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "image_size": PX}


def _makers() -> dict[str, Callable[[], Any]]:
    import transformers as t

    return {
        "vit": lambda: t.ViTModel(t.ViTConfig(**SMALL)),
        "vit-mae": lambda: t.ViTMAEForPreTraining(t.ViTMAEConfig(**SMALL, **DECODER)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**SMALL)),
        "dinov2-registers": lambda: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)
        ),
        "clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL)),
        "clip-full": lambda: t.CLIPModel(
            t.CLIPConfig(text_config=TEXT, vision_config=SMALL, projection_dim=8)
        ),
        "siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL)),
        "siglip-full": lambda: t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=SMALL)),
        "convnext": lambda: t.ConvNextModel(t.ConvNextConfig(**CONV)),
        "swin": lambda: t.SwinModel(
            t.SwinConfig(
                image_size=PX, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
            )
        ),
        "deit": lambda: t.DeiTModel(t.DeiTConfig(**SMALL)),
    }


def preset_of(kind: str) -> str:
    """Return the preset that opens a kind of folder."""
    if kind in ("swin", "deit"):
        return "huggingface"
    return kind.removesuffix("-full").removesuffix("-registers")


def write_model(kind: str, folder: Path, *, processor: dict[str, Any] | None = None) -> Path:
    """Write a tiny model with larger weights than at initialization, so that its features differ."""
    torch.manual_seed(0)
    model = _makers()[kind]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
