"""What takes part in feature maps, what is trained, and random starts."""

import torch
from torch import nn

from deblora.detect.fcos.detector import n_parameters, start_afresh, train_all, used_parameters
from deblora.models.adapters.lora import attach_lora
from deblora.models.backbone import Backbone, InputSpec, load_backbone
from deblora.models.backbones.efficientnet import EfficientNetLite0
from deblora.models.maps import feature_maps


def efficientnet() -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        EfficientNetLite0(),
        lambda module, pixels: module(pixels),
        spec=InputSpec(3, 64, (0.5,) * 3, (0.5,) * 3, 255.0),
        feature_size=1280,
        name="efficientnet-lite0",
        weights_sha256="",
        lora_targets=(),
        pool="mean",
    ).eval()


def test_a_classifier_on_top_takes_no_part() -> None:
    backbone = efficientnet()
    used = {id(parameter) for parameter in used_parameters(backbone)}
    assert not any(id(parameter) in used for parameter in backbone.encoder.classifier.parameters())
    total, trained = n_parameters(backbone)
    assert 0 < total < sum(p.numel() for p in backbone.encoder.parameters()) - 1_000_000 and trained == 0
    train_all(backbone)
    assert n_parameters(backbone) == (total, total)
    assert not backbone.encoder.classifier.weight.requires_grad


def test_an_adapter_counts_and_flags_stay() -> None:
    backbone = load_backbone("embedded", path=None)
    before, _ = n_parameters(backbone)
    attach_lora(backbone, rank=2, alpha=2, seed=0)
    flags = [p.requires_grad for p in backbone.encoder.parameters()]
    total, trained = n_parameters(backbone)
    assert total - before == trained > 0
    assert flags == [p.requires_grad for p in backbone.encoder.parameters()]


def test_a_fresh_start_forgets_everything_and_repeats() -> None:
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    state = torch.random.get_rng_state()
    for make in (efficientnet, lambda: load_backbone("embedded", path=None)):
        one, other = make(), make()
        source = {name: p.clone() for name, p in one.encoder.named_parameters()}
        start_afresh(one, seed=3, pixels=pixels)
        start_afresh(other, seed=3, pixels=pixels)
        for (name, a), b in zip(one.encoder.named_parameters(), other.encoder.parameters(), strict=True):
            assert torch.equal(a, b)
            if a.ndim > 1:
                assert not torch.equal(a, source[name])
        with torch.no_grad():
            maps = feature_maps(one, pixels)
        assert all(level.isfinite().all() and level.std() > 1e-3 for level in maps)
        assert not any(m.training for m in one.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    torch.random.set_rng_state(state)
