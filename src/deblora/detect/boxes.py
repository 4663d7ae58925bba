"""Oriented boxes ``(cx, cy, w, h, theta)``: corners and back, and under flips, turns and scaling.

Pixels and radians, y down. ``theta`` runs from the x axis to the ``w`` side, so it is positive clockwise on
the screen. The canonical form is le90: ``w >= h`` and ``theta`` in ``[-pi/2, pi/2)``.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_DIRECTIONS = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3))
"""All pairs of four points, edges first. They include every edge of the convex hull."""

_TIE = 16
"""Rounding errors of the squared extent within which two areas count as equal and the earlier edge wins (ours)."""


def wrap_angle(theta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Wrap angles of lines, radians, to ``[-pi/2, pi/2)`` by multiples of pi; angles inside stay bit for bit."""
    return _wrap(theta, -math.pi / 2)


def wrap_le90(boxes: Float[Tensor, "n 5"]) -> Float[Tensor, "n 5"]:
    """Return the same rectangles in le90: ``w >= h``, ``theta`` in ``[-pi/2, pi/2)``.

    Sides with ``w < h`` are swapped and the angle turned by pi/2. A square keeps its sides. Use
    :func:`wrap_angle` for a decoded prediction whose sides must stay as regressed.
    """
    cx, cy, w, h, theta = _columns(boxes)
    swap = w < h
    theta = wrap_angle(torch.where(swap, theta + math.pi / 2, theta))
    return torch.stack([cx, cy, torch.where(swap, h, w), torch.where(swap, w, h), theta], dim=-1)


def corners(boxes: Float[Tensor, "n 5"]) -> Float[Tensor, "n 4 2"]:
    """Return ``center +- (w/2)(cos, sin) +- (h/2)(-sin, cos)`` in the order (-,-), (+,-), (+,+), (-,+).

    Clockwise on the screen; at ``theta = 0`` the first is the top left corner. Differentiable.
    """
    cx, cy, w, h, theta = _columns(boxes)
    cos, sin = theta.cos(), theta.sin()
    center = torch.stack([cx, cy], dim=-1)
    along = torch.stack([cos, sin], dim=-1) * (w / 2)[..., None]
    across = torch.stack([-sin, cos], dim=-1) * (h / 2)[..., None]
    return torch.stack(
        [center - along - across, center + along - across, center + along + across, center - along + across],
        dim=-2,
    )


def boxes_from_quads(quads: Float[Tensor, "n 4 2"]) -> Float[Tensor, "n 5"]:
    """Return the rectangle of least area around each four points, in le90.

    Exact: one side of that rectangle lies on an edge of the convex hull, and each of the at most six
    directions between two of the points is tried, which include those edges. The order of the points does not
    matter, except that among equally small rectangles the one along the earlier edge is taken. Four equal
    points give a box of size 0 and angle 0.

    Raises:
        ValueError: If the shape is not ``n 4 2``.

    Example:
        >>> square = torch.tensor([[[0.0, 0.0], [8.0, 0.0], [8.0, 4.0], [0.0, 4.0]]])
        >>> boxes_from_quads(square).tolist()
        [[4.0, 2.0, 8.0, 4.0, 0.0]]
    """
    if quads.ndim != 3 or quads.shape[1:] != (4, 2):
        raise ValueError(f"quads must have shape (n, 4, 2), got {tuple(quads.shape)}")
    origin = quads.mean(dim=1)
    points = quads - origin[:, None]
    first, second = (list(side) for side in zip(*_DIRECTIONS, strict=True))
    edges = points[:, second] - points[:, first]
    lengths = edges.norm(dim=-1, keepdim=True)
    present = lengths > 0
    unit = torch.where(present, edges / torch.where(present, lengths, torch.ones_like(lengths)), 0.0)
    normal = torch.stack([-unit[..., 1], unit[..., 0]], dim=-1)
    low_u, high_u = _extent(points, unit)
    low_v, high_v = _extent(points, normal)
    areas = (high_u - low_u) * (high_v - low_v)
    areas = torch.where(present[..., 0], areas, torch.full_like(areas, math.inf))
    span = (high_u - low_u).amax(dim=1, keepdim=True)
    within = areas <= areas.amin(dim=1, keepdim=True) + _TIE * torch.finfo(quads.dtype).eps * span**2
    best = within.int().argmax(dim=1)
    rows = torch.arange(len(quads), device=quads.device)
    u, v = unit[rows, best], normal[rows, best]
    low_u, high_u = low_u[rows, best], high_u[rows, best]
    low_v, high_v = low_v[rows, best], high_v[rows, best]
    center = origin + u * ((low_u + high_u) / 2)[:, None] + v * ((low_v + high_v) / 2)[:, None]
    sides = torch.stack([high_u - low_u, high_v - low_v], dim=-1)
    theta = torch.atan2(u[:, 1], u[:, 0])
    return wrap_le90(torch.cat([center, sides, theta[:, None]], dim=-1))


def untangle_quads(quads: Float[Tensor, "n 4 2"]) -> tuple[Float[Tensor, "n 4 2"], Bool[Tensor, " n"]]:
    """Reorder the points of self-crossing quads to their convex hull; others stay as they are.

    Returns:
        The quads, and which of them were self-crossing.
    """
    p0, p1, p2, p3 = quads.unbind(dim=1)
    first = _cross_properly(p0, p1, p2, p3)
    second = _cross_properly(p1, p2, p3, p0)
    # The crossing edges are the diagonals of the hull.
    swapped = torch.where(first[:, None, None], torch.stack([p0, p2, p1, p3], dim=1), quads)
    swapped = torch.where(second[:, None, None], torch.stack([p0, p1, p3, p2], dim=1), swapped)
    return swapped, first | second


def to_xyxy(boxes: Float[Tensor, "n 5"]) -> Float[Tensor, "n 4"]:
    """Return the axis-aligned hulls ``(x_min, y_min, x_max, y_max)``."""
    cx, cy, w, h, theta = _columns(boxes)
    cos, sin = theta.cos().abs(), theta.sin().abs()
    half_x, half_y = (w * cos + h * sin) / 2, (w * sin + h * cos) / 2
    return torch.stack([cx - half_x, cy - half_y, cx + half_x, cy + half_y], dim=-1)


def flip_horizontal(boxes: Float[Tensor, "n 5"], width: float) -> Float[Tensor, "n 5"]:
    """Mirror left and right in an image of ``width`` pixels: ``cx -> width - cx``, ``theta -> -theta``."""
    cx, cy, w, h, theta = _columns(boxes)
    return torch.stack([width - cx, cy, w, h, wrap_angle(-theta)], dim=-1)


def rotate_90(boxes: Float[Tensor, "n 5"], k: int, width: float, height: float) -> Float[Tensor, "n 5"]:
    """Turn by ``k`` quarters counter-clockwise on the screen, as ``torch.rot90(image, k, (-2, -1))`` does.

    Args:
        boxes: Boxes in an image of ``width`` x ``height`` pixels.
        k: Quarter turns, any integer.
        width: Of the image before the turn; sides are swapped after an odd ``k``.
        height: Of the image before the turn.
    """
    cx, cy, w, h, theta = _columns(boxes)
    turns = k % 4
    x, y = ((cx, cy), (cy, width - cx), (width - cx, height - cy), (height - cy, cx))[turns]
    return torch.stack([x, y, w, h, wrap_angle(theta - turns % 2 * (math.pi / 2))], dim=-1)


def scale(boxes: Float[Tensor, "n 5"], factor: float) -> Float[Tensor, "n 5"]:
    """Multiply centers and sides by ``factor`` > 0; angles stay.

    Raises:
        ValueError: If the factor is not a positive number.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor must be positive, got {factor}")
    return torch.cat([boxes[..., :4] * factor, boxes[..., 4:]], dim=-1)


def _wrap(theta: Tensor, low: float) -> Tensor:
    wrapped = torch.remainder(theta - low, math.pi) + low
    # Rounding can lift the result to the open end.
    wrapped = torch.where(wrapped >= low + math.pi, wrapped - math.pi, wrapped)
    return torch.where((theta >= low) & (theta < low + math.pi), theta, wrapped)


def _columns(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if boxes.shape[-1:] != (5,):
        raise ValueError(f"boxes must have shape (n, 5): cx, cy, w, h, theta; got {tuple(boxes.shape)}")
    cx, cy, w, h, theta = boxes.unbind(dim=-1)
    return cx, cy, w, h, theta


def _extent(points: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    projected = axes @ points.transpose(1, 2)
    return projected.amin(dim=-1), projected.amax(dim=-1)


def _cross_properly(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return whether the open segments ``ab`` and ``cd`` cross in one point."""

    def side(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        edge, other = q - p, r - p
        return torch.sign(edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0])

    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
