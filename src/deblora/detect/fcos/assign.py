"""Which location of the pyramid learns which box: the rule of FCOS for oriented boxes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int

from deblora.detect.fcos.coding import centerness, sides_from_boxes
from deblora.errors import DataError

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
