"""Starting centers by greedy k-means++ (Arthur and Vassilvitskii, 2007), with draws measured in bulk."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.lloyd_nearest import partial_costs
from deblora.debias.lloyd_rows import Rows
from deblora.debias.matmul import Product, product_for
from deblora.errors import DataError

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
            "look for duplicated samples"
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
