"""Augmentations that move pixels and boxes together, exactly.

Flips and turns suit optical images seen from above. In SAR images they change the side from which the sensor looks,
so leave them out there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch.nn import functional

from deblora.detect.boxes import convert

Sample = tuple[Float[torch.Tensor, "c h w"], Float[torch.Tensor, "n 5"]]


class View(NamedTuple):
    """One of the eight ways to lay a square tile: mirrored left and right or not, then turned by quarters."""

    mirrored: bool
    quarters: int


def flip_horizontal(pixels: Float[torch.Tensor, "c h w"], boxes: Float[torch.Tensor, "n 5"]) -> Sample:
    """Mirror left and right."""
    return pixels.flip(-1), convert.flip_horizontal(boxes, pixels.shape[-1])


def flip_vertical(pixels: Float[torch.Tensor, "c h w"], boxes: Float[torch.Tensor, "n 5"]) -> Sample:
    """Mirror top and bottom."""
    return pixels.flip(-2), convert.flip_vertical(boxes, pixels.shape[-2])


def turn(pixels: Float[torch.Tensor, "c h w"], boxes: Float[torch.Tensor, "n 5"], k: int) -> Sample:
    """Turn by ``k`` quarters counter-clockwise on the screen; height and width change places for odd ``k``."""
    height, width = pixels.shape[-2:]
    return pixels.rot90(k, (-2, -1)), convert.rotate_90(boxes, k, width, height)


def scale(pixels: Float[torch.Tensor, "c h w"], boxes: Float[torch.Tensor, "n 5"], factor: float) -> Sample:
    """Resize bilinearly, smoothed where it shrinks; a point at (x, y) comes to lie at exactly factor * (x, y).

    The size is rounded down, so a strip of less than a pixel may be lost at the right and at the bottom.

    Raises:
        ValueError: If nothing would be left of the image.
    """
    if factor <= 0 or min(pixels.shape[-2:]) * factor < 1:
        raise ValueError(f"an image of {tuple(pixels.shape[-2:])} px cannot be scaled by {factor}")
    resized = functional.interpolate(
        pixels[None],
        scale_factor=factor,
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
        antialias=True,
    )[0]
    return resized, convert.scale(boxes, factor)


def draw_view(
    generator: torch.Generator, *, flips: float = 0.75, turns: Sequence[int] = (0, 1, 2, 3)
) -> View:
    """Draw a flip and a turn, as one of eight views.

    Args:
        generator: Source of randomness; it is used equally often whatever the options.
        flips: Probability of a flip: horizontal, vertical or both, equally often. .75 as in mmrotate.
        turns: Quarter turns of which one is drawn (ours).
    """
    flip, kind, quarter = torch.rand(3, generator=generator).tolist()
    which = int(kind * 3) if flip < flips else -1
    half = (
        2 if which > 0 else 0
    )  # a vertical flip is a horizontal one and half a turn; both flips are half a turn
    return View(which in (0, 1), (turns[int(quarter * len(turns))] + half) % 4)


def lay(pixels: Float[torch.Tensor, "c h w"], boxes: Float[torch.Tensor, "n 5"], view: View) -> Sample:
    """Mirror and turn an image with its boxes; no pixel changes its value."""
    if view.mirrored:
        pixels, boxes = flip_horizontal(pixels, boxes)
    return turn(pixels, boxes, view.quarters)


def augment(
    pixels: Float[torch.Tensor, "c h w"],
    boxes: Float[torch.Tensor, "n 5"],
    *,
    generator: torch.Generator,
    flips: float = 0.75,
    turns: Sequence[int] = (0, 1, 2, 3),
    scales: Sequence[float] = (1.0,),
) -> Sample:
    """Return a randomly flipped, turned and scaled image with its boxes; labels keep their order.

    Args:
        pixels: Image.
        boxes: Its boxes, le90.
        generator: Source of randomness; it is used equally often whatever the options.
        flips: Probability of a flip: horizontal, vertical or both, equally often. .75 as in mmrotate.
        turns: Quarter turns of which one is drawn (ours); 0 and 2 keep the size of images that are not square.
        scales: One factor is drawn (ours: none by default).
    """
    pixels, boxes = lay(pixels, boxes, draw_view(generator, flips=flips, turns=turns))
    factor = scales[int(torch.rand(1, generator=generator).item() * len(scales))]
    return (pixels, boxes) if factor == 1 else scale(pixels, boxes, factor)
