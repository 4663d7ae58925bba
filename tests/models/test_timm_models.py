"""The extra ``timm`` without timm: its message, and its calls on a stand-in with the interface of timm 1."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deblora.errors import ModelError
from deblora.models.backbone import load_backbone
from deblora.models.lora import attach_lora
from deblora.models.timm_models import pool_features


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)


class TinyViT(nn.Module):
    """One block with timm's names; two tokens before the patches."""

    num_features, num_prefix_tokens = 8, 2

    def __init__(self, *, dynamic_img_size: bool = False) -> None:
        super().__init__()
        self.dynamic = dynamic_img_size
        self.pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 8, 8, 8)
        self.cls_token, self.reg_token = (nn.Parameter(torch.randn(1, 1, 8)) for _ in range(2))
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn": Attention()})])

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        assert self.dynamic or x.shape[2] == 16
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat(
            [self.cls_token.expand(len(x), -1, -1), self.reg_token.expand(len(x), -1, -1), x], dim=1
        )
        return x + self.blocks[0]["attn"](x)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("timm")

    def create_model(name: str, *, pretrained: bool, num_classes: int, **options: Any) -> nn.Module:
        assert not pretrained and num_classes == 0
        if name != "vit_tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return TinyViT(**options)

    module.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)


def write(folder: Path) -> tuple[Path, TinyViT]:
    torch.manual_seed(0)
    network = TinyViT().eval()
    save_file({**network.state_dict(), "head.weight": torch.zeros(5, 8)}, folder / "model.safetensors")
    return folder, network


def test_features_and_adapters(timm: None, tmp_path: Path) -> None:
    folder, network = write(tmp_path)
    model = load_backbone("timm", path=folder / "model.safetensors", model="vit_tiny")
    assert (model.name, model.spec.image_size, model.spec.mean) == ("timm vit_tiny", 16, (0.1, 0.2, 0.3))
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = network.forward_features(pixels)[:, 2:].mean(dim=1)
        torch.testing.assert_close(model(pixels), expected)
    assert model.lora_targets == ("blocks.0.attn.qkv",)
    attach_lora(model, rank=1, alpha=1, seed=0)
    torch.testing.assert_close(model(pixels), expected)
    (folder / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny", "pretrained_cfg": {"mean": [0.4, 0.4, 0.4]}})
    )
    larger = load_backbone("timm", path=folder, image_size=32, pool="cls")
    assert larger.spec.mean == (0.4,) * 3
    assert larger(torch.randn(1, 3, 32, 32)).shape == (1, 8)


def test_what_does_not_fit_is_named(timm: None, tmp_path: Path) -> None:
    folder, _ = write(tmp_path)
    with pytest.raises(ModelError, match="backbone.model is not set"):
        load_backbone("timm", path=folder)
    with pytest.raises(ModelError, match=r"cannot make backbone.model vit_huge .*list_models"):
        load_backbone("timm", path=folder, model="vit_huge")
    save_file({"monkey": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"names differ, first: .*check backbone.model"):
        load_backbone("timm", path=folder, model="vit_tiny")


def test_maps_are_pooled_whichever_axis_holds_the_channels() -> None:
    grid = torch.randn(2, 8, 3, 3)
    for output in (grid, grid.permute(0, 2, 3, 1)):
        pooled = pool_features(output, "mean", n_prefix=0, width=8)
        torch.testing.assert_close(pooled, grid.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'timm'"), RuntimeError("torchvision::nms")]
)
def test_without_timm_the_extra_and_the_trap_are_named(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr("deblora.models.timm_models.import_module", fail)
    with pytest.raises(
        ModelError, match=r"pip install 'deblora\[timm\]'. It imports torchvision, .* built for CUDA"
    ):
        load_backbone("timm", path=tmp_path, model="vit_tiny")
