"""Nearest class mean: no weights are trained, so no class is favored by its count."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import class_means
from deblora.debias.spaces import unit_rows
from deblora.evaluate.heads.head import Standardizer, checked_counts


@dataclass(frozen=True)
class CosineMeans:
    """``logit_c = cos(z, m_c)`` in [-1, 1] on standardized features."""

    standardizer: Standardizer
    means: Float[np.ndarray, "c d"]

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.standardizer.mean)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return the cosine to each class mean; 0 for a feature or mean at the origin."""
        return np.asarray(unit_rows(self.standardizer(x)) @ unit_rows(self.means).T)


@dataclass(frozen=True)
class EuclideanMeans:
    """``logit_c = -||z - m_c||^2`` on standardized features; the mean squared norm of ``z`` is 50."""

    standardizer: Standardizer
    means: Float[np.ndarray, "c d"]

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.standardizer.mean)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return the negative squared distance to each class mean."""
        z = self.standardizer(x)
        squared = np.sum(z**2, axis=1)[:, None] - 2.0 * z @ self.means.T + np.sum(self.means**2, axis=1)
        return np.asarray(-squared)


def fit_nearest_mean_cosine(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> CosineMeans:
    """Classify by the largest cosine to the mean of a class.

    Features are centered at the mean of all training samples first (ours): uncentered features of one
    backbone share a large common part that makes all cosines alike.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    return CosineMeans(*_fitted(x, y, n_classes))


def fit_nearest_mean_euclidean(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> EuclideanMeans:
    """Classify by the smallest distance to the mean of a class (NCM of Kang et al., arXiv 1910.09217).

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    return EuclideanMeans(*_fitted(x, y, n_classes))


def _fitted(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> tuple[Standardizer, Float[np.ndarray, "c d"]]:
    checked_counts(x, y, n_classes)
    standardizer = Standardizer.fit(x)
    return standardizer, class_means(standardizer(x), y, n_classes)
