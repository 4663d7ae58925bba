"""Losses against their closed forms, and finite gradients where a network can get to."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.detect.fcos.class_loss import focal_loss, one_hot
from deblora.detect.fcos.loss import kld_loss, riou_loss, vector_loss
from deblora.detect.overlap import aligned_iou

DOUBLE = torch.float64


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0], [0.0, 0.0]], dtype=DOUBLE)
    labels = torch.tensor([0, 2, 1])  # 2 is background

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def own(x: float) -> float:
        return -0.25 * (1 - sigmoid(x)) ** 2 * math.log(sigmoid(x))

    def other(x: float) -> float:
        return -0.75 * sigmoid(x) ** 2 * math.log(1 - sigmoid(x))

    expected = [[own(0), other(2)], [other(-1), other(3)], [other(0), own(0)]]
    torch.testing.assert_close(focal_loss(logits, labels), torch.tensor(expected, dtype=DOUBLE))


def test_without_focus_it_is_half_the_cross_entropy() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 4
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, one_hot(labels, 3), reduction="none")
    torch.testing.assert_close(focal_loss(logits, labels, alpha=0.5, gamma=0.0), plain / 2)


def test_background_has_no_channel() -> None:
    assert one_hot(torch.tensor([0, 2, 3]), 3).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def matrix_divergence(p: torch.Tensor, t: torch.Tensor) -> float:
    """Twice KL(p || t) of the Gaussians of two boxes, with matrices."""

    def gaussian(box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cx, cy, w, h, theta = box.tolist()
        r = torch.tensor(
            [[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]], dtype=DOUBLE
        )
        return torch.tensor([cx, cy], dtype=DOUBLE), r @ torch.diag(
            torch.tensor([w * w / 4, h * h / 4], dtype=DOUBLE)
        ) @ r.T

    (mean_p, cov_p), (mean_t, cov_t) = gaussian(p), gaussian(t)
    normal = [torch.distributions.MultivariateNormal(m, c) for m, c in ((mean_p, cov_p), (mean_t, cov_t))]
    return 2 * float(torch.distributions.kl_divergence(normal[0], normal[1]))


BOXES = st.tuples(
    st.floats(-30, 30), st.floats(-30, 30), st.floats(2, 60), st.floats(2, 60), st.floats(-4, 4)
)


@given(p=BOXES, t=BOXES)
@settings(max_examples=100, deadline=None)
def test_kld_is_the_divergence_of_gaussians(p: tuple[float, ...], t: tuple[float, ...]) -> None:
    predicted, target = torch.tensor([p], dtype=DOUBLE), torch.tensor([t], dtype=DOUBLE)
    expected = 1 - 1 / (1 + math.log1p(matrix_divergence(predicted[0], target[0])))
    assert float(kld_loss(predicted, target)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_kld_by_hand() -> None:
    target = torch.tensor([[0.0, 0, 4, 2, 0]], dtype=DOUBLE)
    shifted = torch.tensor([[2.0, 0, 4, 2, 0]], dtype=DOUBLE)  # m^T S^-1 m = 4 / (16 / 4) = 1
    assert float(kld_loss(shifted, target)) == pytest.approx(1 - 1 / (1 + math.log(2)))


@given(box=BOXES, k=st.integers(-2, 2))
@settings(max_examples=50, deadline=None)
def test_equal_boxes_cost_nothing(box: tuple[float, ...], k: int) -> None:
    cx, cy, w, h, theta = box
    target = torch.tensor([box], dtype=DOUBLE)
    for same in (
        (cx, cy, w, h, theta),
        (cx, cy, w, h, theta + k * math.pi),
        (cx, cy, h, w, theta + math.pi / 2),
    ):
        predicted = torch.tensor([same], dtype=DOUBLE)
        assert float(kld_loss(predicted, target)) == pytest.approx(0, abs=1e-9)
        assert float(riou_loss(predicted, target)) == pytest.approx(0, abs=1e-9)


def test_riou_by_hand() -> None:
    target = torch.tensor([[0.0, 0, 4, 2, 0]] * 2)
    predicted = torch.tensor([[2.0, 0, 4, 2, 0], [50.0, 0, 4, 2, 0]])
    torch.testing.assert_close(riou_loss(predicted, target), torch.tensor([math.log(3), math.log(1e6)]))
    torch.testing.assert_close(aligned_iou(predicted, target), torch.tensor([1 / 3, 0.0]))


def test_vector_loss_by_hand() -> None:
    predicted = torch.tensor([[0.05, 0.5], [0.0, 0.0]])
    # Quadratic below .1: .5 * .05² / .1 = .0125; linear above: .5 - .05 = .45; both twice.
    torch.testing.assert_close(vector_loss(predicted, torch.zeros(2, 2)), torch.tensor([0.925, 0.0]))


DEGENERATE = [
    ("equal", [5, 5, 8, 4, 0.3], [5, 5, 8, 4, 0.3]),
    ("equal square", [5, 5, 4, 4, 0.0], [5, 5, 4, 4, 0.0]),
    ("disjoint", [500, 5, 8, 4, 0.3], [5, 5, 8, 4, 0.3]),
    ("touching", [13, 5, 8, 4, 0.0], [5, 5, 8, 4, 0.0]),
    ("nested", [5, 5, 2, 1, 0.0], [5, 5, 8, 4, 0.0]),
    ("no width", [5, 5, 0, 4, 0.3], [5, 5, 8, 4, 0.3]),
    ("no area", [5, 5, 0, 0, 0.3], [5, 5, 8, 4, 0.3]),
    ("thin target", [5, 5, 8, 4, 0.3], [5, 5, 8, 0.01, 0.3]),
    ("huge", [5, 5, 1e4, 1e4, 0.3], [5, 5, 8, 4, 0.3]),
    ("quarter turn", [5, 5, 8, 4, math.pi / 2], [5, 5, 8, 4, 0.0]),
]


@pytest.mark.parametrize("loss", [riou_loss, kld_loss])
@pytest.mark.parametrize(("name", "predicted", "target"), DEGENERATE)
def test_gradients_are_finite(loss, name: str, predicted: list[float], target: list[float]) -> None:
    boxes = torch.tensor([predicted], dtype=torch.float32, requires_grad=True)
    value = loss(boxes, torch.tensor([target], dtype=torch.float32))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert boxes.grad is not None
    assert torch.isfinite(boxes.grad).all()


def test_focal_gradients_are_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 0.0, 200.0]], requires_grad=True)
    for label in range(4):
        focal_loss(logits, torch.tensor([label])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [riou_loss, kld_loss])
def test_gradients_agree_with_differences(loss) -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.rand(6, 5, generator=g, dtype=DOUBLE) * 4 + 4
    predicted = (target + torch.rand(6, 5, generator=g, dtype=DOUBLE) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda boxes: loss(boxes, target), (predicted,))
