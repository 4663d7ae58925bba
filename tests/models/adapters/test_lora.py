"""Adapters: identity, formula, gradients, stacking, folders, refusals."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from deblora.errors import ModelError
from deblora.models.adapters.lora import (
    adapter_sha256,
    attach_lora,
    load_adapter,
    n_trainable,
    save_adapter,
    stack_adapter,
)
from deblora.models.backbone import Backbone, InputSpec


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 5, 1)
        self.fc = nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.conv1(self.conv3(x)).mean(dim=(2, 3)))
        return out


def backbone(seed: int = 0, sha: str = "abc") -> Backbone:
    torch.manual_seed(seed)
    spec = InputSpec(3, 8, (0.5,) * 3, (0.5,) * 3, 255.0)
    return Backbone(
        Net(),
        lambda m, x: m(x),
        spec=spec,
        feature_size=6,
        name="toy",
        weights_sha256=sha,
        lora_targets=("conv3", "conv1", "fc"),
        pool="mean",
    )


def randomize(model: Backbone, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_fresh_adapter_changes_nothing_and_only_it_trains() -> None:
    model = backbone()
    before = model(X)
    attach_lora(model, rank=2, alpha=2, seed=0)
    assert torch.equal(model(X), before)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }
    # r (in k k) + r out per layer
    assert n_trainable(model) == 2 * (3 * 9 + 4) + 2 * (4 + 5) + 2 * (5 + 6)


@pytest.mark.parametrize("target", ["fc", "conv1", "conv3"])
def test_an_adapted_layer_is_the_formula(target: str) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=6, targets=(target,), seed=0)
    randomize(model)
    plain = backbone().encoder
    layer = getattr(plain, target)
    a, b = (next(p for n, p in model.named_parameters() if key in n) for key in ("lora_A", "lora_B"))
    with torch.no_grad():
        change = torch.einsum("or...,ri...->oi...", b.flatten(1), a) if target != "fc" else b @ a
        layer.weight += 6 / 2 * change
        torch.testing.assert_close(model(X), plain(X))


def test_equal_seeds_give_equal_adapters_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    first, second = backbone(), backbone()
    torch.manual_seed(5)
    attach_lora(first, rank=2, alpha=2, seed=7)
    assert torch.rand(1) == expected
    attach_lora(second, rank=2, alpha=2, seed=7)
    for (_, p), (_, q) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(p, q)


def test_saved_adapters_load_as_themselves_also_with_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    model = backbone()
    attach_lora(model, rank=2, alpha=4, seed=0)
    randomize(model)
    save_adapter(model, "stage0", tmp_path / "lora", {"seed": 0})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lora"]
    loaded = backbone()
    load_adapter(loaded, tmp_path / "lora", adapter_name="stage0")
    assert torch.equal(loaded(X), model(X))
    assert n_trainable(loaded) == 0
    assert torch.equal(PeftModel.from_pretrained(backbone().encoder, str(tmp_path / "lora"))(X), model(X))
    merged = loaded.encoder.merge_and_unload()  # type: ignore[operator]
    torch.testing.assert_close(merged(X), model(X))


def test_saved_bytes_are_reproducible(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model = backbone()
        attach_lora(model, rank=2, alpha=2, seed=0)
        save_adapter(model, "stage0", tmp_path / name, {})
    assert adapter_sha256(tmp_path / "one") == adapter_sha256(tmp_path / "two")
    config = (tmp_path / "one" / "adapter_config.json").read_text()
    assert config == (tmp_path / "two" / "adapter_config.json").read_text()


def test_a_stacked_adapter_starts_as_the_identity_and_leaves_the_first_alone(tmp_path: Path) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, seed=0)
    randomize(model)
    save_adapter(model, "stage0", tmp_path / "lora", {})
    before = model(X)
    stack_adapter(model, rank=2, alpha=2, seed=1)
    assert torch.equal(model(X), before)
    first = {n: p.detach().clone() for n, p in model.named_parameters() if ".stage0." in n}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).pow(2).sum().backward()
        optimizer.step()
    assert not torch.equal(model(X), before)
    for name, parameter in model.named_parameters():
        if name in first:
            assert torch.equal(parameter, first[name])
    save_adapter(model, "deblora", tmp_path / "deblora", {})
    loaded = backbone()
    load_adapter(loaded, tmp_path / "lora", adapter_name="stage0")
    load_adapter(loaded, tmp_path / "deblora", adapter_name="deblora")
    torch.testing.assert_close(loaded(X), model(X))


def test_foreign_damaged_and_pickled_adapters_are_refused(tmp_path: Path) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, seed=0)
    randomize(model)
    save_adapter(model, "stage0", tmp_path / "lora", {})
    with pytest.raises(ModelError, match="belongs to another model"):
        load_adapter(backbone(sha="other"), tmp_path / "lora", adapter_name="stage0")
    stack_adapter(model, rank=2, alpha=2, seed=1)
    save_adapter(model, "deblora", tmp_path / "deblora", {})
    with pytest.raises(ModelError, match="load its own parent first"):
        load_adapter(backbone(), tmp_path / "deblora", adapter_name="deblora")
    with pytest.raises(ModelError, match="missing or damaged"):
        load_adapter(backbone(), tmp_path, adapter_name="stage0")
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"xx")
    with pytest.raises(ModelError, match="damaged"):
        load_adapter(backbone(), tmp_path / "lora", adapter_name="stage0")
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(ModelError, match="is a pickle"):
        load_adapter(backbone(), tmp_path / "lora", adapter_name="stage0")


def test_unknown_targets_list_what_there_is() -> None:
    with pytest.raises(ModelError, match="conv1, conv3, fc"):
        attach_lora(backbone(), rank=2, alpha=2, targets=("attention",), seed=0)


def test_the_sidecar_names_base_and_input(tmp_path: Path) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, seed=0)
    save_adapter(model, "stage0", tmp_path / "lora", {"classes": ["ship"]})
    record = json.loads((tmp_path / "lora" / "base.json").read_text())
    assert record["weights_sha256"] == "abc"
    assert record["classes"] == ["ship"]
    assert record["n_bands"] == 3


def test_the_sidecar_names_the_modules_and_an_untrained_adapter_is_said_to_do_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, targets=("conv1", "fc"), seed=0)
    save_adapter(model, "stage0", tmp_path / "lora", {})
    record = json.loads((tmp_path / "lora" / "base.json").read_text())
    assert record["modules"] == ["conv1", "fc"] and record["changes_nothing"] is True
    load_adapter(backbone(), tmp_path / "lora", adapter_name="stage0")
    assert "changes nothing" in caplog.text


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, seed=0)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(ModelError, match="lower the learning rate"):
        save_adapter(model, "stage0", tmp_path / "lora", {})
    assert not list(tmp_path.iterdir())


class Patches(nn.Module):
    """A patch embedding and an attention whose layers end alike, as in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 4, 4, 4)})
        self.stem = nn.ModuleDict({"proj": nn.Conv2d(3, 4, 2, 2), "fc": nn.Conv2d(3, 4, 2, 2)})
        self.blocks = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(4, 4)}) for _ in range(2)])


def test_a_short_name_never_means_a_patch_embedding(caplog: pytest.LogCaptureFixture) -> None:
    def adapted(*targets: str) -> list[str]:
        model = backbone()
        model.encoder = Patches()
        attach_lora(model, rank=1, alpha=1, targets=targets, seed=0)
        return sorted(
            {
                name.split(".lora_A")[0].removeprefix("base_model.model.")
                for name, _ in model.encoder.named_parameters()
                if ".lora_A" in name
            }
        )

    caplog.set_level("INFO", logger="deblora")
    assert adapted("proj") == ["blocks.0.proj", "blocks.1.proj"]
    assert "the adapter changes 2 layers: blocks.*.proj (2)" in caplog.text
    assert adapted("patch_embed.proj", "blocks.0.proj") == ["blocks.0.proj", "patch_embed.proj"]
    with pytest.raises(
        ModelError, match=r"stem.fc only, which cuts the image into patches; give its full name"
    ):
        adapted("fc")
