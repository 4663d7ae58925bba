"""Nearest centers that are searched again only for rows whose nearest center can have changed.

Each row keeps an upper bound on the distance to its center and lower bounds on the distances to the others. A
center that moves by ``m`` changes a distance by at most ``m`` (Elkan, "Using the Triangle Inequality to Accelerate
k-Means", 2003). Bounds leave room for rounding, so the result is that of the full search.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.debias.matmul import Product
from deblora.debias.rows import Rows

# Ours: gathering scattered rows costs about half as much as their products.
MOST_GATHERED = 0.6
# Ours: gathered rows are padded to multiples of this, as torch keeps a kernel for each shape it has met.
GATHERED_MULTIPLE = 128
# Ours: rounding of a squared distance, in units of epsilon times its terms; typical errors are below 2.
ROUNDING = 16


def partial_costs(
    block: Float[np.ndarray, "m d"], centers: Float[np.ndarray, "k d"], product: Product
) -> Float[np.ndarray, "m k"]:
    """Return ``|c|^2 - 2 x c``: squared distances less ``|x|^2``, which no assignment depends on."""
    costs = product(block, -2 * centers)
    costs += np.einsum("kd,kd->k", centers, centers)
    return costs


class NearestCenters:
    """The nearest center of each row, for centers that move a little from call to call.

    Holds ``n (k + 3)`` numbers beside the rows.
    """

    def __init__(self, rows: Rows, squares: Float[np.ndarray, " n"], product: Product) -> None:
        self.rows = rows
        self.squares = squares
        self.product = product
        self.epsilon = float(np.finfo(rows.table.dtype).eps)
        self.centers: Float[np.ndarray, "k d"] | None = None

    def search(self, centers: Float[np.ndarray, "k d"]) -> Int[np.ndarray, " n"]:
        """Return the nearest center of each row; ties go to the first."""
        if self.centers is None:
            self._allocate(len(centers))
            doubtful = np.ones(len(self.rows), dtype=bool)
        else:
            self.moved += np.linalg.norm(centers.astype(np.float64) - self.centers, axis=1)
            doubtful = self._doubtful()
        self.centers = centers.copy()
        self.center_squares = np.einsum("kd,kd->k", centers, centers, dtype=np.float64)
        for part in self.rows.blocks(len(centers)):
            chosen = np.flatnonzero(doubtful[part])
            if len(chosen) > MOST_GATHERED * (part.stop - part.start):
                self._measure(part)
            elif len(chosen):
                padding = np.repeat(chosen[-1], -len(chosen) % GATHERED_MULTIPLE)
                self._measure(part.start + np.append(chosen, padding))
        return self.labels.copy()

    def forget(self) -> None:
        """Give the memory of the bounds back; the next search measures every row."""
        self.centers = None
        self.lower = np.empty((0, 0), dtype=self.rows.table.dtype)

    def _allocate(self, n_clusters: int) -> None:
        self.labels = np.empty(len(self.rows), dtype=np.int64)
        # Bounds at the time of measurement, shifted by the way each center had come by then.
        self.upper = np.empty(len(self.rows))
        self.lower = np.empty((n_clusters, len(self.rows)), dtype=self.rows.table.dtype)
        self.moved = np.zeros(n_clusters)

    def _doubtful(self) -> Bool[np.ndarray, " n"]:
        """Rows for which another center may be as near as their own."""
        second = np.full(len(self.rows), np.inf, dtype=self.lower.dtype)
        shifted = np.empty_like(second)
        for bounds, moved in zip(self.lower, self.moved, strict=True):
            np.subtract(bounds, self.lower.dtype.type(moved * (1 + 4 * self.epsilon)), out=shifted)
            np.minimum(second, shifted, out=second)
        own = (self.upper + self.moved[self.labels]) * (1 + 4 * self.epsilon)
        doubtful: Bool[np.ndarray, " n"] = own >= second
        return doubtful

    def _measure(self, part: slice | Int[np.ndarray, " m"]) -> None:
        """Search the given rows and renew their bounds."""
        assert self.centers is not None
        costs = partial_costs(self.rows.read(part), self.centers, self.product)
        labels = np.argmin(costs, axis=1)
        own = costs[np.arange(len(labels)), labels].astype(np.float64)
        squares = self.squares[part]
        room = ROUNDING * self.epsilon
        self.labels[part] = labels
        farthest = own + squares + room * (squares + self.center_squares[labels])
        self.upper[part] = np.sqrt(np.maximum(farthest, 0.0)) - self.moved[labels]
        costs += ((1 - room) * squares).astype(costs.dtype)[:, None]
        costs -= (room * self.center_squares).astype(costs.dtype)
        np.sqrt(np.maximum(costs, 0.0, out=costs), out=costs)
        costs += self.moved.astype(costs.dtype)
        costs *= 1 - 4 * self.epsilon
        costs[np.arange(len(labels)), labels] = np.inf
        self.lower[:, part] = costs.T
