"""Tiny weights in the files and names of models that are not published as Hugging Face folders."""

import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

CLIP_WIDTH, CLIP_PATCH, CLIP_PX, CLIP_DEPTH, CLIP_HEADS = 32, 8, 16, 2, 2


class Tower(nn.Module):
    """The published image encoder of CLIP: norm before the blocks, class token normalized behind them."""

    def __init__(self, *, quick: bool) -> None:
        super().__init__()
        self.quick = quick
        self.conv1 = nn.Conv2d(3, CLIP_WIDTH, CLIP_PATCH, CLIP_PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(CLIP_WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((CLIP_PX // CLIP_PATCH) ** 2 + 1, CLIP_WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(CLIP_WIDTH), nn.LayerNorm(CLIP_WIDTH)
        self.proj = nn.Parameter(torch.randn(CLIP_WIDTH, 8))
        block = nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(CLIP_WIDTH),
                "attn": nn.MultiheadAttention(CLIP_WIDTH, CLIP_HEADS, batch_first=True),
                "ln_2": nn.LayerNorm(CLIP_WIDTH),
                "mlp": nn.ModuleDict(
                    {"c_fc": nn.Linear(CLIP_WIDTH, 64), "c_proj": nn.Linear(64, CLIP_WIDTH)}
                ),
            }
        )
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(copy.deepcopy(block) for _ in range(CLIP_DEPTH))}
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


def write_open_clip(folder: Path, tower: Tower, **vision: Any) -> Path:
    """Write the two files that OpenCLIP publishes."""
    folder.mkdir(exist_ok=True)
    described = {
        "image_size": CLIP_PX,
        "layers": CLIP_DEPTH,
        "width": CLIP_WIDTH,
        "patch_size": CLIP_PATCH,
        "head_width": CLIP_WIDTH // CLIP_HEADS,
    }
    model = {"embed_dim": 8, "vision_cfg": {**described, "mlp_ratio": 2.0, **vision}}
    if tower.quick:
        model["quick_gelu"] = True
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}))
    weights = {f"visual.{key}": value.contiguous() for key, value in tower.state_dict().items()}
    save_file({**weights, "logit_scale": torch.ones(())}, folder / "open_clip_model.safetensors")
    return folder


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


def fake_timm() -> ModuleType:
    """Return a stand-in for the package, which must not be installed, that knows ``vit_tiny``."""
    module = ModuleType("timm")

    def create_model(name: str, *, pretrained: bool, num_classes: int, **options: Any) -> nn.Module:
        assert not pretrained and num_classes == 0
        if name != "vit_tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return TinyViT(**options)

    module.create_model = create_model  # type: ignore[attr-defined]
    return module


def write_timm(folder: Path) -> tuple[Path, TinyViT]:
    """Write the weights of ``vit_tiny`` with a classifier, and return the network without it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = TinyViT().eval()
    save_file({**network.state_dict(), "head.weight": torch.zeros(5, 8)}, folder / "model.safetensors")
    return folder, network


SATMAE_WIDTH, SATMAE_DEPTH, SATMAE_PATCH, SATMAE_GRID, SATMAE_HEADS = (
    128,
    2,
    8,
    4,
    2,
)  # 64 numbers per head, as in ViT-L
DECODER = 64
SATMAE_PX = SATMAE_PATCH * SATMAE_GRID


def satmae_weights(*, n_bands: int = 3) -> dict[str, torch.Tensor]:
    """Random weights in the original names."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng) * 0.1

    weights = {
        "cls_token": draw(1, 1, SATMAE_WIDTH),
        "pos_embed": draw(1, SATMAE_GRID**2 + 1, SATMAE_WIDTH),
        "patch_embed.proj.weight": draw(SATMAE_WIDTH, n_bands, SATMAE_PATCH, SATMAE_PATCH),
        "patch_embed.proj.bias": draw(SATMAE_WIDTH),
        "mask_token": draw(1, 1, DECODER),
        "decoder_pos_embed": draw(1, SATMAE_GRID**2 + 1, DECODER),
        "decoder_embed.weight": draw(DECODER, SATMAE_WIDTH),
        "decoder_embed.bias": draw(DECODER),
        "decoder_pred.weight": draw(SATMAE_PATCH**2 * n_bands, DECODER),
        "decoder_pred.bias": draw(SATMAE_PATCH**2 * n_bands),
    }
    for stem, norm, width, depth in (
        ("blocks", "norm", SATMAE_WIDTH, SATMAE_DEPTH),
        ("decoder_blocks", "decoder_norm", DECODER, 1),
    ):
        weights |= {f"{norm}.weight": 1 + draw(width), f"{norm}.bias": draw(width)}
        for i in range(depth):
            for name, (out, inner) in {
                "attn.qkv": (3 * width, width),
                "attn.proj": (width, width),
                "mlp.fc1": (4 * width, width),
                "mlp.fc2": (width, 4 * width),
            }.items():
                weights |= {
                    f"{stem}.{i}.{name}.weight": draw(out, inner),
                    f"{stem}.{i}.{name}.bias": draw(out),
                }
            for name in ("norm1", "norm2"):
                weights |= {
                    f"{stem}.{i}.{name}.weight": 1 + draw(width),
                    f"{stem}.{i}.{name}.bias": draw(width),
                }
    return weights


SATMAE_CHANNELS = 32  # numbers of a code that name the group


def satmae_groups_weights() -> dict[str, torch.Tensor]:
    """Random weights of a multispectral SatMAE in the original names."""
    weights = satmae_weights()
    rng = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng) * 0.1

    for key in [k for k in weights if k.startswith(("patch_embed", "decoder", "mask"))]:
        del weights[key]
    for i, n_bands in enumerate((4, 4, 2)):
        weights[f"patch_embed.{i}.proj.weight"] = draw(SATMAE_WIDTH, n_bands, SATMAE_PATCH, SATMAE_PATCH)
        weights[f"patch_embed.{i}.proj.bias"] = draw(SATMAE_WIDTH)
    return weights | {
        "pos_embed": draw(1, SATMAE_GRID**2 + 1, SATMAE_WIDTH - SATMAE_CHANNELS),
        "channel_embed": draw(1, 3, SATMAE_CHANNELS),
        "channel_cls_embed": draw(1, 1, SATMAE_CHANNELS),
    }


def write_satmae(folder: Path) -> Path:
    """Write ``fmow_pretrain.pth`` as the authors' training script does."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": satmae_weights(), "epoch": 3}, folder / "fmow_pretrain.pth")
    return folder


def write_satmae_groups(folder: Path) -> Path:
    """Write ``pretrain-vit-large-e199.pth``, the multispectral model."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": satmae_groups_weights()}, folder / "pretrain-vit-large-e199.pth")
    return folder


def write_galileo(folder: Path) -> Path:
    """Write Galileo's encoder in the original names, for both sensors; the architecture itself is small."""
    from deblora.models.backbones.galileo import GROUPS, N_BANDS, PATCH, GalileoEncoder

    torch.manual_seed(0)
    weights = {
        key: value
        for key, value in GalileoEncoder("S1").state_dict().items()
        if key.startswith(("blocks.", "norm."))
    }
    for sensor, n_bands in N_BANDS.items():
        weights[f"space_time_embed.{sensor}.proj.weight"] = 0.1 * torch.randn(128, n_bands, PATCH, PATCH)
        weights[f"space_time_embed.{sensor}.proj.bias"] = torch.zeros(128)
    weights["s_t_channel_embed"] = torch.randn(len(GROUPS), 32)
    weights["pos_embed"], weights["month_embed.weight"] = torch.randn(24, 32), torch.randn(12, 32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return folder


def write_efficientnet(folder: Path) -> Path:
    """Write EfficientNet-Lite0 in timm's names; there is no smaller one."""
    from deblora.models.backbones.efficientnet import EfficientNetLite0

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(EfficientNetLite0().state_dict(), folder / "model.safetensors")
    return folder
