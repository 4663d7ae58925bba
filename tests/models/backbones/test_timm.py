"""The extra ``timm`` without timm: its message, and its calls on a stand-in with the interface of timm 1."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone
from deblora.models.backbones.timm import pool_features
from published_files import fake_timm, write_timm


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", fake_timm())


def test_features_and_adapters(timm: None, tmp_path: Path) -> None:
    folder, network = write_timm(tmp_path)
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
    folder, _ = write_timm(tmp_path)
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

    monkeypatch.setattr("deblora.models.backbones.timm.import_module", fail)
    with pytest.raises(
        ModelError, match=r"pip install 'deblora\[timm\]'. It imports torchvision, .* built for CUDA"
    ):
        load_backbone("timm", path=tmp_path, model="vit_tiny")
