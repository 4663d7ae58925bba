"""Pairs of boxes whose axis-aligned hulls overlap, by a sweep along x with bounded memory."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
