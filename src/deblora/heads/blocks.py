"""Kinds of features side by side, each standardized on its own, so that none drowns the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deblora.heads.head import Standardizer


@dataclass(frozen=True)
class Blocks:
    """One :class:`Standardizer` per kind of feature; columns lie in that order."""

    standardizers: tuple[Standardizer, ...]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "n d"], sizes: Sequence[int] | None = None) -> "Blocks":
        """Take the statistics of each kind from training features.

        Args:
            x: Training features, all kinds in one row.
            sizes: Columns of each kind, all >= 1; one kind when None.

        Raises:
            DataError: If features of a kind are not finite or all the same.
            ValueError: If the sizes do not add up to the columns.
        """
        widths = [x.shape[1]] if sizes is None else list(sizes)
        if sum(widths) != x.shape[1] or min(widths, default=0) < 1:
            raise ValueError(f"sizes {widths} do not add up to {x.shape[1]} columns")
        return cls(tuple(Standardizer.fit(part) for part in _parts(x, widths)))

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return standardized features in float64.

        Raises:
            ValueError: If the columns are not those of the fit.
        """
        widths = [len(own.mean) for own in self.standardizers]
        if x.ndim != 2 or x.shape[1] != sum(widths):
            raise ValueError(f"features have shape {x.shape}, the head was fitted on sizes {widths}")
        parts = _parts(x, widths)
        return np.hstack([own(part) for own, part in zip(self.standardizers, parts, strict=True)])


def _parts(x: Float[np.ndarray, "n d"], widths: Sequence[int]) -> list[np.ndarray]:
    return np.split(x, np.cumsum(widths)[:-1], axis=1)
