"""Spaces in which distances between features are measured."""

from typing import Literal, cast, get_args

import numpy as np
from jaxtyping import Float

from deblora.debias.row_blocks import RowBlocks
from deblora.debias.rows import disk_to_space
from deblora.errors import DataError


def unit_rows(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Divide every row by its Euclidean norm; rows of zeros stay zero."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norms > 0, norms, 1.0))


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
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise DataError(
                f"feature row {int(np.argmin(norms))} is zero and has no direction; use space 'raw'"
            )
        directions: Float[np.ndarray, "n d"] = features / norms
        return directions
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    # A constant dimension has a spread of rounding errors, which must not be blown up to one.
    floor = SPREAD_FLOOR * np.maximum(np.abs(mean), spread.max())
    scale = np.where(spread > floor, 1.0 / np.where(spread > floor, spread, 1.0), 0.0)
    scaled: Float[np.ndarray, "n d"] = (features - mean.astype(features.dtype)) * scale.astype(features.dtype)
    if space == "standardize":
        return scaled
    values, vectors = np.linalg.eigh(scaled.T.astype(np.float64) @ scaled / len(scaled))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    shares = np.cumsum(values) / max(values.sum(), np.finfo(np.float64).tiny)
    n_kept = min(int(np.searchsorted(shares, PCA_VARIANCE)) + 1, len(values))
    projected: Float[np.ndarray, "n e"] = scaled @ vectors[:, :n_kept].astype(features.dtype)
    return projected


def as_matrix(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return a matrix, float32 if it was, else float64; rows on disk stay there."""
    matrix = cast("np.ndarray", features) if isinstance(features, RowBlocks) else np.asarray(features)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(
            f"features must be a non-empty table (samples x dimensions), got shape {matrix.shape}"
        )
    return matrix if matrix.dtype == np.float32 else matrix.astype(np.float64, copy=False)
