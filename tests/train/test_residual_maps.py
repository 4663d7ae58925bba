"""Maps in feature space: where they start, their closed form, and what only the one with a hidden layer can reach."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import ndtr

from deblora.errors import ArtifactError
from deblora.pipeline.classify.train_deblora import MAPS, RESIDUAL, fresh_map, load_map, save_map
from deblora.recipe.classify import DebloraRecipe, Recipe
from deblora.run.run_dir import RunDir
from deblora.train.objectives import Regress, ResidualMap, ResidualMlp

Maker = Callable[..., ResidualMap | ResidualMlp]


@pytest.mark.parametrize("make", [ResidualMap, ResidualMlp])
def test_a_map_starts_as_the_identity_and_can_leave_it(make: Maker) -> None:
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first, again, other = make(8, 3, seed=0), make(8, 3, seed=0), make(8, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(features), features)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, other.state_dict()[name]) == (name == "up.weight")
    first(features).sum().backward()
    assert first.up.weight.grad is not None and float(first.up.weight.grad.abs().max()) > 0


def test_the_linear_map_is_z_plus_b_a_z() -> None:
    residual = ResidualMap(2, 1, seed=0)
    with torch.no_grad():
        residual.down.weight.copy_(torch.tensor([[1.0, 2.0]]))
        residual.up.weight.copy_(torch.tensor([[10.0], [-1.0]]))
    torch.testing.assert_close(
        residual(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0 + 110.0, 4.0 - 11.0]])
    )


def test_the_other_map_is_z_plus_b_gelu_of_a_z_plus_a() -> None:
    mlp = ResidualMlp(2, 2, seed=0)
    with torch.no_grad():
        mlp.down.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        mlp.down.bias.copy_(torch.tensor([0.3, -1.0]))
        mlp.up.weight.copy_(torch.tensor([[10.0, 1.0], [-1.0, 2.0]]))
        found = mlp(torch.tensor([[0.2, 0.4]])).numpy()
    hidden = np.array([0.2 - 0.8 + 0.3, 0.1 - 1.0])
    gelu = hidden * ndtr(hidden)  # h times the normal distribution function at h
    expected = [[0.2 + 10 * gelu[0] + gelu[1], 0.4 - gelu[0] + 2 * gelu[1]]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def _tent(n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Points whose second dimension is to move by ``|x| - mean |x|`` of the first: even in x, so no linear part."""
    x = torch.linspace(-2, 2, n)
    features = torch.stack([x, torch.cos(37 * x)], dim=1)
    return features, features + torch.stack([torch.zeros(n), x.abs() - x.abs().mean()], dim=1)


def test_only_a_hidden_layer_reaches_a_target_that_is_not_linear() -> None:
    features, goal = _tent()
    x, moved = features.double().numpy(), (goal - features).double().numpy()
    best = x @ np.linalg.lstsq(x, moved, rcond=None)[0]  # the best linear residual, whatever its rank
    floor = float(((best - moved) ** 2).mean())
    assert floor > 0.9 * float((moved**2).mean())
    left = {}
    for name, make in MAPS.items():
        trained = make(2, 2 if name == "residual" else 8, seed=0)
        objective = Regress(trained, scale=torch.ones(2))
        optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-2, weight_decay=0.0)
        for _ in range(400):
            optimizer.zero_grad()
            objective(features, goal, torch.ones(len(features)))["loss"].backward()
            optimizer.step()
        with torch.inference_mode():
            left[name] = float((trained(features) - goal).pow(2).mean())
    assert left["residual"] > 0.999 * floor
    assert left["residual-mlp"] < 0.05 * floor


@pytest.mark.parametrize("placement", MAPS)
def test_a_map_is_read_as_it_was_written(placement: str, tmp_path: Path, rng: np.random.Generator) -> None:
    run, made = RunDir(tmp_path), fresh_map(_recipe(placement), 6)
    with torch.no_grad():
        made.up.weight.copy_(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    run.adapter("deblora").mkdir(parents=True)
    (run.adapter("deblora") / "adapter_model.safetensors").write_bytes(b"of another placement")
    save_map(run, made)
    assert [path.name for path in run.adapter("deblora").iterdir()] == [RESIDUAL]
    features = rng.standard_normal((4, 6)).astype(np.float32)
    with torch.inference_mode():
        expected = made(torch.from_numpy(features)).numpy()
    np.testing.assert_array_equal(load_map(run, placement, 6)(features), expected)


def test_a_linear_map_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Names and shapes of the tensors are those that run folders hold since the first version."""
    run = RunDir(tmp_path)
    save_map(run, fresh_map(_recipe("residual"), 6))
    shapes = {name: tuple(t.shape) for name, t in load_file(run.adapter("deblora") / RESIDUAL).items()}
    assert shapes == {"down.weight": (3, 6), "up.weight": (6, 3)}


@pytest.mark.parametrize(("written", "read"), [("residual", "residual-mlp"), ("residual-mlp", "residual")])
def test_a_map_of_the_other_placement_is_refused(written: str, read: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_map(run, fresh_map(_recipe(written), 6))
    message = f"is a map of deblora.placement {written}, but the recipe says {read}; run train-deblora again"
    with pytest.raises(ArtifactError, match=message):
        load_map(run, read, 6)


@pytest.mark.parametrize("placement", MAPS)
def test_a_map_that_cannot_be_used_is_refused(placement: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(ArtifactError, match="is missing; run train-deblora again"):
        load_map(run, placement, 6)
    save_map(run, fresh_map(_recipe(placement), 6))
    with pytest.raises(ArtifactError, match="maps 6 dimensions"):
        load_map(run, placement, 7)
    (run.adapter("deblora") / RESIDUAL).write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="is damaged .*; run train-deblora again"):
        load_map(run, placement, 6)


def _recipe(placement: str) -> Recipe:
    return Recipe(deblora=DebloraRecipe(placement=placement, rank=3))  # type: ignore[arg-type]
