"""Spaces in which distances between features are measured."""

from typing import Literal, cast, get_args

import numpy as np
from jaxtyping import Float

from deblora.debias.row_blocks import RowBlocks
from deblora.debias.rows import blocks, disk_to_space, middle_of
from deblora.errors import DataError


def unit_rows(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Divide every row by its Euclidean norm; rows of zeros stay zero."""
    norms = _norms(x)
    return np.asarray(x / np.where(norms > 0, norms, 1.0))


def directions(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Divide every row by its Euclidean norm; raises a DataError that names the first row of zeros."""
    norms = _norms(x)
    if not (norms > 0).all():
        raise DataError(
            f"feature row {int(np.argmin(norms))} is zero and has no direction; drop it, or measure without directions"
        )
    return np.asarray(x / norms)


def _norms(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 1"]:
    """Norms of rows whose squares may leave float32."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if x.dtype == np.float32 and not (np.isfinite(norms).all() and norms.all()):
        norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(norms)


Space = Literal["standardize", "raw", "l2", "pca"]

SPREAD_FLOOR = 1e-6

PCA_VARIANCE = 0.95


def to_space(features: Float[np.ndarray, "n d"], space: Space) -> Float[np.ndarray, "n e"]:
    """Map features to the space that is clustered."""
    if space not in get_args(Space):
        raise ValueError(f"space must be one of {get_args(Space)}, got {space!r}")
    if isinstance(features, RowBlocks):
        moved = disk_to_space(features, space, floor=SPREAD_FLOOR, variance=PCA_VARIANCE)
        return cast("np.ndarray", moved)
    if space == "raw":
        return features
    if space == "l2":
        return directions(features).astype(features.dtype, copy=False)
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    # A constant dimension has a spread of rounding errors, which must not be blown up to one.
    floor = SPREAD_FLOOR * np.maximum(np.abs(mean), spread.max())
    scale = np.where(spread > floor, 1.0 / np.where(spread > floor, spread, 1.0), 0.0)
    # Distances do not depend on the origin, their rounding does: near far rows the mean lies far from all others.
    origin = middle_of(features, mean)
    scaled: Float[np.ndarray, "n d"] = (features - origin.astype(features.dtype)) * scale.astype(
        features.dtype
    )
    if space == "standardize":
        return scaled
    shift = (mean - origin) * scale
    values, vectors = np.linalg.eigh(
        scaled.T.astype(np.float64) @ scaled / len(scaled) - np.outer(shift, shift)
    )
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    shares = np.cumsum(values) / max(values.sum(), np.finfo(np.float64).tiny)
    n_kept = min(int(np.searchsorted(shares, PCA_VARIANCE)) + 1, len(values))
    projected: Float[np.ndarray, "n e"] = scaled @ vectors[:, :n_kept].astype(features.dtype)
    return projected


LARGEST = 1e150
"""Squares of larger values leave float64."""


def as_matrix(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return a matrix, float32 if it was, else float64, after a look at every value; rows on disk stay there.

    Raises:
        DataError: If it is no table, or a value is NaN, infinite or beyond 1e150; names the first row.
    """
    matrix = cast("np.ndarray", features) if isinstance(features, RowBlocks) else np.asarray(features)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(
            f"features must be a non-empty table (samples x dimensions), got shape {matrix.shape}"
        )
    matrix = matrix if matrix.dtype == np.float32 else matrix.astype(np.float64, copy=False)
    for rows in blocks(*matrix.shape):
        block = matrix[rows]
        fits = np.isfinite(block).all(axis=1)
        if block.dtype == np.float64:
            fits &= (np.abs(block) <= LARGEST).all(axis=1)
        if not fits.all():
            wrong = int(np.argmin(fits))
            if np.isfinite(block[wrong]).all():
                raise DataError(
                    f"features of row {rows.start + wrong} are beyond {LARGEST:g}; rescale the features"
                )
            raise DataError(
                f"features hold NaN or infinite values, first in row {rows.start + wrong}; extract them again"
            )
    return matrix
