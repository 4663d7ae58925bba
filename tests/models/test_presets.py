"""Every preset on a folder in its real layout: what it pools, what it adapts, what it refuses."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tiny_models as tiny
from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone
from deblora.models.backbones.layers import adapter_targets, n_prefix_tokens
from deblora.models.presets import PRESETS

# Tokens before the patches, as the architectures are published; None: a convolutional map.
PREFIX = {
    "vit": 1,
    "vit-mae": 1,
    "dinov2": 1,
    "dinov2-registers": 4,
    "clip": 1,
    "clip-full": 1,
    "siglip": 0,
    "siglip-full": 0,
    "convnext": None,
    "swin": 0,
    "deit": 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny.write_model(kind, root / kind) for kind in PREFIX}


def images(n: int = 2, size: int = tiny.PX) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", PREFIX)
def test_mean_pools_patches_only(kind: str, folders: dict[str, Path]) -> None:
    model = load_backbone(tiny.preset_of(kind), path=folders[kind])
    pixels = images()
    with torch.inference_mode():
        hidden = model.encoder(pixel_values=pixels).last_hidden_state
        n_prefix = PREFIX[kind]
        expected = hidden.mean(dim=(2, 3)) if n_prefix is None else hidden[:, n_prefix:].mean(dim=1)
        torch.testing.assert_close(model(pixels), expected)
        if n_prefix is not None and kind != "swin":
            assert hidden.shape[1] - n_prefix == (tiny.PX // tiny.PATCH) ** 2
    assert model.feature_size == expected.shape[1]


@pytest.mark.parametrize("kind", PREFIX)
def test_the_default_adapter_is_the_identity_and_every_part_of_it_learns(
    kind: str, folders: dict[str, Path]
) -> None:
    model = load_backbone(tiny.preset_of(kind), path=folders[kind])
    pixels = images()
    with torch.inference_mode():
        before = model(pixels)
    attach_lora(model, rank=2, alpha=2, seed=0)
    after = model(pixels)
    torch.testing.assert_close(after, before)
    after.square().sum().backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and "lora_B" in name and (p.grad is None or not p.grad.any())
    ]
    # Behind the last attention only tokens that are pooled matter, so no target may stay without a gradient.
    assert not silent
    assert not any("text_model" in name for name in model.lora_targets)


@pytest.mark.parametrize("kind", ["vit", "dinov2-registers", "siglip", "convnext", "clip-full"])
def test_other_image_sizes_keep_the_pooling(kind: str, folders: dict[str, Path]) -> None:
    model = load_backbone(tiny.preset_of(kind), path=folders[kind], image_size=48)
    assert model.spec.image_size == 48
    assert model(images(size=48)).shape == (2, model.feature_size)


def test_cls_is_the_class_token_and_clip_normalizes_it(folders: dict[str, Path]) -> None:
    pixels = images()
    with torch.inference_mode():
        vit = load_backbone("vit", path=folders["vit"], pool="cls")
        torch.testing.assert_close(vit(pixels), vit.encoder(pixel_values=pixels).last_hidden_state[:, 0])
        clip = load_backbone("clip", path=folders["clip-full"], pool="cls")
        hidden = clip.encoder(pixel_values=pixels).last_hidden_state[:, 0]
        norm = next(m for n, m in clip.encoder.named_modules() if n.endswith("post_layernorm"))
        torch.testing.assert_close(clip(pixels), norm(hidden))
    for kind in ("siglip", "convnext"):
        with pytest.raises(ModelError, match="no class token; set backbone.pool to mean"):
            load_backbone(kind, path=folders[kind], pool="cls")


def test_the_vision_tower_of_a_full_clip_is_the_one_of_the_vision_folder(folders: dict[str, Path]) -> None:
    import transformers

    full = transformers.CLIPModel.from_pretrained(folders["clip-full"], local_files_only=True).eval()
    model = load_backbone("clip", path=folders["clip-full"], pool="cls")
    pixels = images()
    with torch.inference_mode():
        expected = full.vision_model(pixel_values=pixels).pooler_output
        torch.testing.assert_close(model(pixels), expected)


def test_a_folder_of_another_type_names_the_preset_that_fits(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="type dinov2, but backbone.name is clip; set it to dinov2"):
        load_backbone("clip", path=folders["dinov2"])
    with pytest.raises(ModelError, match="set it to huggingface"):
        load_backbone("vit", path=folders["swin"])
    assert load_backbone("huggingface", path=folders["dinov2"]).name == "huggingface"


def test_the_size_of_the_processor_goes_before_that_of_the_model(tmp_path: Path) -> None:
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3]}
    model = load_backbone("dinov2", path=tiny.write_model("dinov2", tmp_path, processor=crop))
    assert (model.spec.image_size, model.spec.mean) == (16, (0.1, 0.2, 0.3))


class Old(nn.Module):
    """Names as transformers 4 wrote them, and a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        for name in (
            "layer.0.attention.attention.query",
            "layer.0.attention.output.dense",
            "layer.0.intermediate.dense",
            "layer.0.output.dense",
            "blocks.0.attn.qkv",
            "blocks.0.mlp.fc1",
            "pooler.dense",
            "head.mlp.fc1",
            "text_model.q_proj",
            "monkey",
        ):
            module: nn.Module = self
            *parents, last = name.split(".")
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = getattr(module, parent)
            module.add_module(last, nn.Linear(2, 2))


def test_targets_are_found_by_role_in_old_and_fused_spellings() -> None:
    assert adapter_targets(Old()) == (
        "layer.0.attention.attention.query",
        "layer.0.intermediate.dense",
        "layer.0.output.dense",
        "blocks.0.attn.qkv",
        "blocks.0.mlp.fc1",
    )


def test_unknown_layers_are_listed() -> None:
    from deblora.models.backbone import Backbone, InputSpec

    spec = InputSpec(3, 8, (0.5,) * 3, (0.5,) * 3, 255.0)
    network = nn.Sequential()
    network.add_module("mystery", nn.Linear(2, 2))
    model = Backbone(
        network,
        lambda m, x: m(x),
        spec=spec,
        feature_size=2,
        name="odd",
        weights_sha256="",
        lora_targets=adapter_targets(network),
        pool="mean",
    )
    with pytest.raises(ModelError, match=r"set lora.targets to some of mystery"):
        attach_lora(model, rank=1, alpha=1, seed=0)


def test_prefix_tokens_without_a_known_grid_are_counted_by_name() -> None:
    module = nn.Module()
    module.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
    module.register_tokens = nn.Parameter(torch.zeros(1, 4, 4))
    assert n_prefix_tokens(module, n_tokens=21, n_patches=None) == 5
    assert n_prefix_tokens(module, n_tokens=5, n_patches=64) == 5
    assert n_prefix_tokens(module, n_tokens=18, n_patches=16) == 2


def test_every_preset_names_an_existing_loader() -> None:
    for name, preset in PRESETS.items():
        assert callable(preset.function()), name
