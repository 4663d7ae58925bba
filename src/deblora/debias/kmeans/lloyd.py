"""Lloyd iterations by matrix products over blocks of rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.kmeans.assignment import constrained_assignment
from deblora.debias.kmeans.nearest_centers import NearestCenters, partial_costs
from deblora.debias.matmul import Product, product_for
from deblora.debias.rows import Rows, blocks, row_squares
from deblora.errors import DataError


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


# Ours: a product with 32 columns takes hardly longer than one with 5, and the table stays small.
POOL_SIZE = 32


@dataclass(frozen=True)
class _Pool:
    """Rows drawn in proportion to ``weights``, the squared distances at that time, and their distances to all."""

    drawn: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    distances: Float[np.ndarray, "m n"]


def greedy_start(
    features: Float[np.ndarray, "n d"],
    squares: Float[np.ndarray, " n"],
    n_clusters: int,
    rng: np.random.Generator,
    *,
    origin: Float[np.ndarray, " d"] | None = None,
) -> Float[np.ndarray, "k d"]:
    """Draw starting centers by greedy k-means++: of ``2 + log K`` draws keep the best.

    Draws are measured in pools. Squared distances ``w`` to the nearest center only fall, so a draw made when it was
    ``w_0`` and kept with probability ``w / w_0`` has the distribution of a draw made now.

    Args:
        features: Rows to cluster.
        squares: ``|x|^2`` of each row less the origin.
        n_clusters: ``K``.
        rng: Makes the draws.
        origin: Subtracted from the rows and from the returned centers.

    Raises:
        DataError: If there are fewer distinct rows than clusters.
    """
    rows, product = Rows(features, origin), product_for(features.size * n_clusters, features.dtype)
    n_trials = 2 + int(np.log(n_clusters))
    chosen = [int(rng.integers(len(rows)))]
    closest = _distances(rows, squares, np.array(chosen), product)[0]
    trials = np.empty((n_trials, len(rows)), dtype=closest.dtype)
    candidates = np.empty(n_trials, dtype=np.int64)
    pool, used = None, 0
    while len(chosen) < n_clusters:
        n_kept = 0
        while n_kept < n_trials:
            if pool is None or used == len(pool.drawn):
                size = min(POOL_SIZE, n_trials * (n_clusters - len(chosen)))
                pool, used = _draw(rows, squares, closest, size, len(chosen), n_clusters, rng, product), 0
            row = pool.drawn[used]
            if rng.random() * pool.weights[used] < closest[row]:
                np.minimum(closest, pool.distances[used], out=trials[n_kept])
                candidates[n_kept] = row
                n_kept += 1
            used += 1
        best = int(np.argmin(trials.sum(axis=1, dtype=np.float64)))
        chosen.append(int(candidates[best]))
        closest = trials[best].copy()
    return rows.read(np.array(chosen))


def _draw(
    rows: Rows,
    squares: Float[np.ndarray, " n"],
    closest: Float[np.ndarray, " n"],
    size: int,
    n_chosen: int,
    n_clusters: int,
    rng: np.random.Generator,
    product: Product,
) -> _Pool:
    cumulative = np.cumsum(closest, dtype=np.float64)
    if not cumulative[-1] > 0:
        raise DataError(
            f"only {n_chosen} distinct feature rows for {n_clusters} clusters; lower n_clusters or "
            "look for duplicated samples, and for one that lies too far from all others"
        )
    drawn = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
    # A product of random number and total may round up to the total itself.
    drawn = np.minimum(drawn, np.flatnonzero(closest)[-1])
    return _Pool(drawn, closest[drawn], _distances(rows, squares, drawn, product))


def _distances(
    rows: Rows, squares: Float[np.ndarray, " n"], drawn: Int[np.ndarray, " m"], product: Product
) -> Float[np.ndarray, "m n"]:
    """Squared distances to the drawn rows, with rounding residues and exact duplicates at zero."""
    centers = rows.read(drawn)
    distances = np.empty((len(drawn), len(rows)), dtype=rows.table.dtype)
    resolution = 8 * float(np.finfo(rows.table.dtype).eps)
    for part in rows.blocks(len(drawn)):
        block = partial_costs(rows.read(part), centers, product)
        block += squares[part].astype(block.dtype)[:, None]
        noise = resolution * (squares[part][:, None] + squares[drawn])
        block[block <= noise] = 0.0
        distances[:, part] = block.T
    return distances
