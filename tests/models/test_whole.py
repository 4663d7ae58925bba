"""Models trained as a whole: what is trained, random starts, statistics of batch norm, files."""

from pathlib import Path

import pytest
import torch
from torch import nn

from builders import write_vit
from deblora.errors import ModelError
from deblora.models.backbone import Backbone, InputSpec
from deblora.models.backbones import vision
from deblora.models.whole import (
    estimate_statistics,
    has_statistics,
    learn_statistics,
    load_whole,
    make_trainable,
    reinitialize,
    save_whole,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.token = nn.Parameter(torch.ones(6))
        self.classifier = nn.Linear(6, 9)  # no feature passes through it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu().mean(dim=(2, 3)) + self.token


def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        Net(),
        lambda m, x: m(x),
        spec=InputSpec(3, 8, (0.5,) * 3, (0.5,) * 3, 255.0),
        feature_size=6,
        name="toy",
        weights_sha256="abc",
        lora_targets=(),
        pool="mean",
    )


X = 3 + 2 * torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_only_what_the_feature_depends_on_is_trained() -> None:
    model = backbone()
    assert make_trainable(model) == 6 * 27 + 6 + 6 + 6 + 6
    assert {n for n, p in model.encoder.named_parameters() if not p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert all(p.grad is None for p in model.parameters())


def test_kept_statistics_stay_frozen_while_all_weights_move() -> None:
    model = backbone()
    make_trainable(model)
    model.train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(X).pow(2).sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_a_random_start_forgets_everything_and_is_seeded(tmp_path: Path) -> None:
    for make in (backbone, lambda: vision.load(write_vit(tmp_path / "vit"), name="vit")):
        first = make()
        before = {
            n: p.clone() for n, p in first.encoder.named_parameters() if "norm" not in n and "bn" not in n
        }
        reinitialize(first, seed=1)
        parameters = dict(first.encoder.named_parameters())
        same = [n for n, p in before.items() if torch.equal(p, parameters[n]) and float(p.std()) > 0]
        assert not same
        make_trainable(first)
        second, third = make(), make()
        reinitialize(second, seed=1)
        reinitialize(third, seed=2)
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
        assert not all(torch.equal(p, q) for p, q in zip(first.parameters(), third.parameters(), strict=True))


def test_learned_statistics_are_the_mean_over_training_batches(tmp_path: Path) -> None:
    model = backbone()
    assert has_statistics(model)
    learn_statistics(model)
    model.train()
    maps = model.encoder.conv(X)  # type: ignore[operator]
    normal = (maps - maps.mean(dim=(0, 2, 3), keepdim=True)) / maps.std(
        dim=(0, 2, 3), keepdim=True, correction=0
    )
    expected = normal.relu().mean(dim=(2, 3)) + model.encoder.token
    torch.testing.assert_close(model(X), expected, atol=1e-4, rtol=1e-4)
    halves = X[:8], X[8:]
    estimate_statistics(model, halves)
    maps = [model.encoder.conv(half).detach() for half in halves]  # type: ignore[operator]
    bn: nn.BatchNorm2d = model.encoder.bn  # type: ignore[assignment]
    mean = torch.stack([m.mean(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    var = torch.stack([m.var(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    torch.testing.assert_close(bn.running_mean, mean)
    torch.testing.assert_close(bn.running_var, var)
    assert not bn.training
    torch.testing.assert_close(model(X)[:1], model(X[:1]))  # no longer those of the batch
    save_whole(model, tmp_path / "w.safetensors")
    loaded = backbone()
    load_whole(loaded, tmp_path / "w.safetensors")
    assert torch.equal(loaded(X), model(X))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_models_without_statistics_are_left_alone(tmp_path: Path) -> None:
    model = vision.load(write_vit(tmp_path / "vit"), name="vit")
    assert not has_statistics(model)
    estimate_statistics(model, iter(()))


def test_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    with pytest.raises(ModelError, match=r"w\.safetensors is missing"):
        load_whole(backbone(), file)
    save_whole(vision.load(write_vit(tmp_path / "vit"), name="vit"), file)
    with pytest.raises(ModelError, match="does not fit toy"):
        load_whole(backbone(), file)
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match="damaged"):
        load_whole(backbone(), file)
