"""Lloyd iterations by matrix products over blocks of rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.assignment import constrained_assignment
from deblora.debias.lloyd_nearest import NearestCenters, partial_costs
from deblora.debias.lloyd_rows import Rows, blocks, row_squares
from deblora.debias.matmul import Product, product_for


@dataclass(frozen=True)
class LloydResult:
    """One run: final assignment, the means of its clusters, the objective after each iteration."""

    labels: Int[np.ndarray, " n"]
    centers: Float[np.ndarray, "k d"]
    inertia: float
    n_iter: int
    history: tuple[float, ...]


def nearest(
    features: Float[np.ndarray, "n d"],
    centers: Float[np.ndarray, "k d"],
    *,
    origin: Float[np.ndarray, " d"] | None = None,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the nearest center of each row and ``|c|^2 - 2 x c``, the squared distance less ``|x|^2``.

    Args:
        features: Rows to assign.
        centers: Centers less ``origin``.
        origin: Subtracted from the rows, block by block.
    """
    labels = np.empty(len(features), dtype=np.int64)
    costs = np.empty(len(features), dtype=np.float64)
    rows, product = Rows(features, origin), _product(features, len(centers))
    for part in rows.blocks(len(centers)):
        block = partial_costs(rows.read(part), centers, product)
        labels[part] = np.argmin(block, axis=1)
        costs[part] = block.min(axis=1)
    return labels, costs


def lloyd(
    features: Float[np.ndarray, "n d"],
    centers: Float[np.ndarray, "k d"],
    *,
    origin: Float[np.ndarray, " d"] | None = None,
    min_size: int = 0,
    max_iter: int = 300,
    tol: float = 1e-4,
    squares: Float[np.ndarray, " n"] | None = None,
) -> LloydResult:
    """Alternate assignment and means from given centers until neither changes.

    A cluster that becomes empty (possible only with ``min_size = 0``) restarts at the row farthest from its
    center, as in scikit-learn.

    Args:
        features: Rows to cluster.
        centers: The start, less ``origin``; so are the returned centers.
        origin: A point near the rows, subtracted block by block; ``None`` if the rows lie near zero.
        min_size: Floor on the cluster size.
        max_iter: At least 1.
        tol: Stop when the objective falls by less than this fraction of itself; 0 runs until nothing moves.
        squares: ``|x|^2`` of each row less the origin, if already known.
    """
    rows, product = Rows(features, origin), _product(features, len(centers))
    if squares is None:
        squares = row_squares(rows)
    total = float(squares.sum())
    n_clusters = len(centers)
    centers = centers.astype(features.dtype)
    labels = np.full(len(features), -1, dtype=np.int64)
    sums = np.zeros((n_clusters, features.shape[1]))
    prices: Float[np.ndarray, " k"] | None = None
    # With a floor the first iteration asks for all costs anyway: far from the optimum, it mostly binds.
    search, floor_binds = NearestCenters(rows, squares, product), min_size > 0
    history: list[float] = []
    for _ in range(max_iter):
        if not floor_binds:
            new = search.search(centers)
            floor_binds = bool(np.bincount(new, minlength=n_clusters).min() < min_size)
        if floor_binds:
            search.forget()
            new, prices = constrained_assignment(_all_costs(rows, centers, product), min_size, prices=prices)
            floor_binds = bool(prices.any())
        elif not min_size:
            new = _fill_empty(new, rows, centers, squares)
        if np.array_equal(new, labels):
            break
        sums = _updated_sums(rows, labels, new, sums, product)
        sizes = np.bincount(new, minlength=n_clusters)
        means = sums / np.maximum(sizes, 1)[:, None]
        objective = max(0.0, total - float((sizes * (means**2).sum(axis=1)).sum()))
        if history and objective > history[-1]:
            break  # rounding: below float resolution there is nothing left to gain
        labels, centers = new, np.where(sizes[:, None] > 0, means, centers).astype(features.dtype)
        history.append(objective)
        if len(history) > 1 and history[-2] - objective < tol * objective:
            break
    return LloydResult(labels, centers, history[-1], len(history), tuple(history))


def _product(features: Float[np.ndarray, "n d"], n_clusters: int) -> Product:
    return product_for(features.size * n_clusters, features.dtype)


def _all_costs(rows: Rows, centers: Float[np.ndarray, "k d"], product: Product) -> Float[np.ndarray, "k n"]:
    """The table of :func:`partial_costs`, one row per center, zero at the nearest center."""
    table = np.empty((len(centers), len(rows)), dtype=rows.table.dtype)
    for part in rows.blocks(len(centers)):
        block = partial_costs(rows.read(part), centers, product)
        block -= block.min(axis=1, keepdims=True)
        table[:, part] = block.T
    return table


def _fill_empty(
    labels: Int[np.ndarray, " n"],
    rows: Rows,
    centers: Float[np.ndarray, "k d"],
    squares: Float[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """Give each empty cluster the row farthest from its center, never the last row of another cluster."""
    sizes = np.bincount(labels, minlength=len(centers))
    empty = list(np.flatnonzero(sizes == 0))
    if not empty:
        return labels
    distances = nearest(rows.table, centers, origin=rows.origin)[1] + squares
    filled = labels.copy()
    for row in np.argsort(-distances, kind="stable"):
        if not empty or distances[row] <= 0:
            break
        if sizes[filled[row]] > 1:
            sizes[filled[row]] -= 1
            filled[row] = empty.pop(0)
            sizes[filled[row]] += 1
    return filled


def _updated_sums(
    rows: Rows,
    old: Int[np.ndarray, " n"],
    new: Int[np.ndarray, " n"],
    sums: Float[np.ndarray, "k d"],
    product: Product,
) -> Float[np.ndarray, "k d"]:
    """Return the sums per cluster; late iterations touch only the rows that moved."""
    moved = np.flatnonzero(old != new)
    all_rows = len(moved) > len(new) // 2
    updated = np.zeros_like(sums) if all_rows else sums.copy()
    clusters = np.arange(len(sums))[:, None]
    for part in blocks(len(new) if all_rows else len(moved), len(sums) + sums.shape[1]):
        chosen = part if all_rows else moved[part]
        signs = (new[chosen] == clusters).astype(rows.table.dtype)
        if not all_rows:
            signs -= old[chosen] == clusters
        updated += product(signs, rows.read(chosen).T)
    return updated
