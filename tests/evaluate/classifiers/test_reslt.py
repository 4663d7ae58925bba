import numpy as np
import pytest
import torch
from torch.nn import functional

from deblora.data.longtail import Groups
from deblora.evaluate.classifiers.linear import fit_linear
from deblora.evaluate.classifiers.reslt import branch_weights, fit_branches, fit_reslt

GROUPS = Groups((0,), (1, 2), (3,))


def test_fused_logits_are_the_sum_of_the_branches(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    head = fit_reslt(x, y, 4, groups=GROUPS, l2=0.05)
    branches = fit_branches(standardized, y, 4, groups=GROUPS, l2=0.05)
    by_hand = sum(standardized @ branch[:-1] + branch[-1] for branch in branches)
    np.testing.assert_allclose(head.logits(x), by_hand, atol=1e-6)


def test_without_branch_loss_it_is_the_probe_with_a_third_of_the_penalty(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray
) -> None:
    x, y = blobs
    head = fit_reslt(x, y, 4, groups=GROUPS, l2=0.3, beta=0.0)
    plain = fit_linear(x, y, 4, l2=0.1)
    np.testing.assert_allclose(head.logits(x), plain.logits(x), atol=5e-3)
    for branch in fit_branches(standardized, y, 4, groups=GROUPS, l2=0.3, beta=0.0):
        np.testing.assert_allclose(branch[:-1], plain.weights / 3, atol=1e-3)


@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_fit_is_a_stationary_point_of_the_loss_written_in_torch(
    blobs: tuple[np.ndarray, np.ndarray], standardized: np.ndarray, beta: float
) -> None:
    y, l2 = blobs[1], 0.05
    branches = fit_branches(standardized, y, 4, groups=GROUPS, l2=l2, beta=beta, max_iter=2000)
    weights = torch.tensor(branches[:, :-1], requires_grad=True)
    bias = torch.tensor(branches[:, -1], requires_grad=True)
    labels = torch.tensor(y)
    scores = torch.tensor(standardized) @ weights + bias[:, None]
    apart, n_seen = torch.tensor(0.0, dtype=torch.float64), 0
    for branch, members in enumerate(((0, 1, 2, 3), (1, 2, 3), (3,))):
        seen = torch.isin(labels, torch.tensor(members))
        apart = apart + functional.cross_entropy(scores[branch, seen], labels[seen], reduction="sum")
        n_seen += int(seen.sum())
    loss = (1 - beta) * functional.cross_entropy(scores.sum(dim=0), labels) + beta * apart / n_seen
    (loss + l2 / 2 * (weights**2).sum()).backward()
    assert weights.grad is not None
    assert bias.grad is not None
    assert weights.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


def test_branch_weights_count_who_is_seen() -> None:
    y = np.array([0, 0, 1, 2])
    weights = branch_weights(y, 3, Groups((0,), (1,), (2,)))
    np.testing.assert_allclose(weights * 7, [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])


def test_empty_groups_leave_their_branches_out_of_the_branch_loss(
    blobs: tuple[np.ndarray, np.ndarray],
) -> None:
    head = fit_reslt(*blobs, 4, groups=Groups((0, 1, 2, 3), (), ()), l2=0.05)
    assert np.isfinite(head.logits(blobs[0])).all()


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_out_of_range(blobs: tuple[np.ndarray, np.ndarray], beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\)"):
        fit_reslt(*blobs, 4, groups=GROUPS, l2=0.05, beta=beta)


@pytest.mark.parametrize("groups", [Groups((0,), (1,), (2,)), Groups((0, 1), (1, 2), (3,))])
def test_groups_must_hold_every_class_once(blobs: tuple[np.ndarray, np.ndarray], groups: Groups) -> None:
    with pytest.raises(ValueError, match="each of 4 classes once"):
        fit_reslt(*blobs, 4, groups=groups, l2=0.05)
