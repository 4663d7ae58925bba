"""A box is painted on an image, both are moved, and the moved box is found where the paint is."""

import math

import pytest
import torch

from deblora.detect.augment import View, augment, draw_view, flip_horizontal, flip_vertical, lay, scale, turn
from deblora.detect.boxes import aligned_iou, boxes_from_quads
from deblora.detect.fcos.coding import grid_points, sides_from_boxes

HEIGHT, WIDTH = 60, 90
BOXES = torch.tensor(
    [
        [40.0, 25, 30, 12, 0.0],
        [50.0, 31, 34, 8, 0.5],
        [30.0, 30, 40, 10, -1.1],
        [60.0, 28, 30, 14, -math.pi / 2],
        [45.0, 33, 16, 16, 0.3],
    ]
)


def paint(box: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return 1 where the center of a pixel lies in the box."""
    sides = sides_from_boxes(grid_points(height, width, 1), box[None])
    return (sides.amin(dim=1) > 0).float().reshape(1, height, width)


def agreement(pixels: torch.Tensor, box: torch.Tensor) -> float:
    """Return the IoU of the painted pixels and of those inside the box."""
    inside = paint(box, *pixels.shape[1:]) > 0.5
    painted = pixels > 0.5
    return float((inside & painted).sum() / (inside | painted).sum())


@pytest.mark.parametrize("index", range(len(BOXES)))
def test_flips_and_turns_are_exact(index: int) -> None:
    box = BOXES[index]
    pixels = paint(box, HEIGHT, WIDTH)
    moved = [flip_horizontal(pixels, box[None]), flip_vertical(pixels, box[None])]
    moved += [turn(pixels, box[None], k) for k in range(-1, 5)]
    for image, boxes in moved:
        assert agreement(image, boxes[0]) > 0.99  # a center on a side may fall to either side
        assert abs(float(boxes[0, 4])) < math.pi / 2 + 1e-6
        assert torch.equal(boxes[0, 2:4], box[2:4])
    assert moved[4][0].shape == (1, WIDTH, HEIGHT)


@pytest.mark.parametrize("factor", [0.5, 0.77, 1.3, 2.0, 3.1])
@pytest.mark.parametrize("index", range(len(BOXES)))
def test_scaling_moves_paint_and_box_alike(index: int, factor: float) -> None:
    """A smoothed mask keeps its moments, so center and area are measured to a fraction of a pixel."""
    box = BOXES[index]
    fine = paint(box, HEIGHT, WIDTH)
    image, boxes = scale(fine, box[None], factor)
    assert tuple(image.shape[1:]) == (int(HEIGHT * factor), int(WIDTH * factor))
    for axis, size in ((0, image.shape[2]), (1, image.shape[1])):
        place = torch.arange(size) + 0.5
        profile = image[0].sum(dim=axis)
        before = fine[0].sum(dim=axis)
        center = float((profile * place).sum() / profile.sum())
        expected = float((before * (torch.arange(len(before)) + 0.5)).sum() / before.sum()) * factor
        assert center == pytest.approx(expected, abs=0.06)
    assert float(image.sum()) == pytest.approx(float(fine.sum()) * factor**2, rel=0.02)
    torch.testing.assert_close(boxes[0], box * torch.tensor([factor] * 4 + [1.0]))


def test_four_quarters_and_two_flips_are_the_identity() -> None:
    pixels = torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    for move in (flip_horizontal, flip_vertical):
        image, boxes = move(*move(pixels, BOXES))
        assert torch.equal(image, pixels)
        assert aligned_iou(boxes, BOXES).min() > 0.999
    image, boxes = pixels, BOXES
    for _ in range(4):
        image, boxes = turn(image, boxes, 1)
    assert torch.equal(image, pixels)
    assert aligned_iou(boxes, BOXES).min() > 0.999


def test_random_augmentation_keeps_boxes_on_their_paint() -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        box = BOXES[step % len(BOXES)]
        image, boxes = augment(paint(box, HEIGHT, WIDTH), box[None], generator=generator, scales=(1.0, 2.0))
        assert agreement(image, boxes[0]) > 0.93


def test_random_augmentation_repeats_and_varies() -> None:
    pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))

    def draws(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [augment(pixels, BOXES, generator=generator)[0] for _ in range(200)]

    first = draws(1)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(1), strict=True))
    assert len({tuple(image.flatten().tolist()) for image in first}) == 8  # the symmetries of the square


def test_augmentation_can_be_off() -> None:
    pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    image, boxes = augment(pixels, BOXES, generator=torch.Generator(), flips=0.0, turns=(0,))
    assert torch.equal(image, pixels)
    torch.testing.assert_close(boxes, BOXES)


def test_images_without_boxes_and_impossible_scales() -> None:
    pixels = torch.zeros(1, 16, 16)
    none = torch.zeros(0, 5)
    assert augment(pixels, none, generator=torch.Generator(), scales=(2.0,))[1].shape == (0, 5)
    assert boxes_from_quads(torch.zeros(0, 4, 2)).shape == (0, 5)
    with pytest.raises(ValueError, match="scaled by"):
        scale(pixels, none, 0.01)


def test_views_are_flips_and_turns() -> None:
    pixels = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    views = {draw_view(generator) for _ in range(300)}
    assert len(views) == 8
    assert len({tuple(lay(pixels, BOXES, view)[0].flatten().tolist()) for view in views}) == 8
    upright = {draw_view(generator, turns=(0,)) for _ in range(100)}
    for view, image in {
        View(False, 0): pixels,
        View(True, 0): pixels.flip(-1),
        View(True, 2): pixels.flip(-2),
        View(False, 2): pixels.flip(-1, -2),
    }.items():
        assert view in upright
        assert torch.equal(lay(pixels, BOXES, view)[0], image)
    assert len(upright) == 4 and {draw_view(generator, flips=0, turns=(0,))} == {View(False, 0)}
