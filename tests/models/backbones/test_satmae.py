"""SatMAE's own file against the published architecture, written out here in plain torch."""

import argparse
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone
from published_files import (
    SATMAE_CHANNELS,
    SATMAE_DEPTH,
    SATMAE_GRID,
    SATMAE_HEADS,
    SATMAE_PATCH,
    SATMAE_PX,
    SATMAE_WIDTH,
    satmae_groups_weights,
    satmae_weights,
)


def layer_norm(x: torch.Tensor, w: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def block(x: torch.Tensor, w: dict[str, torch.Tensor], name: str, heads: int) -> torch.Tensor:
    b, t, d = x.shape
    y = layer_norm(x, w, f"{name}.norm1") @ w[f"{name}.attn.qkv.weight"].T + w[f"{name}.attn.qkv.bias"]
    q, k, v = y.view(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(d // heads)).softmax(-1)
    y = (weights @ v).transpose(1, 2).reshape(b, t, d)
    x = x + y @ w[f"{name}.attn.proj.weight"].T + w[f"{name}.attn.proj.bias"]
    y = layer_norm(x, w, f"{name}.norm2") @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
    y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return x + y @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"]


def published(pixels: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    patches = functional.unfold(pixels, SATMAE_PATCH, stride=SATMAE_PATCH).transpose(1, 2)
    x = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = x + w["pos_embed"][:, 1:]
    x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1), x], dim=1)
    for i in range(SATMAE_DEPTH):
        x = block(x, w, f"blocks.{i}", SATMAE_HEADS)
    return layer_norm(x, w, "norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("satmae")
    content = {
        "model": satmae_weights(),
        "args": argparse.Namespace(lr=0.1),
        "epoch": 3,
        "optimizer": {"state": {}},
    }
    torch.save(content, root / "fmow_pretrain.pth")
    return root


def images(size: int = SATMAE_PX, n_bands: int = 3) -> torch.Tensor:
    return torch.randn(2, n_bands, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_features_are_those_of_the_published_architecture(folder: Path, pool: str) -> None:
    model = load_backbone("satmae", path=folder, pool=pool)
    expected = published(images(), satmae_weights())
    expected = expected[:, 0] if pool == "cls" else expected[:, 1:].mean(dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(images()), expected, atol=2e-5, rtol=1e-4)
    assert (model.spec.image_size, model.spec.mean, model.spec.std) == (SATMAE_PX, (0.5,) * 3, (0.5,) * 3)
    assert len(model.lora_targets) == SATMAE_DEPTH * 5


def test_a_converted_file_and_another_size(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(satmae_weights(), tmp_path / "model.safetensors")
    small = load_backbone("satmae", path=tmp_path / "model.safetensors", image_size=SATMAE_PX)
    large = load_backbone("satmae", path=tmp_path, image_size=2 * SATMAE_PX)
    with torch.inference_mode():
        torch.testing.assert_close(small(images()), load_backbone("satmae", path=folder)(images()))
        assert large(images(2 * SATMAE_PX)).shape == (2, SATMAE_WIDTH)
    attach_lora(large, rank=2, alpha=2, seed=0)


def test_the_decoder_is_the_published_one(folder: Path) -> None:
    w = satmae_weights()
    model = load_backbone("satmae", path=folder)
    assert model.open_decoder is not None
    tokens = torch.randn(2, 1 + 5, SATMAE_WIDTH, generator=torch.Generator().manual_seed(2))
    order = torch.stack(
        [torch.randperm(SATMAE_GRID**2, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    )
    y = tokens @ w["decoder_embed.weight"].T + w["decoder_embed.bias"]
    full = w["mask_token"].repeat(2, SATMAE_GRID**2, 1)
    for row in range(2):
        for place in range(SATMAE_GRID**2):
            if order[row, place] < 5:
                full[row, place] = y[row, 1 + order[row, place]]
    x = torch.cat([y[:, :1], full], dim=1) + w["decoder_pos_embed"]
    x = layer_norm(block(x, w, "decoder_blocks.0", 2), w, "decoder_norm")
    expected = (x @ w["decoder_pred.weight"].T + w["decoder_pred.bias"])[:, 1:]
    with torch.inference_mode():
        torch.testing.assert_close(model.open_decoder()(tokens, order).logits, expected, atol=2e-5, rtol=1e-4)


class Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("true",)


def test_bad_files_are_refused_with_a_way_out(tmp_path: Path) -> None:
    file = tmp_path / "fmow_pretrain.pth"
    with pytest.raises(
        ModelError, match=r"expected a folder with model.safetensors or .* or fmow_pretrain.pth"
    ):
        load_backbone("satmae", path=tmp_path)
    torch.save({"model": satmae_weights(), "args": Surprise()}, file)
    with pytest.raises(ModelError, match=r"without running code .*convert it once, where you trust it"):
        load_backbone("satmae", path=tmp_path)
    file.write_bytes(pickle.dumps("no archive"))
    with pytest.raises(ModelError, match="holds no weights|cannot be read"):
        load_backbone("satmae", path=tmp_path)
    torch.save({"model": {"conv.weight": torch.zeros(1)}}, file)
    with pytest.raises(ModelError, match="original names"):
        load_backbone("satmae", path=tmp_path)
    weights = satmae_weights()
    weights["pos_embed"] = weights["pos_embed"][:, :, :-32]  # of a temporal SatMAE
    torch.save({"model": weights}, file)
    with pytest.raises(ModelError, match="temporal SatMAE"):
        load_backbone("satmae", path=tmp_path)
    weights = satmae_weights()
    del weights["blocks.1.norm1.weight"]
    torch.save({"model": weights}, file)
    with pytest.raises(ModelError, match="layernorm_before"):
        load_backbone("satmae", path=tmp_path)


def test_the_multispectral_model_is_the_published_one(tmp_path: Path) -> None:
    w = satmae_groups_weights()
    torch.save({"model": w}, tmp_path / "pretrain-vit-large-e199.pth")
    model = load_backbone("satmae", path=tmp_path)
    pixels = images(n_bands=10)
    rows = []
    for i, group in enumerate(((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))):
        patches = functional.unfold(pixels[:, list(group)], SATMAE_PATCH, stride=SATMAE_PATCH).transpose(1, 2)
        x = patches @ w[f"patch_embed.{i}.proj.weight"].flatten(1).T + w[f"patch_embed.{i}.proj.bias"]
        for place in range(SATMAE_GRID**2):
            x[:, place, : SATMAE_WIDTH - SATMAE_CHANNELS] += w["pos_embed"][0, 1 + place]
            x[:, place, SATMAE_WIDTH - SATMAE_CHANNELS :] += w["channel_embed"][0, i]
        rows.append(x)
    start = w["cls_token"][0, 0] + torch.cat([w["pos_embed"][0, 0], w["channel_cls_embed"][0, 0]])
    x = torch.cat([start.expand(2, 1, -1), *rows], dim=1)
    for i in range(SATMAE_DEPTH):
        x = block(x, w, f"blocks.{i}", SATMAE_HEADS)
    expected = layer_norm(x, w, "norm")[:, 1:].mean(dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), expected, atol=2e-5, rtol=1e-4)
    # One standard deviation above the mean of a band is three quarters of the stretched range.
    value = (1120.7712 + 712.1251) / 10_000
    assert (value - model.spec.mean[1]) / model.spec.std[1] == pytest.approx(0.75)
    larger = load_backbone("satmae", path=tmp_path, image_size=SATMAE_PX // 2)
    assert larger(images(SATMAE_PX // 2, 10)).shape == (2, SATMAE_WIDTH)
    attach_lora(model, rank=1, alpha=1, seed=0)

    from deblora.models.backbone import with_bands

    with pytest.raises(ModelError, match="cannot be widened"):
        with_bands(larger, 13)
    w["patch_embed.2.proj.weight"] = torch.zeros(SATMAE_WIDTH, 3, SATMAE_PATCH, SATMAE_PATCH)
    torch.save({"model": w}, tmp_path / "pretrain-vit-large-e199.pth")
    with pytest.raises(ModelError, match=r"groups its bands as \(4, 4, 3\)"):
        load_backbone("satmae", path=tmp_path)
