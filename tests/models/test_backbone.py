"""Widened and narrowed first convolutions: the mean over the bands stays what it was."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models as tiny
from deblora.errors import ModelError
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, load_backbone, widen, with_bands

BANDS = (1, 2, 3, 10, 13)
KINDS = ("vit", "dinov2", "clip-full", "siglip", "convnext", "swin")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny.write_model(kind, root / kind) for kind in KINDS}


def open_kind(kind: str, folders: dict[str, Path], tmp_path: Path) -> Backbone:
    if kind == "embedded":
        return load_backbone("embedded", path=None)
    if kind == "efficientnet-lite0":
        from safetensors.torch import save_file

        from deblora.models.backbones.efficientnet import EfficientNetLite0

        torch.manual_seed(0)
        save_file(EfficientNetLite0(n_classes=1000).state_dict(), tmp_path / "model.safetensors")
        return load_backbone("efficientnet-lite0", path=tmp_path, image_size=32)
    return load_backbone(tiny.preset_of(kind), path=folders[kind])


@pytest.mark.parametrize("n_bands", BANDS)
@pytest.mark.parametrize("kind", [*KINDS, "embedded", "efficientnet-lite0"])
def test_equal_bands_give_the_features_they_gave(
    kind: str, n_bands: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = open_kind(kind, folders, tmp_path)
    gray = torch.randn(
        2, 1, model.spec.image_size, model.spec.image_size, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        before = model(gray.expand(-1, 3, -1, -1))
        changed = with_bands(model, n_bands)
        assert (changed.spec.n_bands, len(changed.spec.mean), len(changed.spec.std)) == (n_bands,) * 3
        torch.testing.assert_close(changed(gray.expand(-1, n_bands, -1, -1)), before, atol=2e-4, rtol=2e-4)
    if n_bands == 13:
        attach_lora(changed, rank=1, alpha=1, seed=0)
        assert changed(gray.expand(-1, n_bands, -1, -1)).shape == before.shape


@given(n_bands=st.integers(1, 20), n_before=st.integers(1, 5), seed=st.integers(0, 100))
def test_the_sum_over_the_bands_is_kept(n_bands: int, n_before: int, seed: int) -> None:
    weight = torch.randn(4, n_before, 2, 2, generator=torch.Generator().manual_seed(seed))
    wider = widen(weight, n_bands)
    assert wider.shape == (4, n_bands, 2, 2)
    torch.testing.assert_close(wider.sum(dim=1), weight.sum(dim=1), atol=1e-5, rtol=1e-5)
    assert torch.equal(wider[:, 0], wider[:, -1])


def test_the_models_own_bands_change_nothing(folders: dict[str, Path]) -> None:
    model = load_backbone("vit", path=folders["vit"])
    kernels = model.encoder.embeddings.patch_embeddings.projection.weight.clone()
    assert with_bands(model, 3) is model
    assert torch.equal(model.encoder.embeddings.patch_embeddings.projection.weight, kernels)


def test_galileo_keeps_its_band_groups() -> None:
    from deblora.models.backbone import InputSpec
    from deblora.models.backbones.galileo import GalileoEncoder

    model = Backbone(
        GalileoEncoder("S2_RGB"),
        lambda module, pixels: module(pixels),
        spec=InputSpec(3, 16, (0.0,) * 3, (1.0,) * 3, 255.0),
        feature_size=128,
        name="galileo-nano",
        weights_sha256="",
        lora_targets=(),
        pool="mean",
    )
    with pytest.raises(ModelError, match=r"cannot be widened; leave backbone.n_bands out"):
        with_bands(model, 10)
