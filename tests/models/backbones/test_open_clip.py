"""OpenCLIP's names against an independent forward pass with torch's own attention."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import load_backbone
from published_files import CLIP_PX, CLIP_WIDTH, Tower, write_open_clip


@pytest.mark.parametrize("quick", [False, True])
def test_features_are_those_of_the_published_tower(quick: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = Tower(quick=quick).eval()
    folder = write_open_clip(tmp_path / "m", tower)
    pixels = torch.randn(2, 3, CLIP_PX, CLIP_PX)
    with torch.inference_mode():
        tokens = tower(pixels)
        mean, cls = (load_backbone("open-clip", path=folder, pool=pool) for pool in ("mean", "cls"))
        torch.testing.assert_close(mean(pixels), tokens[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(cls(pixels), tower.ln_post(tokens[:, 0]), atol=1e-5, rtol=1e-4)
    assert (mean.spec.mean, mean.spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    attach_lora(mean, rank=1, alpha=1, seed=0)
    assert load_backbone("open-clip", path=folder, image_size=32)(torch.randn(1, 3, 32, 32)).shape == (
        1,
        CLIP_WIDTH,
    )


def test_other_towers_and_foreign_files_are_refused(tmp_path: Path) -> None:
    tower = Tower(quick=False)
    with pytest.raises(ModelError, match="open_clip_config.json is missing"):
        load_backbone("open-clip", path=tmp_path)
    with pytest.raises(ModelError, match="not describe a plain ViT"):
        load_backbone("open-clip", path=write_open_clip(tmp_path / "resnet", tower, layers=[3, 4, 6, 3]))
    folder = write_open_clip(tmp_path / "deep", tower, layers=3)
    with pytest.raises(ModelError, match="does not fit its own sizes"):
        load_backbone("open-clip", path=folder)
    save_file({"text.weight": torch.ones(1)}, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match="holds no vision tower"):
        load_backbone("open-clip", path=folder)
