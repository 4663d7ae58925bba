"""How the head writes a box: with the anisotropy vector (default), or with a plain angle in le90.

Both take four lengths and the channels of the angle. The plain coding is that of the reference recipe: distances to
the four sides in the frame of the box. Theta and theta + pi are the same box, but exchange left with right and top
with bottom, so near the border of le90 equal objects ask for opposite distances. The vector coding therefore writes
the offset of the center in the frame of the image, which no choice of theta changes.
"""

from typing import Literal

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
    points: Float[torch.Tensor, "*#n 2"], boxes: Float[torch.Tensor, "*#n 5"]
) -> Float[torch.Tensor, "*#n 2"]:
    """Return points relative to the centers of boxes, turned by ``-theta``: ``R(theta)^T (point - center)``."""
    dx, dy = points[..., 0] - boxes[..., 0], points[..., 1] - boxes[..., 1]
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    return torch.stack([dx * cos + dy * sin, dy * cos - dx * sin], dim=-1)


def sides_from_boxes(
    points: Float[torch.Tensor, "*#n 2"], boxes: Float[torch.Tensor, "*#n 5"]
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


AngleCoding = Literal["vector", "raw"]
N_CHANNELS: dict[AngleCoding, int] = {"vector": 2, "raw": 1}


def anisotropy_vector(boxes: Float[torch.Tensor, "*n 5"]) -> Float[torch.Tensor, "*n 2"]:
    """Return the direction and elongation of boxes as one vector of length 0 to 1.

    ::

        v = (w² - h²) / (w² + h²) * (cos 2 theta, sin 2 theta)

    It is the normalized deviator of the covariance of the box: continuous in the shape, the same for theta and
    theta + pi and for a box with its sides swapped and turned by pi/2, and zero for squares. Boxes without area give
    zero.
    """
    width, height, theta = boxes[..., 2], boxes[..., 3], boxes[..., 4]
    total = width.square() + height.square()
    length = (width.square() - height.square()) / total.clamp(min=torch.finfo(boxes.dtype).tiny)
    return torch.stack([length * (2 * theta).cos(), length * (2 * theta).sin()], dim=-1)


def theta_from_vector(vector: Float[torch.Tensor, "*n 2"]) -> Float[torch.Tensor, "*n"]:
    """Return ``atan2(v_y, v_x) / 2`` in ``[-pi/2, pi/2)``, the direction of the long side; 0 for the zero vector.

    No gradient passes: the vector is trained by its own loss, and ``atan2`` has no slope at the origin.
    """
    x, y = vector.detach().unbind(dim=-1)
    x = torch.where((x == 0) & (y == 0), torch.ones_like(x), x)  # the sign of a zero has no meaning
    theta = torch.atan2(y, x) / 2
    return torch.where(theta >= torch.pi / 2, theta - torch.pi, theta)


def raw_angle(boxes: Float[torch.Tensor, "*n 5"]) -> Float[torch.Tensor, "*n 1"]:
    """Return theta itself as one channel: the coding of the reference recipe, for comparisons."""
    return boxes[..., 4:5]


def theta_from_raw(channel: Float[torch.Tensor, "*n 1"]) -> Float[torch.Tensor, "*n"]:
    """Return the channel as an angle; it is not wrapped, because IoU and Gaussian distances have the period pi."""
    return channel[..., 0]


def encode(
    points: Float[torch.Tensor, "*#n 2"], boxes: Float[torch.Tensor, "*#n 5"], coding: AngleCoding
) -> tuple[Float[torch.Tensor, "*n 4"], Float[torch.Tensor, "*n a"]]:
    """Return the four lengths and the angle channels by which each point writes its box.

    Lengths are in pixels: ``vector`` has center minus point along x and y, then w and h; ``raw`` has the distances to
    the left, top, right and bottom side.
    """
    if coding == "raw":
        return sides_from_boxes(points, boxes), raw_angle(boxes)
    offset = boxes[..., :2] - points
    return torch.cat([offset, boxes[..., 2:4]], dim=-1), anisotropy_vector(boxes)


def decode_boxes(
    points: Float[torch.Tensor, "*n 2"],
    lengths: Float[torch.Tensor, "*n 4"],
    angle: Float[torch.Tensor, "*n a"],
    coding: AngleCoding,
) -> Float[torch.Tensor, "*n 5"]:
    """Return the boxes that lengths and angle channels stand for, the inverse of :func:`encode`.

    Of a square the vector keeps everything but its angle, which becomes 0. A raw theta is not wrapped.
    """
    if coding == "raw":
        return boxes_from_sides(points, lengths, theta_from_raw(angle))
    theta = theta_from_vector(angle)
    return torch.cat([points + lengths[..., :2], lengths[..., 2:], theta[..., None]], dim=-1)
