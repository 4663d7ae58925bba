"""Rows of a feature table, read in blocks and moved near the origin without a copy of the table."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.kmeans.matmul import take_rows
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
    if mean @ mean <= 0.5 * squares.mean():
        return Rows(features), squares
    centered = Rows(features, mean.astype(features.dtype))
    return centered, row_squares(centered)


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
