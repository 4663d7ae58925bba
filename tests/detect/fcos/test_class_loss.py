"""Re-weighting and effective class margins: closed forms, starting points, classes without objects."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from deblora.detect.fcos.class_loss import (
    FocalScoring,
    MarginScoring,
    Scoring,
    class_balanced_weights,
    focal_loss,
    margins,
)
from deblora.errors import DataError


def test_focal_scoring_sums_the_focal_loss() -> None:
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 3, 0, 1, 3])
    found = FocalScoring(3).loss(logits, labels)
    torch.testing.assert_close(found, focal_loss(logits, labels).sum())
    torch.testing.assert_close(FocalScoring(3).scores(logits), logits.sigmoid())


def test_a_weight_belongs_to_the_locations_of_its_class() -> None:
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 2])
    rows = focal_loss(logits, labels).sum(dim=1)
    found = FocalScoring(2, weights=np.array([0.5, 1.5])).loss(logits, labels)
    torch.testing.assert_close(found, 0.5 * rows[0] + 1.5 * (rows[1] + rows[2]) + rows[3])


def test_class_balanced_weights_by_hand() -> None:
    # beta = .5: 1 - .5^n = .5 and .75, weights 1 and 2/3, mean 5/6.
    np.testing.assert_allclose(class_balanced_weights(np.array([1, 2]), beta=0.5), [1.2, 0.8])
    np.testing.assert_allclose(class_balanced_weights(np.array([3, 900]), beta=0.0), [1, 1])
    weights = class_balanced_weights(np.array([10, 1000, 100_000]))
    assert weights.mean() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx((1 - 0.9999**1000) / (1 - 0.9999**10))
    # Close to 1 the weights are inverse counts.
    np.testing.assert_allclose(
        class_balanced_weights(np.array([1, 4]), beta=1 - 1e-12), [1.6, 0.4], rtol=1e-9
    )


def test_margins_of_balanced_counts() -> None:
    shift, weights = margins(np.array([50]), background_ratio=1.0)
    np.testing.assert_allclose(shift, 0, atol=1e-15)
    np.testing.assert_allclose(weights, math.log(2))


def test_margins_by_hand_and_in_the_limit() -> None:
    shift, weights = margins(np.array([1, 4]), background_ratio=3.0)  # n = 1, 4, 15; total 20
    np.testing.assert_allclose(shift, [math.log(1 / 19) / 4, math.log(4 / 16) / 4, math.log(15 / 5) / 4])
    expected = [19 * math.log(20 / 19), 4 * math.log(5 / 4), math.log(4) / 3]
    np.testing.assert_allclose(weights, expected)
    _, weights = margins(np.array([1, 10**9]), background_ratio=100.0)
    assert weights[0] == pytest.approx(1, abs=1e-9)


def test_margin_loss_is_that_of_the_shifted_exponentials() -> None:
    """p as a ratio: e^s / a against e^-s / b, with a and b the fourth roots of the other and the own count."""
    counts, ratio = np.array([3, 40]), 5.0
    scoring = MarginScoring(counts, background_ratio=ratio)
    n = np.append(counts, ratio * counts.sum())
    a, b = (n.sum() - n) ** 0.25, n**0.25
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 0, 2])
    s = logits.numpy()
    p = (np.exp(s) / a) / (np.exp(s) / a + np.exp(-s) / b)
    y = np.eye(3)[labels.numpy()]
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    _, weights = margins(counts, background_ratio=ratio)
    assert float(scoring.double().loss(logits, labels)) == pytest.approx(
        float((weights * entropy).sum()), rel=1e-5
    )


def test_margin_scores_know_the_background() -> None:
    scoring = MarginScoring(np.array([3, 40]), background_ratio=5.0)
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    bg = 1 - 1 / (1 + math.exp(-0.5))
    expected = [[bg / (1 + math.exp(-2)), bg / (1 + math.exp(1))]]
    torch.testing.assert_close(scoring.scores(logits), torch.tensor(expected))


def test_both_start_at_the_prior() -> None:
    torch.testing.assert_close(FocalScoring(4).bias.sigmoid(), torch.full((4,), 0.01))
    scoring = MarginScoring(np.array([1, 1000]), background_ratio=50.0)
    assert scoring.n_channels == 3
    p = (2 * scoring.bias + scoring.shift).sigmoid()
    torch.testing.assert_close(p, torch.tensor([0.01, 0.01, 0.99]))


@pytest.mark.parametrize(
    "scoring", [FocalScoring(3), MarginScoring(np.array([1, 50, 2000]), background_ratio=80.0)]
)
def test_the_first_loss_is_small(scoring: Scoring) -> None:
    """10,000 locations of which 100 are positive: a few nats per positive, not hundreds."""
    labels = torch.full((10_000,), 3)
    labels[:100] = torch.arange(100) % 3
    loss = scoring.loss(scoring.bias.expand(10_000, -1), labels) / 100
    assert float(loss) < 15
    assert float(scoring.scores(scoring.bias).max()) < 0.3


def test_constants_travel_with_the_state() -> None:
    source = MarginScoring(np.array([3, 40]), background_ratio=5.0)
    other = MarginScoring(np.array([1, 1]), background_ratio=1.0)
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.shift, source.shift)
    assert not list(source.parameters())


def test_classes_without_objects_are_refused() -> None:
    with pytest.raises(DataError, match="class 1 has 0 training objects"):
        class_balanced_weights(np.array([5, 0]))
    with pytest.raises(DataError, match="class 0 has 0"):
        MarginScoring(np.array([0, 2]), background_ratio=3.0)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="beta"):
        class_balanced_weights(np.array([5]), beta=1.0)
    with pytest.raises(ValueError, match="background_ratio"):
        margins(np.array([5]), background_ratio=0.0)
    with pytest.raises(ValueError, match="weights for 3"):
        FocalScoring(3, weights=np.ones(2))
    with pytest.raises(ValueError, match="per class"):
        margins(np.array([[5]]), background_ratio=1.0)


@pytest.mark.parametrize("scoring", [FocalScoring(2), MarginScoring(np.array([1, 9]), background_ratio=9.0)])
def test_gradients_are_finite_for_extreme_logits(scoring: Scoring) -> None:
    logits = torch.full((3, scoring.n_channels), 80.0)
    logits[1] = -80
    logits.requires_grad_()
    scoring.loss(logits, torch.tensor([0, 1, 2])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_focal_weights_of_one_change_nothing() -> None:
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 2, 0])
    plain = FocalScoring(2).loss(logits, labels)
    torch.testing.assert_close(FocalScoring(2, weights=np.ones(2)).loss(logits, labels), plain)
    assert float(functional.relu(plain)) > 0
