"""Which location of the pyramid learns which box (the rule of FCOS), and how the head writes that box.

Boxes are coded with the anisotropy vector (default) or with a plain angle in le90. Both take four lengths and the
channels of the angle. The plain coding is that of the reference recipe: distances to
the four sides in the frame of the box. Theta and theta + pi are the same box, but exchange left with right and top
with bottom, so near the border of le90 equal objects ask for opposite distances. The vector coding therefore writes
the offset of the center in the frame of the image, which no choice of theta changes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int

from deblora.errors import DataError


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


CENTER_RADIUS = 1.5  # in strides; mmrotate's rotated FCOS
RANGE_FACTOR = 8.0  # ranges 64, 128, 256, 512 px for strides 8 to 128: FCOS (arXiv 1904.01355)
CHUNK = 2**20  # pairs of points and boxes at a time


@dataclass(frozen=True)
class Targets:
    """What the locations of one image learn.

    Attributes:
        labels: Class per location; ``n_classes`` is background.
        boxes: Box per location (cx, cy, w, h, theta); zeros in the background.
        centerness: From 0 to 1 per location; 0 in the background.
    """

    labels: Int[torch.Tensor, " p"]
    boxes: Float[torch.Tensor, "p 5"]
    centerness: Float[torch.Tensor, " p"]


def level_ranges(strides: Sequence[float], *, factor: float = RANGE_FACTOR) -> list[tuple[float, float]]:
    """Return the sizes each level is responsible for: ``(factor * previous stride, factor * stride]`` in pixels.

    The first level starts at 0, the last one has no end.

    Raises:
        ValueError: If there is no level or strides do not grow.
    """
    if not strides or any(b <= a for a, b in pairwise(strides)):
        raise ValueError(f"strides must grow from level to level, got {tuple(strides)}")
    ends = [factor * stride for stride in strides[:-1]] + [float("inf")]
    return list(zip([0.0, *ends[:-1]], ends, strict=True))


def assign(
    points: Sequence[Float[torch.Tensor, "p 2"]],
    strides: Sequence[float],
    boxes: Float[torch.Tensor, "n 5"],
    labels: Int[torch.Tensor, " n"],
    *,
    n_classes: int,
    ranges: Sequence[tuple[float, float]] | None = None,
    center_radius: float = CENTER_RADIUS,
) -> Targets:
    """Assign the boxes of one image to the locations of all levels, in the order of the levels.

    A location learns a box if it lies inside it, within ``center_radius`` strides of its center along both sides of
    the box, and if its largest distance to a side is in the range of its level. Of several boxes it learns the one
    with the smallest area. The order of the boxes does not matter: ties go by coordinates.

    Args:
        points: Locations of each level in pixels.
        strides: Stride of each level in pixels.
        boxes: Boxes of the image, le90; may be none.
        labels: Class per box, 0 to ``n_classes - 1``.
        n_classes: Number of classes; also the label of the background.
        ranges: Lower (exclusive) and upper bound per level in pixels; :func:`level_ranges` if ``None``.
        center_radius: In strides; 1.5 as in mmrotate.

    Raises:
        ValueError: If lengths differ or a label is out of range.
        DataError: If a box holds a number that is not finite, or a side that is not positive.
    """
    ranges = level_ranges(strides) if ranges is None else ranges
    if not len(points) == len(strides) == len(ranges):
        raise ValueError(f"got {len(points)} levels of points, {len(strides)} strides, {len(ranges)} ranges")
    _check(boxes, labels, n_classes)
    order = _order(boxes, labels)
    boxes, labels = boxes[order].to(points[0]), labels[order].to(points[0].device)
    found = [
        _first_match(place, stride, boxes, bounds, center_radius)
        for place, stride, bounds in zip(points, strides, ranges, strict=True)
    ]
    match = torch.cat(found)
    positive = match >= 0
    target = boxes.new_zeros(len(match), 5)
    target[positive] = boxes[match[positive]]
    classes = torch.full_like(match, n_classes)
    classes[positive] = labels[match[positive]]
    center = boxes.new_zeros(len(match))
    center[positive] = centerness(sides_from_boxes(torch.cat(list(points))[positive], target[positive]))
    return Targets(classes, target, center)


def background_ratio(targets: Iterable[Targets], *, n_classes: int) -> float:
    """Return background locations per assigned location over a training set: ECM's ratio for this head.

    Raises:
        DataError: If no location is assigned.
    """
    n_positive = n_all = 0
    for target in targets:
        n_positive += int((target.labels < n_classes).sum())
        n_all += len(target.labels)
    if n_positive == 0:
        raise DataError(
            "no location of the training images is assigned to a box; check that the labels are in pixels of the "
            "images and that the boxes are not smaller than the finest stride"
        )
    return (n_all - n_positive) / n_positive


def _first_match(
    points: Float[torch.Tensor, "p 2"],
    stride: float,
    boxes: Float[torch.Tensor, "n 5"],
    bounds: tuple[float, float],
    center_radius: float,
) -> Int[torch.Tensor, " p"]:
    """Return the first box, in the given order, that each point may learn, or -1."""
    n_boxes = len(boxes)
    match = torch.full((len(points),), n_boxes, dtype=torch.int64, device=points.device)
    reach = 1.5 * center_radius * stride  # above sqrt(2) radii: the region of a turned box
    size = max(1, CHUNK // max(1, n_boxes))
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        near = (chunk[:, None, 0] - boxes[:, 0]).abs() < reach
        near &= (chunk[:, None, 1] - boxes[:, 1]).abs() < reach
        point, box = near.nonzero(as_tuple=True)
        sides = sides_from_boxes(chunk[point], boxes[box])
        largest = sides.amax(dim=1)
        offset = (sides[:, :2] - sides[:, 2:]).abs() / 2  # |x'| and |y'|
        allowed = (
            (sides.amin(dim=1) > 0)
            & (offset.amax(dim=1) < center_radius * stride)
            & (largest > bounds[0])
            & (largest <= bounds[1])
        )
        match.scatter_reduce_(0, start + point[allowed], box[allowed], "amin")
    return torch.where(match < n_boxes, match, -1)


def _order(boxes: Float[torch.Tensor, "n 5"], labels: Int[torch.Tensor, " n"]) -> Int[torch.Tensor, " n"]:
    """Sort by area, then by coordinates and label, so that the order of the input does not matter."""
    order = torch.arange(len(boxes), device=boxes.device)
    keys = [labels.to(boxes.device), *(boxes[:, i] for i in (4, 3, 2, 1, 0)), boxes[:, 2] * boxes[:, 3]]
    for key in keys:  # least significant first; stable
        order = order[key[order].argsort(stable=True)]
    return order


def _check(boxes: Float[torch.Tensor, "n 5"], labels: Int[torch.Tensor, " n"], n_classes: int) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 5 or len(labels) != len(boxes):
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)} do not match (n 5 and n)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, but n_classes is {n_classes}")
    bad = ~boxes.isfinite().all(dim=1) | (boxes[:, 2:4] <= 0).any(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError(
            f"box {row} is {[round(v, 3) for v in boxes[row].tolist()]} (cx, cy, w, h, theta); "
            "coordinates must be finite and sides positive: mend or remove the label"
        )
