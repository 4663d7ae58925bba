"""Passes that share their beginning give what they gave alone, and compute the beginning once."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from deblora.models.adapters.siblings import shared_prefix


class Varying(nn.Linear):
    pass


class Counted(nn.Linear):
    """Counts what it computes; a call that is answered from the store does not reach it."""

    n_calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return super().forward(x)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1.0)


class AsTable(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x + 1}


class Chain(nn.Module):
    """``a``, an operation between modules, ``b``, the varying module, and ``b`` again."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.v = Counted(4, 4), Counted(4, 4), Varying(4, 4)
        self.inplace, self.table, self.flat = InPlace(), AsTable(), nn.Flatten()
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.a(x))
        y = self.inplace(self.flat(self.b(x)).clone())
        y = self.table(y)["y"]
        return self.v(y) + self.b(y) + x


def is_varying(module: nn.Module) -> bool:
    return isinstance(module, Varying)


BETWEEN = {"new": torch.relu, "in place": torch.relu_, "added in place": lambda x: x.add_(1.0)}


def outputs(model: Chain, x: torch.Tensor, *, n_passes: int, shared: bool) -> list[torch.Tensor]:
    found = []
    with torch.inference_mode(), shared_prefix(model, varies=is_varying) as prefix:
        for i in range(n_passes):
            nn.init.constant_(model.v.weight, i + 1.0)
            if shared:
                prefix.start_pass()
            found.append(model(x).clone())
    return found


@pytest.mark.parametrize("between", BETWEEN)
def test_passes_are_what_they_are_alone(between: str) -> None:
    model = Chain(BETWEEN[between]).eval()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = outputs(model, x, n_passes=3, shared=False)
    assert (model.a.n_calls, model.b.n_calls) == (3, 6)
    model.a.n_calls = model.b.n_calls = 0
    found = outputs(model, x, n_passes=3, shared=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not torch.equal(found[0], found[1])
    # what was written to after it was stored is computed again; b sees equal values and is not, but for its second call
    assert (model.a.n_calls, model.b.n_calls) == (1 if between == "new" else 3, 1 + 3)


def test_nothing_is_kept_or_left_behind() -> None:
    model = Chain(torch.relu).eval()
    own = {module: module.forward for module in model.modules()}
    x = torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="shapes"), shared_prefix(model, varies=is_varying) as prefix:
        for wrong in (x, x[:, :2]):
            prefix.start_pass()
            model(wrong)
    assert all("forward" not in vars(module) and module.forward == own[module] for module in own)
    n_calls = model.a.n_calls
    model(x)
    assert model.a.n_calls == n_calls + 1
    assert model(x).requires_grad  # gradients are back


def test_other_inputs_are_computed() -> None:
    model = Chain(torch.relu).eval()
    first, second = torch.randn(2, 3, 4).unbind()
    with torch.no_grad():
        expected = [model(first), model(second)]
    with shared_prefix(model, varies=is_varying) as prefix:
        for x, own in zip((first, second), expected, strict=True):
            prefix.start_pass()
            assert torch.equal(model(x), own)


def test_a_varying_module_that_the_tree_hides_is_not_shared() -> None:
    varying = Varying(4, 4).eval()

    class Hides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = varying(x)
            return out

    hides, x, found = Hides().eval(), torch.ones(1, 4), []
    with shared_prefix(hides, varying, varies=is_varying) as prefix:
        for i in range(2):
            nn.init.constant_(varying.weight, float(i))
            prefix.start_pass()
            found.append(hides(x))
    assert not torch.equal(*found)


def test_training_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="evaluation mode"),
        shared_prefix(Chain(torch.relu), varies=is_varying),
    ):
        pass
