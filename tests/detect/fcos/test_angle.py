"""The anisotropy vector: what it says, where it is continuous, and that angles come back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.detect.boxes import wrap_le90
from deblora.detect.fcos.assign import (
    AngleCoding,
    anisotropy_vector,
    decode_boxes,
    encode,
    raw_angle,
    theta_from_raw,
    theta_from_vector,
)
from deblora.detect.overlap import aligned_iou

HALF_PI = math.pi / 2


def box(w: float, h: float, theta: float) -> torch.Tensor:
    return torch.tensor([[0.0, 0, w, h, theta]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("w", "h", "theta", "vector"),
    [
        (2, 1, 0, (0.6, 0)),
        (2, 1, math.pi / 4, (0, 0.6)),
        (2, 1, -HALF_PI, (-0.6, 0)),
        (1, 2, 0, (-0.6, 0)),
        (5, 5, 0.3, (0, 0)),
        (7, 0, math.pi / 4, (0, 1)),
        (0, 0, 1, (0, 0)),
    ],
)
def test_vectors_by_hand(w: float, h: float, theta: float, vector: tuple[float, float]) -> None:
    found = anisotropy_vector(box(w, h, theta))
    torch.testing.assert_close(found, torch.tensor([vector], dtype=torch.float64), rtol=0, atol=1e-12)


@given(w=st.floats(1, 500), ratio=st.floats(0.01, 0.98), theta=st.floats(-HALF_PI, HALF_PI, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_angles_come_back(w: float, ratio: float, theta: float) -> None:
    boxes = box(w, w * ratio, theta)
    found = theta_from_vector(anisotropy_vector(boxes))
    assert -HALF_PI <= float(found) < HALF_PI
    gap = abs(float(found) - theta)
    assert min(gap, math.pi - gap) < 1e-9
    back = torch.cat([boxes[:, :4], found[:, None]], dim=1)
    assert float(aligned_iou(back, boxes)) > 0.999
    assert theta_from_raw(raw_angle(boxes)).item() == theta


@given(w=st.floats(1, 500), h=st.floats(1, 500), theta=st.floats(-10, 10), k=st.integers(-3, 3))
@settings(max_examples=100, deadline=None)
def test_one_rectangle_has_one_vector(w: float, h: float, theta: float, k: int) -> None:
    vector = anisotropy_vector(box(w, h, theta))
    for same in (box(w, h, theta + k * math.pi), box(h, w, theta + HALF_PI), wrap_le90(box(w, h, theta))):
        torch.testing.assert_close(anisotropy_vector(same), vector, rtol=0, atol=1e-10)
    assert float(vector.norm()) <= 1


def test_it_does_not_jump_at_the_border_of_le90_and_for_almost_squares() -> None:
    step = 1e-6
    low, high = box(9, 2, -HALF_PI + step), box(9, 2, HALF_PI - step)
    assert float((anisotropy_vector(low) - anisotropy_vector(high)).norm()) < 4.1 * step
    upright, flat = box(5 + step, 5, 0.4), wrap_le90(box(5, 5 + step, 0.4))
    assert float((anisotropy_vector(upright) - anisotropy_vector(flat)).norm()) < 2 * step
    assert float((raw_angle(low) - raw_angle(high)).abs()) > 3


def test_a_square_has_no_direction_and_reads_as_zero() -> None:
    vector = anisotropy_vector(box(4, 4, 0.7))
    assert vector.abs().max() < 1e-15
    assert theta_from_vector(torch.zeros(1, 2)).item() == 0.0


@pytest.mark.parametrize("y", [0.0, -0.0])
def test_the_border_reads_as_its_lower_end(y: float) -> None:
    assert theta_from_vector(torch.tensor([[-1.0, y]])).item() == pytest.approx(-HALF_PI)


def crowd(seed: int, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, 5, generator=g)
    boxes[:, :2] *= 1000
    boxes[:, 2:4] = boxes[:, 2:4].sort(dim=1, descending=True).values * 200 + 4
    boxes[:, 4] = (boxes[:, 4] - 0.5) * math.pi
    boxes[:3, 4] = -HALF_PI
    return boxes[:, :2] + (torch.rand(n, 2, generator=g) - 0.5) * 100, boxes


@pytest.mark.parametrize("coding", ["vector", "raw"])
@pytest.mark.parametrize("seed", range(5))
def test_decoding_inverts_encoding(coding: AngleCoding, seed: int) -> None:
    points, boxes = crowd(seed)
    back = decode_boxes(points, *encode(points, boxes, coding), coding)
    assert aligned_iou(back, boxes).min() > 0.999


def test_a_square_keeps_all_but_its_angle() -> None:
    points, boxes = crowd(0)
    boxes[:, 3] = boxes[:, 2]
    back = decode_boxes(points, *encode(points, boxes, "vector"), "vector")
    torch.testing.assert_close(back[:, :4], boxes[:, :4])
    assert not back[:, 4].any()
    back = decode_boxes(points, *encode(points, boxes, "raw"), "raw")
    assert aligned_iou(back, boxes).min() > 0.999


def test_the_vector_coding_does_not_jump_at_the_border_and_the_raw_one_does() -> None:
    step = 1e-4
    points = torch.tensor([[3.0, 4.0]])
    low, high = box(9, 2, -HALF_PI + step).float(), box(9, 2, HALF_PI - step).float()
    jumps = {
        coding: float(
            (torch.cat(encode(points, low, coding), 1) - torch.cat(encode(points, high, coding), 1)).norm()
        )
        for coding in ("vector", "raw")
    }
    assert jumps["vector"] < 5 * step
    assert jumps["raw"] > 5


def test_only_the_raw_angle_lets_a_gradient_through() -> None:
    for coding, n, grows in (("vector", 2, False), ("raw", 1, True)):
        angle = torch.full((3, n), 0.5, requires_grad=True)
        lengths = torch.ones(3, 4, requires_grad=True)
        decode_boxes(torch.zeros(3, 2), lengths, angle, coding).sum().backward()  # type: ignore[arg-type]
        assert (angle.grad is not None) == grows
        assert lengths.grad is not None
        assert lengths.grad.abs().sum() > 0
