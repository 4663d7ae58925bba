"""Exact intersection and IoU of oriented boxes, differentiable, on any device, and suppression by it.

In the frame of a box ``B = [-hx, hx] x [-hy, hy]`` the vertical line at ``x`` meets a polygon ``A`` in edges
that enter and leave it in turns. With ``c(y) = clamp(y, -hy, hy)`` the slice of ``A and B`` at ``x`` is as
long as ``|sum_e s_e c(y_e(x))|``, where ``s_e`` is +1 for edges traversed to the right and -1 to the left.
Integrated over ``x`` each edge of ``A`` adds one clamped trapezoid, which has a closed form:

``area(A and B) = |sum_e integral of c(y_e(x)) dx over the part of e within [-hx, hx]|``

There are no vertex lists and no special cases for boxes that are equal, nested or touching.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deblora.detect.boxes import to_xyxy

_PAIRS_PER_STEP = 1 << 20
"""Pairs listed at once, about 50 MB of indices and masks (ours)."""


def touching_pairs(
    a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]
) -> Iterator[tuple[Int[Tensor, " p"], Int[Tensor, " p"]]]:
    """Yield index pairs ``(i, j)`` with overlapping hulls ``a_i`` and ``b_j``, in pieces, by rising ``i``.

    Hulls are ``(x_min, y_min, x_max, y_max)``. Hulls that only touch are left out: their intersection has no
    area. Each pair comes once.
    """
    if not len(a) or not len(b):
        return
    order = torch.argsort(b[:, 0], stable=True)
    left, low, right, high = b[order].t().contiguous()
    a_left, a_low, a_right, a_high = a.t().contiguous()
    first = torch.searchsorted(left, a_left - (right - left).amax())
    counts = (torch.searchsorted(left, a_right) - first).clamp(min=0)
    totals = counts.cumsum(0)
    start = 0
    while start < len(a):
        done = int(totals[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(totals, done + _PAIRS_PER_STEP, right=True)))
        chunk = counts[start:stop]
        rows = torch.repeat_interleave(torch.arange(start, stop, device=a.device), chunk)
        shift = first[start:stop] - (totals[start:stop] - chunk)
        places = torch.arange(done, done + len(rows), device=a.device) + shift[rows - start]
        # y first: that b begins before a ends in x is known from the order, so x drops few pairs.
        rows, places = _both(rows, places, (a_low[rows] < high[places]) & (low[places] < a_high[rows]))
        rows, places = _both(rows, places, a_left[rows] < right[places])
        yield rows, order[places]
        start = stop


def _both(rows: Tensor, places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    chosen = wanted.nonzero()[:, 0]
    return rows[chosen], places[chosen]


PAIRS_PER_CHUNK = 8192
"""Pairs computed at once, so that the intermediate values stay in the cache (measured; ours)."""


def pairwise_iou(a: Float[Tensor, "n 5"], b: Float[Tensor, "m 5"]) -> Float[Tensor, "n m"]:
    """Return ``IoU = I / (area_a + area_b - I)`` of each box of ``a`` with each box of ``b``, in [0, 1].

    Two boxes without area have IoU 0. Only pairs whose axis-aligned hulls overlap are computed; besides the result,
    memory is bounded.

    Example:
        >>> a, b = torch.tensor([[2.0, 1.0, 4.0, 2.0, 0.0]]), torch.tensor([[4.0, 1.0, 4.0, 2.0, 0.0]])
        >>> round(pairwise_iou(a, b).item(), 3)
        0.333
    """
    _check(a)
    _check(b)
    dtype, result = _dtypes(a, b)
    a, b = a.to(dtype), b.to(dtype)
    out = torch.zeros((len(a), len(b)), dtype=dtype, device=a.device)
    with torch.no_grad():
        hulls = to_xyxy(a), to_xyxy(b)
    area_a, area_b = _areas(a), _areas(b)
    frames_a, frames_b = frames(a), frames(b)
    for i, j in touching_pairs(*hulls):
        shared = intersections(frames_a, frames_b, i, j)
        out[i, j] = iou_from_intersection(shared, area_a[i], area_b[j])
    return out.to(result)


def aligned_iou(a: Float[Tensor, "n 5"], b: Float[Tensor, "n 5"]) -> Float[Tensor, " n"]:
    """Return the IoU of ``a_i`` with ``b_i``, in [0, 1]; differentiable in both.

    Gradients are finite for equal, touching, disjoint and empty boxes; for disjoint ones they are zero.

    Raises:
        ValueError: If the shapes differ or are not ``n 5``.
    """
    if a.shape != b.shape:
        raise ValueError(f"aligned boxes need equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    _check(a)
    dtype, result = _dtypes(a, b)
    a, b = a.to(dtype), b.to(dtype)
    return iou_from_intersection(_shared_area(frames(a), frames(b)), _areas(a), _areas(b)).to(result)


def frames(boxes: Float[Tensor, "n 5"]) -> Float[Tensor, "7 n"]:
    """Return the rows ``cx, cy, w / 2, h / 2, cos, sin, unit``: what an overlap needs of each box.

    ``unit`` is a power of two near the longer side, so dividing by it is exact.
    """
    cx, cy, w, h, theta = boxes.unbind(dim=1)
    unit = power_of_two(torch.maximum(w, h))
    return torch.stack([cx, cy, w / 2, h / 2, theta.cos(), theta.sin(), unit])


def intersections(
    a: Float[Tensor, "7 n"], b: Float[Tensor, "7 m"], rows: Int[Tensor, " p"], columns: Int[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """Return the areas shared by the listed pairs of :func:`frames`, in pieces that fit the cache."""
    pieces = zip(torch.split(rows, PAIRS_PER_CHUNK), torch.split(columns, PAIRS_PER_CHUNK), strict=True)
    return torch.cat([_shared_area(a[:, i], b[:, j]) for i, j in pieces])


def iou_from_intersection(
    intersection: Float[Tensor, "*shape"], area_a: Float[Tensor, "*shape"], area_b: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Return ``I / (area_a + area_b - I)``, 0 where the union has no area, never above 1."""
    union = area_a + area_b - intersection
    present = union > 0
    ratio = intersection / torch.where(present, union, torch.ones_like(union))
    return torch.where(present, ratio, torch.zeros_like(ratio)).clamp(max=1.0)


def power_of_two(lengths: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the power of two just above each length, 1 for 0: a unit that adds no rounding."""
    exponents = torch.frexp(lengths.detach())[1]
    return torch.ldexp(torch.ones_like(lengths), exponents)


def inverse(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``1 / value``; where it vanishes a finite number, and with gradients 0, so that they stay finite."""
    double = values.dtype == torch.float64
    if not values.requires_grad:
        return (values + (1e-100 if double else 1e-18)).reciprocal()
    # The square of the smallest divisor must not underflow in the gradient.
    smallest = 1e-100 if double else 1e-18
    return torch.where(values.abs() > smallest, values, torch.inf).reciprocal()


def _shared_area(a: Tensor, b: Tensor) -> Tensor:
    ax, ay, aw, ah, cos_a, sin_a, _ = a
    bx, by, bw, bh, cos_b, sin_b, unit = b
    dx, dy = (ax - bx) / unit, (ay - by) / unit
    aw, ah, hx, hy = aw / unit, ah / unit, bw / unit, bh / unit
    # Center and half axes of a in the frame of b: independent of where in the scene the pair lies.
    cx, cy = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    cos, sin = cos_a * cos_b + sin_a * sin_b, sin_a * cos_b - cos_a * sin_b
    ux, uy, vx, vy = aw * cos, aw * sin, -ah * sin, ah * cos
    px = (cx - ux - vx, cx + ux - vx, cx + ux + vx, cx - ux + vx)
    py = (cy - uy - vy, cy + uy - vy, cy + uy + vy, cy - uy + vy)
    within = [_clip(x, hx) for x in px]
    rises = (2 * uy, 2 * vy)
    slopes = (inverse(2 * ux), inverse(2 * vx))
    total = torch.zeros_like(cx)
    for i in range(4):
        j = (i + 1) % 4
        # Opposite edges are traversed in opposite directions, so the shares below have the sign of the first.
        sign = 1 - (i // 2) * 2
        slope, rise = sign * slopes[i % 2], sign * rises[i % 2]
        # The part of the edge cut off before and after the strip; nothing of a vertical edge.
        y0 = py[i] + ((within[i] - px[i]) * slope).clamp(0.0, 1.0) * rise
        y1 = py[j] - ((px[j] - within[j]) * slope).clamp(0.0, 1.0) * rise
        total = total + (within[j] - within[i]) * _mean_clipped(y0, y1, hy)
    area: Tensor = total.abs() * unit**2
    return area


def _mean_clipped(y0: Tensor, y1: Tensor, half: Tensor) -> Tensor:
    """Return the mean of ``clamp(y, -half, half)`` while ``y`` runs evenly from ``y0`` to ``y1``.

    The clamped value is constant, then linear, then constant; it changes at the shares ``t`` of the way where
    ``y`` crosses the lower and the upper bound.
    """
    inverse_rise = inverse(y1 - y0)
    lower = ((-half - y0) * inverse_rise).clamp(0.0, 1.0)
    upper = (1 - (y1 - half) * inverse_rise).clamp(0.0, 1.0)
    first, last = _clip(y0, half), _clip(y1, half)
    return last + (lower + upper) * 0.5 * (first - last)


def _clip(value: Tensor, half: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(value, half), -half)


def _areas(boxes: Tensor) -> Tensor:
    return boxes[:, 2] * boxes[:, 3]


def _dtypes(a: Tensor, b: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return the type to compute in, at least single precision, and the type of the result."""
    result = torch.promote_types(a.dtype, b.dtype)
    if not result.is_floating_point:
        result = torch.get_default_dtype()
    return torch.promote_types(result, torch.float32), result


def _check(boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes must have shape (n, 5): cx, cy, w, h, theta; got {tuple(boxes.shape)}")


_QUADS_PER_CHUNK = PAIRS_PER_CHUNK // 4
"""Each pair of quads holds 16 pairs of edges (ours)."""


def quad_areas(quads: Float[Tensor, "n 4 2"]) -> Float[Tensor, " n"]:
    """Return the areas of simple quads, from the cross product of their diagonals."""
    one, other = quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]
    return (one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]).abs() / 2


def quad_intersection(a: Float[Tensor, "p 4 2"], b: Float[Tensor, "p 4 2"]) -> Float[Tensor, " p"]:
    """Return the area that ``a_i`` shares with ``b_i``; vertices in order, either direction.

    Exact for simple quads; for self-crossing ones see :func:`deblora.detect.boxes.untangle_quads`.

    Raises:
        ValueError: If the shapes differ or are not ``p 4 2``.
    """
    _check_quads(a)
    _check_quads(b)
    if a.shape != b.shape:
        raise ValueError(f"aligned quads need equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    if len(a) > _QUADS_PER_CHUNK:
        pieces = zip(torch.split(a, _QUADS_PER_CHUNK), torch.split(b, _QUADS_PER_CHUNK), strict=True)
        return torch.cat([quad_intersection(*piece) for piece in pieces])
    origin = b[:, :1]
    unit = power_of_two((b - origin).abs().amax(dim=(1, 2)))[:, None, None]
    a, b = (a - origin) / unit, (b - origin) / unit
    a, b = a[:, :, None], b[:, None]
    a_next, b_next = a.roll(-1, dims=1), b.roll(-1, dims=2)
    start = torch.maximum(torch.minimum(a[..., 0], a_next[..., 0]), torch.minimum(b[..., 0], b_next[..., 0]))
    end = torch.minimum(torch.maximum(a[..., 0], a_next[..., 0]), torch.maximum(b[..., 0], b_next[..., 0]))
    end = torch.maximum(start, end)
    a_start, a_end, direction_a = _heights(a, a_next, start, end)
    b_start, b_end, direction_b = _heights(b, b_next, start, end)
    smaller = _mean_smaller(a_start, a_end, b_start, b_end)
    total = (direction_a * direction_b * (end - start) * smaller).sum(dim=(1, 2))
    return total.abs() * unit[:, 0, 0] ** 2


def quad_iou(a: Float[Tensor, "n 4 2"], b: Float[Tensor, "n 4 2"]) -> Float[Tensor, " n"]:
    """Return the IoU of ``a_i`` with ``b_i``, in [0, 1]; see :func:`quad_intersection`.

    Raises:
        ValueError: If the shapes differ or are not ``n 4 2``.
    """
    return iou_from_intersection(quad_intersection(a, b), quad_areas(a), quad_areas(b))


def quad_hulls(quads: Float[Tensor, "n 4 2"]) -> Float[Tensor, "n 4"]:
    """Return the axis-aligned hulls ``(x_min, y_min, x_max, y_max)``."""
    return torch.cat([quads.amin(dim=1), quads.amax(dim=1)], dim=1)


def _heights(first: Tensor, last: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the heights of edges at ``start`` and at ``end``, and +1 for edges to the right, -1 to the left."""
    run, rise = (last - first).unbind(dim=-1)
    slope = inverse(run)
    at_start = first[..., 1] + ((start - first[..., 0]) * slope).clamp(0.0, 1.0) * rise
    at_end = first[..., 1] + ((end - first[..., 0]) * slope).clamp(0.0, 1.0) * rise
    return at_start, at_end, torch.sign(run)


def _mean_smaller(a0: Tensor, a1: Tensor, b0: Tensor, b1: Tensor) -> Tensor:
    """Return the mean of the smaller of two heights that run evenly from ``a0`` to ``a1`` and ``b0`` to ``b1``."""
    gap0, gap1 = a0 - b0, a1 - b1
    trapezoid = (torch.minimum(a0, b0) + torch.minimum(a1, b1)) / 2
    # Where the two cross, the smaller one bulges above its chord by a triangle.
    bulge = -gap0 * gap1 * inverse(gap0 - gap1).abs() / 2
    return trapezoid + bulge.clamp(min=0.0)


def _check_quads(quads: Tensor) -> None:
    if quads.ndim != 3 or quads.shape[1:] != (4, 2):
        raise ValueError(f"quads must have shape (n, 4, 2), got {tuple(quads.shape)}")


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

    Example:
        >>> boxes = torch.tensor([[2.0, 1.0, 4.0, 2.0, 0.0], [2.2, 1.0, 4.0, 2.0, 0.0], [9.0, 9.0, 2.0, 2.0, 0.0]])
        >>> rotated_nms(boxes, torch.tensor([0.6, 0.9, 0.3]), 0.1).tolist()
        [1, 2]
    """
    _check_nms(boxes, scores, threshold, classes)
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


def _check_nms(boxes: Tensor, scores: Tensor, threshold: float, classes: Tensor | None) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes must have shape (n, 5): cx, cy, w, h, theta; got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1] or (classes is not None and classes.shape != scores.shape):
        given = None if classes is None else tuple(classes.shape)
        raise ValueError(f"{len(boxes)} boxes, but scores {tuple(scores.shape)} and classes {given}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if not (bool(torch.isfinite(boxes).all()) and bool(torch.isfinite(scores).all())):
        raise ValueError("boxes or scores hold values that are not finite")
