"""Rows of a feature table, read in blocks and moved near the origin without a copy of the table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.debias.matmul import take_rows
from deblora.debias.row_blocks import Chosen, RowBlocks
from deblora.errors import DataError

BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Rows:
    """A table whose rows are read less ``origin``; ``None`` reads them as they are."""

    table: Float[np.ndarray, "n d"]
    origin: Float[np.ndarray, " d"] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def read(self, rows: slice | Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        """Return the chosen rows less the origin; a slice without an origin is a view."""
        chosen: Float[np.ndarray, "m d"] = (
            self.table[rows] if isinstance(rows, slice) else take_rows(self.table, rows)
        )
        return chosen if self.origin is None else chosen - self.origin

    def blocks(self, n_columns: int = 0) -> Iterator[slice]:
        """Split the rows into blocks that are small beside the table, for results of ``n_columns`` each."""
        return blocks(len(self.table), self.table.shape[1] + n_columns)


def centered_rows(features: Float[np.ndarray, "n d"]) -> tuple[Rows, Float[np.ndarray, " n"]]:
    """Return rows near the origin, where ``|x|^2 - 2 x c + |c|^2`` loses few digits, and their ``|x|^2``.

    The mean is subtracted only if it holds more than half of the mean ``|x|^2`` (ours): below that, it costs less
    than one bit.

    Raises:
        DataError: If values are not finite, or squares leave the range of the dtype.
    """
    squares = row_squares(Rows(features))
    if not np.isfinite(squares).all():
        _refuse(features, int(np.argmin(np.isfinite(squares))))
    sums = np.zeros(features.shape[1])
    for rows in blocks(len(features), features.shape[1]):
        sums += features[rows].sum(axis=0)
    mean = sums / len(features)
    typical = float(squares.mean())
    if typical > FAR * float(np.median(squares)):  # rows so far away that they alone make the mean
        mean, typical = middle_of(features, mean), float(np.median(squares))
    if mean @ mean <= 0.5 * typical:
        return Rows(features), squares
    centered = Rows(features, mean.astype(features.dtype))
    return centered, row_squares(centered)


FAR = 64.0
"""Ours: from this ratio of the mean to the median of ``|x|^2`` on, far rows decide about the mean."""
N_LOOKED_AT = 1024
MOST_DEVIATIONS = 8.0


def middle_of(
    features: Float[np.ndarray, "n d"] | RowBlocks, mean: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " d"]:
    """Return the mean, or the median where far rows have drawn the mean away from all others (ours).

    They have if it lies more than eight median absolute deviations from the median in any dimension. Looks at 1024
    rows, evenly spaced.
    """
    seen = np.unique(np.linspace(0, len(features) - 1, N_LOOKED_AT).round().astype(np.int64))
    sample = np.asarray(features[seen])
    middle = np.median(sample, axis=0)
    deviation = np.median(np.abs(sample - middle), axis=0)
    is_drawn = (deviation > 0) & (np.abs(mean - middle) > MOST_DEVIATIONS * deviation)
    return middle.astype(np.float64) if is_drawn.any() else mean


def row_squares(rows: Rows) -> Float[np.ndarray, " n"]:
    """Return ``|x|^2`` of each row in float64, summed over the dimensions in the dtype of the rows."""
    squares = np.empty(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for part in rows.blocks():
            block = rows.read(part)
            squares[part] = np.einsum("ij,ij->i", block, block)
    return squares


def blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Split ``n_rows`` rows of ``width`` numbers into blocks of about ``BLOCK_ELEMENTS`` numbers."""
    step = max(1, BLOCK_ELEMENTS // max(1, width))
    for first in range(0, n_rows, step):
        yield slice(first, min(first + step, n_rows))


def _refuse(features: Float[np.ndarray, "n d"], row: int) -> None:
    if np.isfinite(features[row]).all():
        raise DataError(
            f"features of row {row} are too large: their squares leave {features.dtype}; rescale the features"
        )
    raise DataError(f"features hold NaN or infinite values, first in row {row}; extract them again")


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation per dimension, in float64."""

    mean: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]


class ScaledRows(RowBlocks):
    """``(x - mean) scale``, and the product with ``components`` if they are given, in the dtype of the table.

    Args:
        table: Where the rows are.
        mean: Subtracted.
        scale: Factor per dimension.
        components: Directions (dimensions x kept) onto which the scaled rows are projected.
    """

    def __init__(
        self,
        table: RowBlocks,
        mean: Float[np.ndarray, " d"],
        scale: Float[np.ndarray, " d"],
        components: Float[np.ndarray, "d e"] | None = None,
    ) -> None:
        self.table, self.dtype = table, table.dtype
        self.mean, self.scale = mean.astype(self.dtype), scale.astype(self.dtype)
        self.components = None if components is None else components.astype(self.dtype)
        self.shape = (len(table), table.shape[1] if components is None else components.shape[1])

    def read(self, rows: Chosen) -> Float[np.ndarray, "m e"]:
        """Return the chosen rows in this space."""
        block = self.table.read(rows)
        block -= self.mean
        block *= self.scale
        return block if self.components is None else block @ self.components


class UnitRows(RowBlocks):
    """``x / |x|``.

    Args:
        table: Where the rows are; none may be zero.
    """

    def __init__(self, table: RowBlocks) -> None:
        self.table, self.shape, self.dtype = table, table.shape, table.dtype

    def read(self, rows: Chosen) -> Float[np.ndarray, "m d"]:
        """Return the chosen rows with length 1."""
        block = self.table.read(rows)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        return block


def moments(table: RowBlocks) -> Moments:
    """Return mean and (population) standard deviation per dimension, in two passes."""
    n_rows, width = table.shape
    total = np.zeros(width)
    for rows in blocks(n_rows, width):
        total += table[rows].sum(axis=0, dtype=np.float64)
    mean = total / n_rows
    squares = np.zeros(width)
    for rows in blocks(n_rows, 2 * width):  # float64
        squares += ((table[rows] - mean) ** 2).sum(axis=0)
    return Moments(mean, np.sqrt(squares / n_rows))


def disk_to_space(
    table: RowBlocks, space: Literal["standardize", "raw", "l2", "pca"], *, floor: float, variance: float
) -> RowBlocks:
    """Return a table whose rows are brought to a space as they are read; see ``kmeans.to_space``.

    Args:
        table: Finite rows.
        space: Name of the space.
        floor: Standard deviation below which a dimension is constant, in units of its mean or the largest deviation.
        variance: Share of the variance that ``pca`` keeps.

    Raises:
        DataError: For a zero row in the space ``l2``.
    """
    if space == "raw":
        return table
    if space == "l2":
        for rows in blocks(*table.shape):
            zero = ~table[rows].any(axis=1)
            if zero.any():
                row = rows.start + int(np.argmax(zero))
                raise DataError(f"feature row {row} is zero and has no direction; use space 'raw'")
        return UnitRows(table)
    found = moments(table)
    is_constant = found.spread <= floor * np.maximum(np.abs(found.mean), found.spread.max())
    scale = np.where(is_constant, 0.0, 1.0 / np.where(is_constant, 1.0, found.spread))
    origin = middle_of(table, found.mean)
    scaled = ScaledRows(table, origin, scale)
    if space == "standardize":
        return scaled
    products = np.zeros((table.shape[1], table.shape[1]))
    for rows in blocks(len(table), 2 * table.shape[1]):
        block = scaled[rows].astype(np.float64)
        products += block.T @ block
    shift = (found.mean - origin) * scale
    values, vectors = np.linalg.eigh(products / len(table) - np.outer(shift, shift))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    held = np.cumsum(values) / max(values.sum(), np.finfo(np.float64).tiny)
    n_kept = min(int(np.searchsorted(held, variance)) + 1, len(values))
    return ScaledRows(table, origin, scale, vectors[:, :n_kept])


def cluster_sums(
    table: RowBlocks, labels: Int[np.ndarray, " n"], n_clusters: int
) -> Float[np.ndarray, "k d"]:
    """Return the sum of the rows of each cluster, in float64."""
    sums = np.zeros((n_clusters, table.shape[1]))
    for rows in blocks(len(table), 2 * table.shape[1]):
        block, own = table[rows], labels[rows]
        for k in np.unique(own):
            members: Bool[np.ndarray, " m"] = own == k
            sums[k] += block[members].sum(axis=0, dtype=np.float64)
    return sums
