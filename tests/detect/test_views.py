"""A box is painted on a tile, both are laid anew, and the moved box is found where the paint is."""

import itertools
import math

import pytest
import torch

from deblora.detect.fcos.assign import grid_points, sides_from_boxes
from deblora.detect.samples import View, draw_view, lay

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
def test_every_view_moves_paint_and_box_alike(index: int) -> None:
    box = BOXES[index]
    pixels = paint(box, HEIGHT, WIDTH)
    for mirrored, quarters in itertools.product((False, True), range(-1, 5)):
        image, boxes = lay(pixels, box[None], View(mirrored, quarters))
        assert image.shape == ((1, WIDTH, HEIGHT) if quarters % 2 else (1, HEIGHT, WIDTH))
        assert agreement(image, boxes[0]) > 0.99  # a center on a side may fall to either side
        assert abs(float(boxes[0, 4])) < math.pi / 2 + 1e-6
        assert torch.equal(boxes[0, 2:4], box[2:4])


def test_a_view_of_a_tile_without_boxes() -> None:
    pixels = torch.zeros(1, 16, 16)
    assert lay(pixels, torch.zeros(0, 5), View(True, 1))[1].shape == (0, 5)


def test_drawn_views_repeat() -> None:
    def draws(seed: int) -> list[View]:
        generator = torch.Generator().manual_seed(seed)
        return [draw_view(generator) for _ in range(200)]

    assert draws(1) == draws(1) != draws(2)


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
