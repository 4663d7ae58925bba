"""Losses of the rows with their own training, against the same formulas in NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from deblora.evaluate.classifiers.linear import inverse_log_prior
from deblora.models.backbone import Backbone, InputSpec
from deblora.train.classifiers import (
    Classifier,
    LiftClassifier,
    OneVsRest,
    ResltClassifier,
    SadeClassifier,
    SoftLabelClassifier,
    Supervised,
    alternating_order,
    branch_members,
)

N, D, C = 12, 5, 4
GROUPS = ((0,), (1, 2), (3,))


@pytest.fixture
def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(N, D)), np.repeat(np.arange(C), N // C)


def cross_entropy(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -log_softmax(scores, axis=1)[np.arange(len(y)), y]


def normalized(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def scores_of(layers: nn.ModuleList, x: np.ndarray) -> np.ndarray:
    z = normalized(x)
    return np.stack(
        [z @ m.weight.detach().double().numpy().T + m.bias.detach().double().numpy() for m in layers]
    )


def loss_of(head: Classifier, x: np.ndarray, y: np.ndarray) -> float:
    return float(head.double().loss(torch.from_numpy(x), torch.from_numpy(y)).detach())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_reslt_is_its_formula(beta: float, batch: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = batch
    head = ResltClassifier(D, in_branch=branch_members(GROUPS, C), beta=beta, seed=0)
    scores = scores_of(head.branches, x)
    groups = [np.isin(y, c) for c in ([0, 1, 2, 3], [1, 2, 3], [3])]
    own = sum(cross_entropy(s[m], y[m]).sum() for s, m in zip(scores, groups, strict=True))
    branches = own / sum(m.sum() for m in groups)
    expected = (1 - beta) * cross_entropy(scores.sum(axis=0), y).mean() + beta * branches
    assert loss_of(head, x, y) == pytest.approx(expected, rel=1e-6)
    logits = head(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(logits, scores.sum(axis=0), rtol=1e-5)


def test_a_batch_of_head_chips_trains_no_tail_branch(batch: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = batch
    head = ResltClassifier(D, in_branch=branch_members(GROUPS, C), beta=1.0, seed=0).double()
    head.loss(torch.from_numpy(x), torch.zeros(N, dtype=torch.long)).backward()
    middle, tail = head.branches[1], head.branches[2]
    assert all(
        float(p.grad.abs().max()) == 0 for m in (middle, tail) for p in m.parameters() if p.grad is not None
    )


def test_sade_is_its_formula(batch: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = batch
    counts = np.array([50, 20, 10, 4])
    prior = np.log(counts / counts.sum())
    inverse = np.log(counts[::-1] / counts.sum())
    np.testing.assert_allclose(inverse, inverse_log_prior(np.repeat(np.arange(C), counts), C))
    head = SadeClassifier(
        D,
        log_prior=torch.from_numpy(prior).float(),
        inverse_log_prior=torch.from_numpy(inverse).float(),
        tau=2.0,
        seed=0,
    )
    scores = scores_of(head.experts, x)
    expected = sum(
        cross_entropy(s + offset, y).mean()
        for s, offset in zip(scores, (0, prior, prior - 2 * inverse), strict=True)
    )
    assert loss_of(head, x, y) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), scores.mean(axis=0), rtol=1e-5)


def test_lift_is_its_formula_and_starts_at_the_class_means(batch: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = batch
    means = np.stack([x[y == c].mean(axis=0) for c in range(C)])
    prior = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    head = LiftClassifier(torch.from_numpy(means), log_prior=torch.from_numpy(prior), scale=25.0)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, means)]
    logits = 25 * unit[0] @ unit[1].T
    assert loss_of(head, x, y) == pytest.approx(cross_entropy(logits + prior, y).mean(), rel=1e-6)
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), logits, rtol=1e-5)


class Features(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def backbone() -> Backbone:
    spec = InputSpec(1, 1, (0.5,), (0.5,), 1.0)
    return Backbone(
        Features(),
        lambda m, x: m(x),
        spec=spec,
        feature_size=D,
        name="toy",
        weights_sha256="",
        lora_targets=(),
        pool="mean",
    )


def test_the_objective_hands_features_to_the_classifier(batch: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (torch.from_numpy(v) for v in batch)
    head = ResltClassifier(D, in_branch=branch_members(GROUPS, C), beta=0.5, seed=0).double()
    assert Supervised(backbone(), head)(x[:, None, None], y)["loss"] == head.loss(x, y)


def test_one_against_the_rest_is_its_formula(batch: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = batch
    member = (y == 3).astype(np.int64)
    objective = OneVsRest(backbone(), seed=0).double()
    w, b = objective.head.weight.detach().numpy()[0], objective.head.bias.detach().numpy()[0]
    s = normalized(x) @ w + b
    expected = np.mean(np.logaddexp(0, s) - member * s)
    found = objective(torch.from_numpy(x)[:, None, None], torch.from_numpy(member))["loss"]
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_class_is_every_second_sample_and_every_chip_has_its_turn() -> None:
    member = np.arange(20) < 3
    order = alternating_order(member, 34, seed=1)
    assert member[order[::2]].all() and not member[order[1::2]].any()
    assert set(order[1::2]) == set(range(3, 20))
    assert np.bincount(order[::2]).tolist() in ([6, 6, 5], [6, 5, 6], [5, 6, 6])
    np.testing.assert_array_equal(order, alternating_order(member, 34, seed=1))
    with pytest.raises(ValueError, match="chips on both sides"):
        alternating_order(np.ones(4, dtype=bool), 8, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ResltClassifier(D, in_branch=branch_members(GROUPS, C), beta=1.5, seed=0),
            "beta must be in",
        ),
        (lambda: ResltClassifier(D, in_branch=torch.ones(2, C), beta=0.5, seed=0), "must have 3 rows"),
        (
            lambda: LiftClassifier(torch.ones(C, D), log_prior=torch.zeros(C), scale=0.0),
            "scale must be positive",
        ),
        (
            lambda: SadeClassifier(
                D, log_prior=torch.zeros(C), inverse_log_prior=torch.zeros(C), tau=-1.0, seed=0
            ),
            "tau must not be negative",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_soft_labels_under_balanced_softmax(
    batch: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> None:
    x, y = batch
    targets = rng.dirichlet(np.ones(C), size=N)
    prior = np.log(targets.mean(axis=0))
    head = SoftLabelClassifier(D, log_prior=torch.from_numpy(prior), seed=0).double()
    scores = scores_of(nn.ModuleList([head.linear]), x)[0]
    expected = -(targets * log_softmax(scores + prior, axis=1)).sum(axis=1).mean()
    tensors = torch.from_numpy(x), torch.from_numpy(targets)
    assert float(head.loss(*tensors).detach()) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(head(tensors[0]).detach().numpy(), scores, rtol=1e-5, atol=1e-6)
    # hard targets are classes
    hard = float(head.loss(tensors[0], torch.eye(C, dtype=torch.float64)[y]).detach())
    assert hard == pytest.approx(cross_entropy(scores + prior, y).mean(), rel=1e-6)
