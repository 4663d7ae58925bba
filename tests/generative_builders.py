"""Tiny untrained Stable Diffusion and CLIP folders in their real layouts, made without a network."""

import json
from pathlib import Path
from typing import Any

import torch


def write_tokenizer(folder: Path) -> Any:
    """Write CLIP's tokenizer with a vocabulary of single bytes and two marks: 514 tokens, no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def write_stable_diffusion(
    folder: Path, *, seed: int = 0, prediction_type: str = "epsilon", **unet: Any
) -> Path:
    """Write a Stable Diffusion pipeline for 32 x 32 pixels: latents 16 x 16, `mid` has 32 channels."""
    import diffusers
    import transformers

    torch.manual_seed(seed)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
    }
    model = diffusers.UNet2DConditionModel(
        **{
            "sample_size": 16,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
            **blocks,
            **unet,
        }
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=514,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=512,
            eos_token_id=513,
            pad_token_id=513,
        )
    )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    tokenizer = write_tokenizer(folder / "tokenizer")
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=model,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(folder))
    return folder


def write_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a whole CLIP model for 16 x 16 pixels; class tokens have 16 dimensions, the joint space 8."""
    import transformers

    torch.manual_seed(seed)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **shared,
            "vocab_size": 514,
            "max_position_embeddings": 77,
            "bos_token_id": 512,
            "eos_token_id": 513,
            "pad_token_id": 513,
        },
        vision_config={**shared, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    model = transformers.CLIPModel(config)
    norm = model.vision_model.post_layernorm  # not at its start, so that it shows whether it is applied once
    torch.nn.init.normal_(norm.weight, 1, 0.5)
    torch.nn.init.normal_(norm.bias)
    model.save_pretrained(str(folder))
    write_tokenizer(folder)
    return folder
