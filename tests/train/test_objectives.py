"""Distances against closed forms, and what the objectives are before training."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from deblora.models.backbone import Backbone, InputSpec
from deblora.train.objectives import Classify, Regress, ResidualMap, feature_distance

A = torch.tensor([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
B = torch.tensor([[0.0, 4.0], [1.0, 1.0], [-1.0, 0.0]])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("squared_l2", [12.5, 0.0, 4.5]), ("l2", [5.0, 0.0, 3.0]), ("cosine", [1.0, 0.0, 2.0])],
)
def test_distances_have_their_closed_form(loss: str, expected: list[float]) -> None:
    found = feature_distance(A, B, loss)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(feature_distance(B, A, loss), found)  # type: ignore[arg-type]


def test_cosine_ignores_length_and_the_others_do_not() -> None:
    torch.testing.assert_close(feature_distance(7 * A, B, "cosine"), feature_distance(A, B, "cosine"))
    torch.testing.assert_close(feature_distance(7 * A, 7 * B, "l2"), 7 * feature_distance(A, B, "l2"))
    torch.testing.assert_close(
        feature_distance(7 * A, 7 * B, "squared_l2"), 49 * feature_distance(A, B, "squared_l2")
    )


def test_the_first_regression_loss_has_its_closed_form() -> None:
    """Contracting toward c with weight alpha, z~ = alpha z + (1 - alpha) c, so |z - z~| = (1 - alpha) |z - c|."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 4, generator=generator)
    center, scale, alpha = torch.randn(4, generator=generator), torch.tensor([0.5, 1.0, 2.0, 4.0]), 0.25
    target = alpha * features + (1 - alpha) * center
    weight = torch.tensor([1.0, 1.0, 0.5, 0.0, 1.0, 0.5])
    gap = (1 - alpha) * (features - center) / scale
    for loss, rows in (("squared_l2", gap.pow(2).mean(dim=1)), ("l2", gap.pow(2).sum(dim=1).sqrt())):
        found = Regress(ResidualMap(4, 2, seed=0), scale=scale, loss=loss)(features, target, weight)["loss"]
        torch.testing.assert_close(found, (weight * rows).sum() / weight.sum())


def test_the_regression_loss_is_zero_at_its_target() -> None:
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    goal = Regress(ResidualMap(4, 2, seed=0), scale=torch.ones(4))
    assert goal(features, features, torch.ones(3))["loss"].item() == 0.0


def test_only_the_residual_is_trained_and_only_its_upper_half_moves_first() -> None:
    goal = Regress(ResidualMap(4, 2, seed=0), scale=torch.ones(4))
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    goal(features, features + 1, torch.ones(3))["loss"].backward()
    gradients = {name: float(p.grad.abs().max()) for name, p in goal.named_parameters()}
    assert gradients["backbone.up.weight"] > 0
    assert gradients["backbone.down.weight"] == 0  # B is zero
    assert set(gradients) == {"backbone.up.weight", "backbone.down.weight"}


def backbone(size: int = 4) -> Backbone:
    spec = InputSpec(n_bands=1, image_size=2, mean=(0.0,), std=(1.0,), scale=1.0)
    return Backbone(
        nn.Identity(),
        lambda _, pixels: pixels.flatten(1),
        spec=spec,
        feature_size=size,
        name="flat",
        weights_sha256="",
        lora_targets=(),
        pool="mean",
    )


def test_classify_is_cross_entropy_of_a_linear_head_on_normalized_features() -> None:
    pixels = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0])
    goal = Classify(backbone(), 3, log_prior=None, seed=0)
    z = pixels.flatten(1)
    z = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    logits = z @ goal.head.weight.T + goal.head.bias
    expected = -functional.log_softmax(logits, dim=1)[range(5), labels].mean()
    torch.testing.assert_close(goal(pixels, labels)["loss"], expected)


def test_balanced_softmax_adds_the_log_prior() -> None:
    prior = torch.tensor([0.5, 0.3, 0.2])
    goal = Classify(backbone(), 3, log_prior=prior.log(), seed=0)
    with torch.no_grad():
        goal.head.weight.zero_()
        goal.head.bias.zero_()
    pixels = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = goal(pixels, torch.tensor([0, 1, 2]))["loss"]  # a flat head: the prior alone remains
    assert float(found) == pytest.approx(-sum(math.log(p) for p in (0.5, 0.3, 0.2)) / 3, rel=1e-5)


def test_the_head_depends_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = Classify(backbone(), 3, log_prior=None, seed=5)
    state = torch.get_rng_state()
    second = Classify(backbone(), 3, log_prior=None, seed=5)
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(torch.get_rng_state(), state)
