import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deblora.detect import boxes as convert
from deblora.detect.overlap import aligned_iou, quad_areas, quad_iou

HALF_PI = math.pi / 2


def random_boxes(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand((n, 5), dtype=torch.float64, generator=generator)
    low = torch.tensor([0.0, 0.0, 1.0, 1.0, -9.0], dtype=torch.float64)
    high = torch.tensor([1000.0, 800.0, 120.0, 120.0, 9.0], dtype=torch.float64)
    return low + unit * (high - low)


def assert_same_rectangles(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(aligned_iou(a, b), torch.ones(len(a), dtype=a.dtype), rtol=0, atol=1e-9)


def test_corners_of_an_upright_and_a_turned_box() -> None:
    boxes = torch.tensor([[10.0, 20.0, 6.0, 2.0, 0.0], [0.0, 0.0, 4.0, 2.0, -HALF_PI]], dtype=torch.float64)
    expected = torch.tensor(
        [[[7, 19], [13, 19], [13, 21], [7, 21]], [[-1, 2], [-1, -2], [1, -2], [1, 2]]], dtype=torch.float64
    )
    torch.testing.assert_close(convert.corners(boxes), expected)


def test_positive_angles_turn_clockwise_on_the_screen() -> None:
    first, second = convert.corners(torch.tensor([[0.0, 0.0, 2.0, 0.0, 0.3]]))[0, :2]
    assert second[0] > first[0]
    assert second[1] > first[1]  # y down: to the right means down


def test_le90_has_its_ranges_and_the_same_rectangles() -> None:
    boxes = random_boxes(500)
    wrapped = convert.wrap_le90(boxes)
    assert (wrapped[:, 2] >= wrapped[:, 3]).all()
    assert (wrapped[:, 4] >= -HALF_PI).all()
    assert (wrapped[:, 4] < HALF_PI).all()
    assert_same_rectangles(boxes, wrapped)
    assert torch.equal(convert.wrap_le90(wrapped), wrapped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrapping_stays_below_the_open_end(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    theta = torch.tensor(
        [HALF_PI, -HALF_PI, -HALF_PI - eps, HALF_PI - eps, 3 * HALF_PI, -3 * HALF_PI, 0.0, -1e-30],
        dtype=dtype,
    )
    wrapped = convert.wrap_angle(theta)
    assert (wrapped >= -HALF_PI - eps).all()
    assert (wrapped < HALF_PI).all()
    torch.testing.assert_close((2 * wrapped).cos(), (2 * theta).cos())


def test_quads_of_boxes_give_the_boxes_back_in_any_order_of_points() -> None:
    boxes = convert.wrap_le90(random_boxes(300))
    quads = convert.corners(boxes)
    torch.testing.assert_close(convert.boxes_from_quads(quads)[:, :4], boxes[:, :4])
    for order in ([1, 2, 3, 0], [3, 2, 1, 0], [0, 2, 1, 3]):
        assert_same_rectangles(convert.boxes_from_quads(quads[:, order]), boxes)


def test_smallest_rectangle_agrees_with_shapely() -> None:
    shapely = pytest.importorskip("shapely")
    generator = torch.Generator().manual_seed(1)
    quads = torch.rand((500, 4, 2), dtype=torch.float64, generator=generator) * 100
    boxes = convert.boxes_from_quads(quads)
    expected = shapely.area(shapely.oriented_envelope(shapely.multipoints(quads.numpy())))
    torch.testing.assert_close(boxes[:, 2] * boxes[:, 3], torch.from_numpy(expected), rtol=2e-6, atol=0)
    for points, box in zip(quads, boxes, strict=True):
        local = points - box[:2]
        cos, sin = box[4].cos(), box[4].sin()
        along, across = local[:, 0] * cos + local[:, 1] * sin, local[:, 1] * cos - local[:, 0] * sin
        assert along.abs().max() <= box[2] / 2 + 1e-9
        assert across.abs().max() <= box[3] / 2 + 1e-9


def test_squares_take_the_angle_of_their_first_edge() -> None:
    angles = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)
    rows = [torch.full_like(angles, value) for value in (400.0, 300.0, 25.0, 25.0)]
    boxes = torch.stack([*rows, angles], dim=1)
    found = convert.boxes_from_quads(convert.corners(boxes))
    offset = (found[:, 4] - angles) / HALF_PI
    torch.testing.assert_close(offset, offset.round(), rtol=0, atol=1e-9)
    assert_same_rectangles(found, boxes)


def test_single_precision_slivers_keep_their_width() -> None:
    boxes = torch.tensor([[500.0, 500.0, 900.0, 2.0, 0.4], [9000.0, 10.0, 30.0, 1.5, -1.0]])
    found = convert.boxes_from_quads(convert.corners(boxes))
    torch.testing.assert_close(found[:, 2:], boxes[:, 2:], rtol=0, atol=5e-3)


def test_degenerate_quads() -> None:
    point = torch.full((1, 4, 2), 7.0, dtype=torch.float64)
    assert convert.boxes_from_quads(point).tolist() == [[7.0, 7.0, 0.0, 0.0, 0.0]]
    line = torch.tensor([[[0, 0], [3, 4], [6, 8], [3, 4]]], dtype=torch.float64)
    box = convert.boxes_from_quads(line)[0]
    torch.testing.assert_close(box[:4], torch.tensor([3, 4, 10, 0], dtype=torch.float64))
    assert convert.boxes_from_quads(torch.zeros((0, 4, 2))).shape == (0, 5)


def test_untangled_quads_are_simple_and_others_untouched() -> None:
    square = torch.tensor([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=torch.float64)
    ties = torch.stack([square, square[[0, 2, 1, 3]], square[[0, 1, 3, 2]], square.flip(0)])
    fixed, crossing = convert.untangle_quads(ties)
    assert crossing.tolist() == [False, True, True, False]
    assert torch.equal(fixed[0], ties[0])
    assert torch.equal(fixed[3], ties[3])
    assert quad_areas(fixed).tolist() == [16.0] * 4
    dart = torch.tensor([[[0, 0], [2, 1], [4, 0], [2, 5]]], dtype=torch.float64)
    same, crossing = convert.untangle_quads(dart)
    assert torch.equal(same, dart)
    assert not crossing.any()


def test_axis_aligned_boxes() -> None:
    boxes = random_boxes(50)
    points = convert.corners(boxes)
    torch.testing.assert_close(
        convert.to_xyxy(boxes), torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1)
    )


@given(st.integers(-5, 9), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_quarter_turns_follow_the_image(k: int, seed: int) -> None:
    width, height = 37, 23
    boxes = random_boxes(5, seed)
    turned = convert.rotate_90(boxes, k, width, height)
    points = convert.corners(boxes)
    w, h = width, height
    for _ in range(k % 4):
        points = torch.stack([points[..., 1], w - points[..., 0]], dim=-1)
        w, h = h, w
    torch.testing.assert_close(
        quad_iou(convert.corners(turned), points), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert (convert.wrap_angle(turned[:, 4]) == turned[:, 4]).all()


def test_a_painted_pixel_moves_with_its_box() -> None:
    image = torch.zeros((6, 9))
    image[1, 7] = 1
    box = torch.tensor([[7.5, 1.5, 1.0, 1.0, 0.0]])
    moves = {
        "flip_horizontal": (image.flip(-1), convert.flip_horizontal(box, 9)),
        **{f"turn {k}": (torch.rot90(image, k, (-2, -1)), convert.rotate_90(box, k, 9, 6)) for k in range(4)},
    }
    for name, (moved, where) in moves.items():
        row, column = moved.nonzero()[0].tolist()
        assert where[0, :2].tolist() == [column + 0.5, row + 0.5], name


def test_flips_undo_themselves_and_mirror_the_points() -> None:
    boxes = convert.wrap_le90(random_boxes(100))
    flipped = convert.flip_horizontal(boxes, 500)
    mirrored = convert.corners(boxes)
    mirrored[..., 0] = 500 - mirrored[..., 0]
    expected = torch.ones(100, dtype=torch.float64)
    torch.testing.assert_close(quad_iou(convert.corners(flipped), mirrored), expected, rtol=0, atol=1e-9)
    assert_same_rectangles(convert.flip_horizontal(flipped, 500), boxes)
    edge = torch.tensor([[0.0, 0.0, 2.0, 1.0, -HALF_PI]], dtype=torch.float64)
    assert convert.flip_horizontal(edge, 0)[0, 4] == edge[0, 4]


def test_scaling_multiplies_lengths_only() -> None:
    boxes = random_boxes(10)
    scaled = convert.scale(boxes, 2.5)
    torch.testing.assert_close(scaled[:, :4], boxes[:, :4] * 2.5)
    assert torch.equal(scaled[:, 4], boxes[:, 4])
    for factor in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="factor must be positive"):
            convert.scale(boxes, factor)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cx, cy, w, h, theta"):
        convert.corners(torch.zeros((3, 4)))
    with pytest.raises(ValueError, match="quads must have shape"):
        convert.boxes_from_quads(torch.zeros((3, 8)))
