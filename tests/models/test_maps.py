"""Feature maps are the pooled features before pooling, at any size, with adapters, and in the plane of the image."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, InputSpec, load_backbone
from deblora.models.backbones.efficientnet import EfficientNetLite0
from deblora.models.backbones.galileo import GalileoEncoder
from deblora.models.maps import feature_maps, map_channels, map_strides, size_multiple
from deblora.models.presets import PRESETS, Preset

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}


def images(height: int, width: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def wrap(encoder: nn.Module, size: int, targets: tuple[str, ...], name: str = "test") -> Backbone:
    return Backbone(
        encoder,
        lambda module, pixels: module(pixels),
        spec=InputSpec(3, size, (0.0,) * 3, (1.0,) * 3, 1.0),
        feature_size=1,
        name=name,
        weights_sha256="",
        lora_targets=targets,
        pool="mean",
    )


def move_adapters(backbone: Backbone) -> None:
    """Give every ``B`` weights, so that the adapter changes something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in backbone.encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)


def hugging_face(family: str, folder: Path) -> Backbone:
    import transformers

    torch.manual_seed(0)
    model: Any = {
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)),
        "registers": lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)
        ),
        "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)),
    }[family]()
    model.save_pretrained(folder)
    return load_backbone("huggingface", path=folder)


@pytest.mark.parametrize("family", ["vit", "dinov2", "registers", "clip"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (8, 32)])
def test_a_transformer_gives_its_patch_tokens_row_by_row(
    family: str, height: int, width: int, tmp_path: Path
) -> None:
    model = hugging_face(family, tmp_path)
    pixels = images(height, width)
    (found,) = feature_maps(model, pixels)
    assert found.shape == (2, 16, height // 8, width // 8)
    options = {} if family in ("dinov2", "registers") else {"interpolate_pos_encoding": True}
    tokens = model.encoder(pixel_values=pixels, **options).last_hidden_state
    n_before = 5 if family == "registers" else 1
    assert tokens.shape[1] == n_before + found.shape[2] * found.shape[3]
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            expected = tokens[:, n_before + row * found.shape[3] + column]
            torch.testing.assert_close(found[:, :, row, column], expected)
    assert map_strides(pixels, [found]) == (8,)
    assert map_channels(model) == (16,)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_mean_of_the_map_is_the_feature(adapted: bool) -> None:
    model = load_backbone("embedded", path=None)
    pixels = images(64, 64)
    plain = model(pixels)
    if adapted:
        attach_lora(model, rank=2, alpha=2, seed=0)
        move_adapters(model)
        assert not torch.allclose(model(pixels), plain, atol=1e-3)
    (found,) = feature_maps(model, pixels)
    torch.testing.assert_close(found.mean(dim=(2, 3)), model(pixels))


def galileo() -> Backbone:
    torch.manual_seed(0)
    return wrap(GalileoEncoder("S2_RGB"), 32, ("blocks.0.attn.q", "blocks.3.mlp.fc1"))


def efficientnet() -> Backbone:
    torch.manual_seed(0)
    network = EfficientNetLite0(n_classes=2)
    targets = tuple(f"blocks.{stage}.0.conv_pwl" for stage in (1, 2, 4, 6))
    return wrap(network, 64, targets)


@pytest.mark.parametrize("adapted", [False, True])
def test_galileo_gives_its_normalized_tokens(adapted: bool) -> None:
    model = galileo()
    pixels = images(32, 48)
    if adapted:
        attach_lora(model, rank=2, alpha=2, seed=0)
        move_adapters(model)
    (found,) = feature_maps(model, pixels)
    assert found.shape == (2, 128, 4, 6)
    torch.testing.assert_close(found.mean(dim=(2, 3)), model(pixels))


@pytest.mark.parametrize("adapted", [False, True])
def test_efficientnet_gives_three_maps_and_the_last_leads_to_its_feature(adapted: bool) -> None:
    model = efficientnet()
    pixels = images(64, 96)
    plain = feature_maps(model, pixels)
    if adapted:
        attach_lora(model, rank=2, alpha=2, seed=0)
        move_adapters(model)
    found = feature_maps(model, pixels)
    assert [tuple(level.shape[1:]) for level in found] == [(40, 8, 12), (112, 4, 6), (320, 2, 3)]
    assert map_strides(pixels, found) == (8, 16, 32)
    if adapted:
        assert all(not torch.allclose(a, b) for a, b in zip(found, plain, strict=True))
    network: Any = model.encoder.get_base_model() if adapted else model.encoder  # type: ignore[operator]
    head = functional.relu6(network.bn2(network.conv_head(found[-1]))).mean(dim=(2, 3))
    torch.testing.assert_close(head, model(pixels))


@pytest.mark.parametrize("build", [galileo, efficientnet])
def test_gradients_reach_the_adapter_and_nothing_else(build: Callable[[], Backbone]) -> None:
    model = build()
    attach_lora(model, rank=2, alpha=2, seed=0)
    sum(level.square().mean() for level in feature_maps(model, images(64, 64))).backward()  # type: ignore[union-attr]
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients
    assert all("lora_" in name for name in gradients)
    assert any(float(g.abs().max()) > 0 for n, g in gradients.items() if "lora_B" in n)


def test_hooks_do_not_stay() -> None:
    model = galileo()
    feature_maps(model, images(32, 32))
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ModelError):
        feature_maps(model, images(33, 32))
    assert not any(module._forward_hooks for module in model.modules())


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for model, size, multiple in ((galileo(), 36, 8), (efficientnet(), 48, 32)):
        with pytest.raises(ModelError, match=f"multiples of {multiple}"):
            feature_maps(model, images(size, size))
    assert size_multiple(efficientnet()) == 32
    assert map_channels(efficientnet()) == (40, 112, 320)
    with pytest.raises(ModelError, match="multiples of 8"):
        feature_maps(hugging_face("vit", tmp_path), images(20, 16))


def test_models_without_a_map_are_refused() -> None:
    with pytest.raises(ModelError, match="not known"):
        feature_maps(wrap(nn.Identity(), 8, ()), images(8, 8))


def test_strides_must_be_whole_and_equal() -> None:
    with pytest.raises(ModelError, match="equal squares"):
        map_strides(images(16, 16), [torch.zeros(1, 1, 3, 3)])
    with pytest.raises(ModelError, match="equal squares"):
        map_strides(images(16, 32), [torch.zeros(1, 1, 4, 4)])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "folder", "shapes"),
    [
        ("galileo-nano", "galileo_nano", [(128, 16, 24)]),
        ("efficientnet-lite0", "efficientnet_lite0_in1k", [(40, 16, 24), (112, 8, 12), (320, 4, 6)]),
    ],
)
def test_real_weights_give_maps(
    shared: Callable[[str], Path], name: str, folder: str, shapes: list[tuple[int, ...]]
) -> None:
    model = load_backbone(name, path=shared(f"weights/{folder}"))
    maps = feature_maps(model, images(128, 192, n=1))
    assert [tuple(level.shape[1:]) for level in maps] == shapes
    assert all(torch.isfinite(level).all() for level in maps)


class ToyNetwork(nn.Module):
    """A network of somebody's own: one convolution, and maps that it gives itself."""

    map_multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(pixels).mean(dim=(2, 3))

    def feature_maps(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(pixels)]


def load_toy(*, image_size: int | None = None) -> Backbone:
    return wrap(ToyNetwork(), image_size or 8, ("conv",), name="toy")


def test_a_backbone_is_its_module_and_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toy_backbone", SimpleNamespace(load=load_toy))
    monkeypatch.setitem(PRESETS, "toy", Preset("toy_backbone:load", needs_path=False))
    model = load_backbone("toy", path=None, image_size=16, pool="mean")
    attach_lora(model, rank=2, alpha=2.0, seed=0)
    move_adapters(model)
    pixels = images(16, 16)
    (found,) = feature_maps(model, pixels)
    torch.testing.assert_close(found.mean(dim=(2, 3)), model(pixels))
    assert map_channels(model) == (5,)
    assert size_multiple(model) == 4
