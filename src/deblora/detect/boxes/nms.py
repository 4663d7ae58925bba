"""Exact greedy suppression of oriented boxes, class by class, without a loop over boxes."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deblora.detect.boxes.convert import to_xyxy
from deblora.detect.boxes.overlap import frames, intersections, iou_from_intersection, touching_pairs

_FIRST_BLOCK, _LARGEST_BLOCK = 64, 1024
"""Boxes compared at once with those kept so far. Blocks grow: in a crowded scene the first few boxes of high
score drop most others before they are compared among themselves (ours)."""


@torch.no_grad()
def rotated_nms(
    boxes: Float[Tensor, "n 5"],
    scores: Float[Tensor, " n"],
    threshold: float,
    *,
    classes: Int[Tensor, " n"] | None = None,
    max_keep: int | None = None,
) -> Int[Tensor, " k"]:
    """Return the boxes that greedy suppression keeps, by falling score.

    A box is dropped when its IoU with a kept box of higher score is above ``threshold``; equal scores go by
    index. IoU is computed in float64 whatever the input, so decisions repeat. Boxes without area never
    suppress and are never suppressed.

    Args:
        boxes: Oriented boxes, any device.
        scores: One per box, finite.
        threshold: IoU in [0, 1]; 0.1 merges the tiles of DOTA in the reference implementation.
        classes: Suppress only within a class; across all boxes when None.
        max_keep: Stop after so many boxes; no limit when None.

    Returns:
        Indices into ``boxes``.

    Raises:
        ValueError: If lengths differ, the threshold is out of range or a value is not finite.
    """
    _check(boxes, scores, threshold, classes)
    home = boxes.device
    # Apple's device has no float64.
    device = torch.device("cpu") if home.type == "mps" else home
    order = torch.argsort(scores.to(device), descending=True, stable=True)
    ranked = boxes.to(device, torch.float64)[order]
    exact = frames(ranked)
    hulls = _separated(to_xyxy(ranked), None if classes is None else classes.to(device)[order])
    kept = torch.empty(0, dtype=torch.int64, device=device)
    for start, stop in _blocks(len(order)):
        block = torch.arange(start, stop, device=device)
        _, hit = _overlapping(exact, hulls, kept, block, threshold)
        dropped = torch.zeros(len(order), dtype=torch.bool, device=device)
        dropped[hit] = True
        block = block[~dropped[block]]
        kept = torch.cat([kept, block[_greedy(exact, hulls, block, threshold)]])
        if max_keep is not None and len(kept) >= max_keep:
            kept = kept[:max_keep]
            break
    return order[kept].to(home)


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    start, size = 0, _FIRST_BLOCK
    while start < n:
        yield start, min(start + size, n)
        start, size = start + size, min(2 * size, _LARGEST_BLOCK)


def _greedy(exact: Tensor, hulls: Tensor, block: Tensor, threshold: float) -> Tensor:
    """Return which boxes of a block, given by falling score, survive among themselves."""
    first, second = _overlapping(exact, hulls, block, block, threshold)
    offset = torch.searchsorted(block, torch.stack([first, second]))
    first, second = offset[0], offset[1]
    undecided = torch.ones(len(block), dtype=torch.bool, device=block.device)
    keep = torch.zeros_like(undecided)
    # A box is kept once all earlier boxes that could suppress it are dropped. Each round decides at least
    # the first undecided one.
    while bool(undecided.any()):
        waits = torch.zeros_like(undecided)
        waits[second] = True
        now = undecided & ~waits
        keep |= now
        undecided &= ~now
        suppressed = torch.zeros_like(undecided)
        suppressed[second[now[first]]] = True
        undecided &= ~suppressed
        alive = undecided[first] & undecided[second]
        first, second = first[alive], second[alive]
    return keep


def _overlapping(
    exact: Tensor, hulls: Tensor, first: Tensor, second: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Return the pairs with IoU above threshold: one of ``first``, and one of ``second`` with lower score."""
    found = [torch.empty((2, 0), dtype=torch.int64, device=exact.device)]
    a, b = exact[:, first], exact[:, second]
    area_a, area_b = 4 * a[2] * a[3], 4 * b[2] * b[3]
    for i, j in touching_pairs(hulls[first], hulls[second]):
        earlier = first[i] < second[j]
        i, j = i[earlier], j[earlier]
        iou = iou_from_intersection(intersections(a, b, i, j), area_a[i], area_b[j])
        above = iou > threshold
        found.append(torch.stack([first[i[above]], second[j[above]]]))
    pairs = torch.cat(found, dim=1)
    return pairs[0], pairs[1]


def _separated(hulls: Tensor, classes: Tensor | None) -> Tensor:
    """Shift hulls along x so that those of different classes lie apart."""
    if classes is None or not len(hulls):
        return hulls
    _, rank = torch.unique(classes, return_inverse=True)
    span = hulls[:, 2].amax() - hulls[:, 0].amin() + 1
    shift: Tensor = rank * span
    return hulls + torch.stack([shift, torch.zeros_like(shift)] * 2, dim=1)


def _check(boxes: Tensor, scores: Tensor, threshold: float, classes: Tensor | None) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes must have shape (n, 5): cx, cy, w, h, theta; got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1] or (classes is not None and classes.shape != scores.shape):
        given = None if classes is None else tuple(classes.shape)
        raise ValueError(f"{len(boxes)} boxes, but scores {tuple(scores.shape)} and classes {given}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if not (bool(torch.isfinite(boxes).all()) and bool(torch.isfinite(scores).all())):
        raise ValueError("boxes or scores hold values that are not finite")
