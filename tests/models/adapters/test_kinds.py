"""Every kind of adapter: identity, training, folders, merging; layers that a kind cannot change are refused."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from deblora.errors import ModelError
from deblora.models.adapters.kinds import KINDS, AdapterKind, second_kind, suits
from deblora.models.adapters.lora import attach_lora, load_adapter, n_trainable, save_adapter, stack_adapter
from deblora.models.backbone import Backbone, InputSpec
from deblora.train.loop import Orthogonal, orthogonality, rank_schedule

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(3, 4, 3, padding=1)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.conv1 = nn.Conv2d(4, 8, 1)
        self.fc = nn.Linear(8, 12)
        self.out = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.depth(self.conv3(x)).relu()).mean(dim=(2, 3))
        out: torch.Tensor = self.out(self.fc(x).relu())
        return out


def backbone(targets: tuple[str, ...] = ("fc", "out")) -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        Net(),
        lambda m, x: m(x),
        spec=InputSpec(3, 8, (0.5,) * 3, (0.5,) * 3, 255.0),
        feature_size=6,
        name="toy",
        weights_sha256="abc",
        lora_targets=targets,
        pool="mean",
    )


def targets_of(kind: AdapterKind) -> tuple[str, ...]:
    """All layers of the network that the kind can change."""
    net = Net()
    return tuple(name for name in ("conv3", "depth", "conv1", "fc") if suits(kind, getattr(net, name)))


def descend(model: Backbone, *, n_steps: int = 12) -> list[float]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule, losses = torch.optim.AdamW(trainable, lr=5e-2), rank_schedule(model.encoder), []
    for step in range(n_steps):
        loss = nn.functional.cross_entropy(model(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule:
            schedule(step + 1)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_starts_as_the_identity_trains_and_travels(kind: AdapterKind, tmp_path: Path) -> None:
    model, plain = backbone(), backbone()
    attach_lora(model, rank=2, alpha=2, targets=targets_of(kind), kind=kind, n_steps=12, seed=0)
    before = plain(X)
    torch.testing.assert_close(model(X), before, atol=1e-6 if kind == "pissa" else 0.0, rtol=0.0)
    assert 0 < n_trainable(model) < sum(p.numel() for p in plain.parameters()) * 4
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = descend(model)
    assert losses[-1] < losses[0] - 1e-4
    after = dict(model.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in frozen.items())
    trained = model(X)
    assert not torch.allclose(trained, before, atol=1e-4)

    save_adapter(model, "stage0", tmp_path / "adapter", {})
    loaded = backbone()
    load_adapter(loaded, tmp_path / "adapter", adapter_name="stage0")
    assert torch.equal(loaded(X), trained)
    assert n_trainable(loaded) == 0

    from peft import PeftModel

    again = PeftModel.from_pretrained(backbone().encoder, str(tmp_path / "adapter"))
    assert torch.equal(again.eval()(X), trained)
    merged = copy.deepcopy(loaded.encoder).merge_and_unload()  # type: ignore[operator]
    torch.testing.assert_close(merged(X), trained, atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adalora"])
def test_a_second_adapter_stands_on_every_kind(kind: AdapterKind, tmp_path: Path) -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, kind=kind, n_steps=12, seed=0)
    descend(model, n_steps=3)
    first = model(X)
    save_adapter(model, "stage0", tmp_path / "lora", {})
    stack_adapter(model, rank=2, alpha=2, kind=second_kind(kind), seed=1)
    torch.testing.assert_close(model(X), first, atol=1e-6, rtol=0.0)
    before = {n: p.clone() for n, p in model.named_parameters() if "stage0" in n}
    descend(model, n_steps=3)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    save_adapter(model, "deblora", tmp_path / "deblora", {})
    loaded = backbone()
    load_adapter(loaded, tmp_path / "lora", adapter_name="stage0")
    load_adapter(loaded, tmp_path / "deblora", adapter_name="deblora")
    assert torch.equal(loaded(X), model(X))


def test_nothing_is_stacked_on_adalora() -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, kind="adalora", n_steps=12, seed=0)
    with pytest.raises(ModelError, match="set deblora.placement to fresh, residual or residual-mlp"):
        stack_adapter(model, rank=2, alpha=2, seed=1)


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("vera", "conv1", "vera cannot change conv1, a convolution; .* lora.adapter to lora or dora"),
        ("pissa", "conv3", "pissa cannot change conv3, a convolution"),
        ("lora", "depth", "a convolution with 4 groups; .* loha or lokr"),
        ("dora", "depth", "a convolution with 4 groups"),
        ("adalora", "depth", "a convolution with 4 groups"),
        ("vera", "nothing", "match no layer; layers end in fc, out$"),
    ],
)
def test_layers_that_a_kind_cannot_change_are_named(kind: AdapterKind, target: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        attach_lora(backbone(), rank=2, alpha=2, targets=(target,), kind=kind, seed=0)


def test_the_list_of_a_backbone_is_checked_too() -> None:
    with pytest.raises(ModelError, match="vera cannot change conv1"):
        attach_lora(backbone(("conv1", "fc")), rank=2, alpha=2, kind="vera", seed=0)


def test_rslora_is_lora_at_another_scale() -> None:
    outs = []
    for kind, alpha in (("rslora", 2.0), ("lora", 2.0 * 4**0.5)):
        model = backbone()
        attach_lora(model, rank=4, alpha=alpha, kind=kind, seed=0)  # type: ignore[arg-type]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
        outs.append(model(X))
    torch.testing.assert_close(*outs)


def test_adalora_lowers_its_ranks_to_the_target() -> None:
    model = backbone()
    attach_lora(model, rank=2, alpha=2, kind="adalora", n_steps=20, seed=0)
    descend(model, n_steps=20)
    ranks = [int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n]
    assert sum(ranks) == 2 * len(ranks)  # of 4 each at the start


def test_the_penalty_is_the_distance_from_orthonormal_factors() -> None:
    model = backbone(("fc",))
    attach_lora(model, rank=2, alpha=2, kind="adalora", n_steps=12, seed=0)
    parameters = dict(model.named_parameters())
    a, b = (next(p for n, p in parameters.items() if f"lora_{x}" in n).detach() for x in "AB")
    expected = torch.stack(
        [(a @ a.T - torch.eye(4)).pow(2).sum().sqrt(), (b.T @ b - torch.eye(4)).pow(2).sum().sqrt()]
    )
    torch.testing.assert_close(orthogonality(model).detach(), expected.mean())

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": pixels.sum()}

    loss = Orthogonal(Constant(), weight=0.5)(pixels=torch.tensor([2.0]))["loss"]
    torch.testing.assert_close(loss.detach(), 2.0 + 0.5 * expected.mean())
    assert orthogonality(backbone()).item() == 0


@pytest.fixture(autouse=True)
def quiet() -> None:
    warnings.filterwarnings("ignore", module="peft")
