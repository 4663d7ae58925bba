"""Hugging Face folders of every family, built small and loaded through the same function."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, load_backbone

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}


def build(family: str, folder: Path) -> None:
    import transformers

    torch.manual_seed(0)
    if family == "vit":
        model: Any = transformers.ViTModel(transformers.ViTConfig(**SMALL))
    elif family == "vit_mae":
        decoder = {
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
        }
        model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, **decoder))
    elif family == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))
    else:
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL))
    model.save_pretrained(folder)


@pytest.mark.parametrize("family", ["vit", "vit_mae", "dinov2", "clip"])
def test_every_family_gives_features_and_takes_lora(family: str, tmp_path: Path) -> None:
    build(family, tmp_path)
    model = load_backbone("huggingface", path=tmp_path)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = model(pixels)
    assert before.shape == (3, model.feature_size) == (3, 16)
    torch.testing.assert_close(model(pixels[1:2]), before[1:2])  # no chip sees its neighbors in the batch
    torch.testing.assert_close(model(pixels), before)
    attach_lora(model, rank=2, alpha=2, seed=0)
    torch.testing.assert_close(model(pixels), before)
    assert len(model.lora_targets) >= 2 * 4


def test_the_encoder_of_a_masked_autoencoder_is_loaded_whole(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    build("vit_mae", tmp_path)
    encoder = load_backbone("huggingface", path=tmp_path).encoder
    stored = {
        k: v
        for k, v in load_file(tmp_path / "model.safetensors").items()
        if k.startswith("vit.layer") or ".layer.0." in k
    }
    query = next(
        v
        for k, v in stored.items()
        if (k.startswith("vit.") and "q_proj.weight" in k)
        or k == "vit.encoder.layer.0.attention.attention.query.weight"
    )
    assert any(torch.equal(p, query) for p in encoder.parameters())


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json is missing"):
        load_backbone("huggingface", path=tmp_path)
    with pytest.raises(ModelError, match="needs a path"):
        load_backbone("huggingface", path=None)
    with pytest.raises(ModelError, match="unknown backbone"):
        load_backbone("resnet", path=tmp_path)
    build("vit", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="save_file"):
        load_backbone("huggingface", path=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged|cannot be loaded"):
        load_backbone("huggingface", path=tmp_path)


def test_training_mode_keeps_the_encoder_in_evaluation(tmp_path: Path) -> None:
    build("vit", tmp_path)
    model: Backbone = load_backbone("huggingface", path=tmp_path)
    model.train()
    assert not any(module.training for module in model.encoder.modules())
    assert not any(p.requires_grad for p in model.parameters())
