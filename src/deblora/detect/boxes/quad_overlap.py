"""Exact intersection and IoU of simple quadrilaterals, convex or not.

At ``x`` the indicator of a simple polygon is ``|sum_e s_e [y < y_e(x)]|`` over the edges that span ``x``,
with ``s_e`` +1 for edges traversed to the right and -1 to the left. The product of two indicators is a sum
over pairs of edges, and ``[y < y_e][y < y_f] = [y < min(y_e, y_f)]``. Since the signs of a polygon cancel at
every ``x``, the lower end of the integral over ``y`` drops out:

``area(A and B) = |sum_e sum_f s_e s_f integral of min(y_e(x), y_f(x)) dx over the common x range|``

Each integral is that of the smaller of two straight lines, in closed form.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from deblora.detect.boxes.candidates import touching_pairs
from deblora.detect.boxes.overlap import PAIRS_PER_CHUNK, inverse, iou_from_intersection, power_of_two

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
    _check(a)
    _check(b)
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


def pairwise_quad_iou(a: Float[Tensor, "n 4 2"], b: Float[Tensor, "m 4 2"]) -> Float[Tensor, "n m"]:
    """Return the IoU of each quad of ``a`` with each quad of ``b``; only overlapping hulls are computed.

    Raises:
        ValueError: If a shape is not ``n 4 2``.
    """
    _check(a)
    _check(b)
    out = torch.zeros((len(a), len(b)), dtype=torch.promote_types(a.dtype, b.dtype), device=a.device)
    for i, j in touching_pairs(quad_hulls(a), quad_hulls(b)):
        out[i, j] = quad_iou(a[i], b[j])
    return out


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


def _check(quads: Tensor) -> None:
    if quads.ndim != 3 or quads.shape[1:] != (4, 2):
        raise ValueError(f"quads must have shape (n, 4, 2), got {tuple(quads.shape)}")
