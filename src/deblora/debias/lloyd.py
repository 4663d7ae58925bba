"""Lloyd iterations and their start, by matrix products over blocks of rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.assignment import constrained_assignment
from deblora.errors import DataError

BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class LloydResult:
    """One run: final assignment, the means of its clusters, the objective after each iteration."""

    labels: Int[np.ndarray, " n"]
    centers: Float[np.ndarray, "k d"]
    inertia: float
    n_iter: int
    history: tuple[float, ...]


def nearest(
    features: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the nearest center of each row and ``|c|^2 - 2 x c``, the squared distance less ``|x|^2``."""
    labels = np.empty(len(features), dtype=np.int64)
    costs = np.empty(len(features), dtype=np.float64)
    for rows in _blocks(len(features), sum(centers.shape)):
        block = partial_costs(features[rows], centers)
        labels[rows] = np.argmin(block, axis=0)
        costs[rows] = block.min(axis=0)
    return labels, costs


def partial_costs(
    features: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"]
) -> Float[np.ndarray, "k n"]:
    """Return ``|c|^2 - 2 x c``: squared distances less ``|x|^2``, which no assignment depends on."""
    block: Float[np.ndarray, "k n"] = (-2 * centers) @ features.T
    block += np.einsum("kd,kd->k", centers, centers)[:, None]
    return block


def lloyd(
    features: Float[np.ndarray, "n d"],
    centers: Float[np.ndarray, "k d"],
    *,
    min_size: int = 0,
    max_iter: int = 300,
    tol: float = 1e-4,
    squares: Float[np.ndarray, " n"] | None = None,
) -> LloydResult:
    """Alternate assignment and means from given centers until neither changes.

    A cluster that becomes empty (possible only with ``min_size = 0``) restarts at the row farthest from its
    center, as in scikit-learn.

    Args:
        features: Rows to cluster, best centered.
        centers: The start.
        min_size: Floor on the cluster size.
        max_iter: At least 1.
        tol: Stop when the objective falls by less than this fraction of itself; 0 runs until nothing moves.
        squares: ``|x|^2`` of each row, if already known.
    """
    if squares is None:
        squares = np.einsum("ij,ij->i", features, features, dtype=np.float64)
    n_clusters = len(centers)
    labels = np.full(len(features), -1, dtype=np.int64)
    sums = np.zeros((n_clusters, features.shape[1]))
    prices: Float[np.ndarray, " k"] | None = None
    history: list[float] = []
    for _ in range(max_iter):
        new, costs = nearest(features, centers)
        if min_size and np.bincount(new, minlength=n_clusters).min() < min_size:
            new, prices = constrained_assignment(_all_costs(features, centers), min_size, prices=prices)
        elif not min_size:
            new = _fill_empty(new, costs + squares, n_clusters)
        if np.array_equal(new, labels):
            break
        sums = _updated_sums(features, labels, new, sums)
        sizes = np.bincount(new, minlength=n_clusters)
        means = sums / np.maximum(sizes, 1)[:, None]
        objective = max(0.0, float(squares.sum() - (sizes * (means**2).sum(axis=1)).sum()))
        if history and objective > history[-1]:
            break  # rounding: below float resolution there is nothing left to gain
        labels, centers = new, np.where(sizes[:, None] > 0, means, centers).astype(features.dtype)
        history.append(objective)
        if len(history) > 1 and history[-2] - objective < tol * objective:
            break
    return LloydResult(labels, centers, history[-1], len(history), tuple(history))


def greedy_start(
    features: Float[np.ndarray, "n d"],
    squares: Float[np.ndarray, " n"],
    n_clusters: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "k d"]:
    """Draw starting centers by greedy k-means++: of ``2 + log K`` draws keep the best.

    Raises:
        DataError: If there are fewer distinct rows than clusters.
    """
    n_trials = 2 + int(np.log(n_clusters))
    chosen = [int(rng.integers(len(features)))]
    closest = _distances(features, squares, np.array(chosen))[0]
    for _ in range(n_clusters - 1):
        cumulative = np.cumsum(closest)
        if not cumulative[-1] > 0:
            raise DataError(
                f"only {len(chosen)} distinct feature rows for {n_clusters} clusters; lower n_clusters or "
                "look for duplicated samples"
            )
        draws = np.searchsorted(cumulative, rng.random(n_trials) * cumulative[-1], side="right")
        trials = np.minimum(closest, _distances(features, squares, np.minimum(draws, len(features) - 1)))
        best = int(np.argmin(trials.sum(axis=1)))
        chosen.append(int(min(draws[best], len(features) - 1)))
        closest = trials[best]
    return features[chosen]


def _distances(
    features: Float[np.ndarray, "n d"], squares: Float[np.ndarray, " n"], rows: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "m n"]:
    """Squared distances to the given rows, with rounding residues and exact duplicates at zero."""
    distances = _all_costs(features, features[rows])
    distances += squares
    noise = 8 * np.finfo(features.dtype).eps * (squares + squares[rows][:, None])
    return np.where(distances > noise, distances, 0.0)


def _all_costs(
    features: Float[np.ndarray, "n d"], centers: Float[np.ndarray, "k d"]
) -> Float[np.ndarray, "k n"]:
    """The whole table of :func:`partial_costs` in float64, filled by blocks."""
    table = np.empty((len(centers), len(features)))
    for rows in _blocks(len(features), sum(centers.shape)):
        table[:, rows] = partial_costs(features[rows], centers)
    return table


def _fill_empty(
    labels: Int[np.ndarray, " n"], distances: Float[np.ndarray, " n"], n_clusters: int
) -> Int[np.ndarray, " n"]:
    """Give each empty cluster the row farthest from its center, never the last row of another cluster."""
    sizes = np.bincount(labels, minlength=n_clusters)
    empty = list(np.flatnonzero(sizes == 0))
    if not empty:
        return labels
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
    features: Float[np.ndarray, "n d"],
    old: Int[np.ndarray, " n"],
    new: Int[np.ndarray, " n"],
    sums: Float[np.ndarray, "k d"],
) -> Float[np.ndarray, "k d"]:
    """Return the sums per cluster; late iterations touch only the rows that moved."""
    moved = np.flatnonzero(old != new)
    if len(moved) > len(new) // 4:
        return _signed_sums(features, np.arange(len(new)), new, len(sums))
    gained = _signed_sums(features, moved, new, len(sums))
    gained += sums
    gained -= _signed_sums(features, moved[old[moved] >= 0], old, len(sums))
    return gained


def _signed_sums(
    features: Float[np.ndarray, "n d"],
    rows: Int[np.ndarray, " m"],
    labels: Int[np.ndarray, " n"],
    n_clusters: int,
) -> Float[np.ndarray, "k d"]:
    """Sum the given rows per cluster: products with a one-hot table, added up in float64."""
    total = np.zeros((n_clusters, features.shape[1]))
    everything = len(rows) == len(features)
    for part in _blocks(len(rows), n_clusters + features.shape[1]):
        chosen = rows[part]
        one_hot = (labels[chosen] == np.arange(n_clusters)[:, None]).astype(features.dtype)
        total += one_hot @ (features[part] if everything else features[chosen])
    return total


def _blocks(n_rows: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // max(1, width))
    for first in range(0, n_rows, step):
        yield slice(first, min(first + step, n_rows))
