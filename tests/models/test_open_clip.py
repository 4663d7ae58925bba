"""OpenCLIP's names against an independent forward pass with torch's own attention."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.backbone import load_backbone
from deblora.models.lora import attach_lora

WIDTH, PATCH, PX, DEPTH, HEADS = 32, 8, 16, 2, 2


class Tower(nn.Module):
    """The published image encoder of CLIP: norm before the blocks, class token normalized behind them."""

    def __init__(self, *, quick: bool) -> None:
        super().__init__()
        self.quick = quick
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((PX // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, 8))
        block = nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(WIDTH),
                "attn": nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
                "ln_2": nn.LayerNorm(WIDTH),
                "mlp": nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 64), "c_proj": nn.Linear(64, WIDTH)}),
            }
        )
        import copy

        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(copy.deepcopy(block) for _ in range(DEPTH))}
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:
            y = block["ln_1"](x)
            x = x + block["attn"](y, y, y, need_weights=False)[0]
            y = block["mlp"]["c_fc"](block["ln_2"](x))
            y = y * torch.sigmoid(1.702 * y) if self.quick else functional.gelu(y)
            x = x + block["mlp"]["c_proj"](y)
        return x


def write(folder: Path, tower: Tower, **vision: Any) -> Path:
    folder.mkdir(exist_ok=True)
    described = {
        "image_size": PX,
        "layers": DEPTH,
        "width": WIDTH,
        "patch_size": PATCH,
        "head_width": WIDTH // HEADS,
    }
    model = {"embed_dim": 8, "vision_cfg": {**described, "mlp_ratio": 2.0, **vision}}
    if tower.quick:
        model["quick_gelu"] = True
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}))
    weights = {f"visual.{key}": value.contiguous() for key, value in tower.state_dict().items()}
    save_file({**weights, "logit_scale": torch.ones(())}, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("quick", [False, True])
def test_features_are_those_of_the_published_tower(quick: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = Tower(quick=quick).eval()
    folder = write(tmp_path / "m", tower)
    pixels = torch.randn(2, 3, PX, PX)
    with torch.inference_mode():
        tokens = tower(pixels)
        mean, cls = (load_backbone("open-clip", path=folder, pool=pool) for pool in ("mean", "cls"))
        torch.testing.assert_close(mean(pixels), tokens[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(cls(pixels), tower.ln_post(tokens[:, 0]), atol=1e-5, rtol=1e-4)
    assert (mean.spec.mean, mean.spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    attach_lora(mean, rank=1, alpha=1, seed=0)
    assert load_backbone("open-clip", path=folder, image_size=32)(torch.randn(1, 3, 32, 32)).shape == (
        1,
        WIDTH,
    )


def test_other_towers_and_foreign_files_are_refused(tmp_path: Path) -> None:
    tower = Tower(quick=False)
    with pytest.raises(ModelError, match="open_clip_config.json is missing"):
        load_backbone("open-clip", path=tmp_path)
    with pytest.raises(ModelError, match="not describe a plain ViT"):
        load_backbone("open-clip", path=write(tmp_path / "resnet", tower, layers=[3, 4, 6, 3]))
    folder = write(tmp_path / "deep", tower, layers=3)
    with pytest.raises(ModelError, match="does not fit its own sizes"):
        load_backbone("open-clip", path=folder)
    save_file({"text.weight": torch.ones(1)}, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match="holds no vision tower"):
        load_backbone("open-clip", path=folder)
