"""Points of a feature map, and boxes as four distances from a point: the frame in which FCOS predicts."""

import torch
from jaxtyping import Float


def grid_points(
    rows: int, columns: int, stride: float, *, device: torch.device | None = None
) -> Float[torch.Tensor, "p 2"]:
    """Return the centers of the cells of a map, row by row: ``((j + .5) stride, (i + .5) stride)`` in pixels."""
    y, x = torch.meshgrid(
        (torch.arange(rows, device=device) + 0.5) * stride,
        (torch.arange(columns, device=device) + 0.5) * stride,
        indexing="ij",
    )
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1)


def to_box_frame(
    points: Float[torch.Tensor, "*n 2"], boxes: Float[torch.Tensor, "*n 5"]
) -> Float[torch.Tensor, "*n 2"]:
    """Return points relative to the centers of boxes, turned by ``-theta``: ``R(theta)^T (point - center)``."""
    dx, dy = points[..., 0] - boxes[..., 0], points[..., 1] - boxes[..., 1]
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    return torch.stack([dx * cos + dy * sin, dy * cos - dx * sin], dim=-1)


def sides_from_boxes(
    points: Float[torch.Tensor, "*n 2"], boxes: Float[torch.Tensor, "*n 5"]
) -> Float[torch.Tensor, "*n 4"]:
    """Return the distances of points to the sides of boxes, all positive if and only if the point is inside.

    With ``(x', y')`` the point in the frame of the box: left ``w/2 + x'``, top ``h/2 + y'``, right ``w/2 - x'``,
    bottom ``h/2 - y'``, in pixels.
    """
    place = to_box_frame(points, boxes)
    half = boxes[..., 2:4] / 2
    return torch.cat([half + place, half - place], dim=-1)


def boxes_from_sides(
    points: Float[torch.Tensor, "*n 2"], sides: Float[torch.Tensor, "*n 4"], theta: Float[torch.Tensor, "*n"]
) -> Float[torch.Tensor, "*n 5"]:
    """Return the boxes with given distances to their sides; the inverse of :func:`sides_from_boxes`.

    ``w = left + right``, ``h = top + bottom``, ``center = point + R(theta) ((right - left)/2, (bottom - top)/2)``.
    ``theta`` is taken as it is, so ``w`` may be shorter than ``h`` and theta lie outside le90.
    """
    left, top, right, bottom = sides.unbind(dim=-1)
    x, y = (right - left) / 2, (bottom - top) / 2
    cos, sin = theta.cos(), theta.sin()
    return torch.stack(
        [
            points[..., 0] + x * cos - y * sin,
            points[..., 1] + x * sin + y * cos,
            left + right,
            top + bottom,
            theta,
        ],
        dim=-1,
    )


def centerness(sides: Float[torch.Tensor, "*n 4"]) -> Float[torch.Tensor, "*n"]:
    """Return ``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))``, 1 at the center and 0 on or outside a side."""
    left, top, right, bottom = sides.clamp(min=0).unbind(dim=-1)
    wide = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=torch.finfo(sides.dtype).tiny)
    high = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=torch.finfo(sides.dtype).tiny)
    return (wide * high).sqrt()
