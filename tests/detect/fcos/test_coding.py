"""Sides, points and centerness against hand-made cases; coding and decoding are inverse and turn along."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deblora.detect.fcos.assign import boxes_from_sides, centerness, grid_points, sides_from_boxes
from deblora.detect.overlap import aligned_iou

DOUBLE = torch.float64


def draw(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, 5, generator=g, dtype=DOUBLE)
    boxes[:, :2] *= 1000
    boxes[:, 2:4] = boxes[:, 2:4].sort(dim=1, descending=True).values * 200 + 1
    boxes[:, 4] = (boxes[:, 4] - 0.5) * math.pi
    points = boxes[:, :2] + (torch.rand(n, 2, generator=g, dtype=DOUBLE) - 0.5) * 300
    return boxes, points


def test_points_are_the_centers_of_cells_row_by_row() -> None:
    expected = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert grid_points(2, 3, 8).tolist() == expected


def test_sides_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20, 8, 4, 0], [10.0, 20, 8, 4, math.pi / 2]])
    points = torch.tensor([[11.0, 21], [11.0, 21]])
    # Turned by a quarter the w side points down: x' = dy = 1, y' = -dx = -1.
    expected = torch.tensor([[5.0, 3, 3, 1], [5.0, 1, 3, 3]])
    torch.testing.assert_close(sides_from_boxes(points, boxes), expected)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_decoding_inverts_coding(seed: int) -> None:
    boxes, points = draw(seed, 40)
    back = boxes_from_sides(points, sides_from_boxes(points, boxes), boxes[:, 4])
    torch.testing.assert_close(back, boxes, rtol=1e-9, atol=1e-9)
    assert aligned_iou(back, boxes).min() > 0.999


def test_single_precision_gives_boxes_back_in_large_scenes() -> None:
    boxes, points = draw(0, 500)
    boxes, points = boxes.float(), points.float()
    boxes[:, :2] += 3000
    points += 3000
    boxes[:, 2:4] += 4
    back = boxes_from_sides(points, sides_from_boxes(points, boxes), boxes[:, 4])
    assert aligned_iou(back, boxes).min() > 0.999


@given(seed=st.integers(0, 10_000), turn=st.floats(-7, 7))
@settings(max_examples=50, deadline=None)
def test_sides_do_not_change_when_box_and_point_turn_together(seed: int, turn: float) -> None:
    boxes, points = draw(seed, 20)
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = torch.tensor([[cos, sin], [-sin, cos]], dtype=DOUBLE)
    turned = torch.cat([boxes[:, :2] @ rotation, boxes[:, 2:4], boxes[:, 4:] + turn], dim=1)
    torch.testing.assert_close(
        sides_from_boxes(points @ rotation, turned), sides_from_boxes(points, boxes), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((2, 3, 2, 3), 1.0),
        ((1, 2, 3, 2), math.sqrt(1 / 3)),
        ((1, 1, 4, 9), 1 / 6),
        ((0, 1, 4, 1), 0.0),
        ((-1, 1, 4, 1), 0.0),
        ((0, 0, 0, 0), 0.0),
    ],
)
def test_centerness_by_hand(sides: tuple[float, ...], expected: float) -> None:
    found = centerness(torch.tensor([sides], dtype=torch.float32))
    assert float(found) == pytest.approx(expected, rel=1e-6)
