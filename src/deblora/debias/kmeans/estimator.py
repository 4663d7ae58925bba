"""K-means with a floor on the cluster size, and the clustering of a feature table in a chosen space."""

import math
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.kmeans.lloyd import greedy_start, lloyd, nearest
from deblora.debias.row_blocks import RowBlocks
from deblora.debias.rows import centered_rows, cluster_sums
from deblora.debias.spaces import Space, as_matrix, to_space
from deblora.errors import DataError


def minimum_size(n_samples: int, n_clusters: int, rho: float) -> int:
    """Return the floor ``min(ceil(N / (K rho)), N // K)``, which ``K`` clusters can always meet.

    Args:
        n_samples: ``N``, at least 1.
        n_clusters: ``K``, at least 1.
        rho: Balance factor, at least 1; 1 makes sizes nearly equal, infinity removes the floor.

    Raises:
        ValueError: If an argument is out of range.
    """
    if n_samples < 1 or n_clusters < 1:
        raise ValueError(f"n_samples={n_samples} and n_clusters={n_clusters} must be at least 1")
    if not rho >= 1:
        raise ValueError(f"rho must be at least 1, got {rho}")
    return min(math.ceil(n_samples / (n_clusters * rho)), n_samples // n_clusters)


MANY_ROWS, SAMPLED_ROWS, SAMPLED_PER_CLUSTER = 1 << 18, 1 << 16, 256
"""Ours: from so many rows on restarts are made on a sample of so many, and at least so many per cluster."""


class SizeConstrainedKMeans:
    """K-means whose clusters hold at least ``min_size`` samples; the arguments follow scikit-learn.

    Each iteration takes the nearest centers if they meet the floor, which then is the constrained optimum,
    else the exact assignment of least cost; all centers are recomputed, so the objective never rises.

    Args:
        n_clusters: ``K``, between 1 and the number of samples.
        min_size: Floor on the cluster size, between 0 and ``N // K``; 0 is plain K-means.
        init: Starting centers (clusters x dimensions), which make a single run; ``None`` (ours) draws
            ``n_init`` starts by greedy k-means++; of tables of more than 262,144 rows on a sample (ours).
        n_init: Restarts, at least 1; the one with the lowest inertia is kept. Default 4 (ours).
        max_iter: Iterations per restart, at least 1. Default 300 (scikit-learn).
        tol: Stop when the objective falls by less than this fraction of itself. Default 1e-4 (ours).
        random_state: Seed or generator of the starts.

    Attributes:
        labels_: Cluster of each training sample.
        cluster_centers_: Means of the members, in the dtype of the training features.
        inertia_: Sum of squared distances to the own center.
        n_iter_: Iterations of the best restart.

    Example:
        >>> X = np.array([[0.0], [0.1], [0.2], [0.3], [9.0]])
        >>> np.bincount(SizeConstrainedKMeans(2, min_size=2, random_state=0).fit_predict(X)).min()
        np.int64(2)
    """

    labels_: Int[np.ndarray, " n"]
    cluster_centers_: Float[np.ndarray, "k d"]
    inertia_: float
    n_iter_: int

    def __init__(
        self,
        n_clusters: int,
        *,
        min_size: int = 0,
        init: Float[np.ndarray, "k d"] | None = None,
        n_init: int = 4,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.min_size = min_size
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - scikit-learn's signature
        """Return the constructor's arguments (scikit-learn convention)."""
        return {
            "n_clusters": self.n_clusters,
            "min_size": self.min_size,
            "init": self.init,
            "n_init": self.n_init,
            "max_iter": self.max_iter,
            "tol": self.tol,
            "random_state": self.random_state,
        }

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments by name (scikit-learn convention).

        Raises:
            ValueError: If a name is unknown.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"unknown parameter {name!r}; known are {sorted(known)}")
            setattr(self, name, value)
        return self

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> Self:  # noqa: ARG002 - as above
        """Cluster the rows of ``X``; float32 stays float32, everything else is computed in float64.

        No copy of ``X`` is made if it is float32 or float64. Large float32 tables are multiplied by torch, if it
        is installed; labels may then differ for rows that two centers share within float32's resolution.

        Raises:
            DataError: If values are not finite, there are fewer (distinct) rows than clusters, or the floor
                does not fit the number of samples.
            ValueError: If a parameter is out of range or ``init`` has another shape than the centers.
        """
        features = as_matrix(X)
        self._check(features)
        # K-means does not depend on the origin, its rounding does.
        rows, squares = centered_rows(features)
        origin = rows.origin
        rng = np.random.default_rng(self.random_state)
        best, given = None, self.init
        if given is None and self.n_init > 0 and len(features) > MANY_ROWS:
            given = self._start_of_many(features, rng)
        for _ in range(self.n_init if given is None else 1):
            if given is None:
                start = greedy_start(features, squares, self.n_clusters, rng, origin=origin)
            else:
                start = np.asarray(given, dtype=np.float64) - (0.0 if origin is None else origin)
            result = lloyd(
                features,
                start,
                origin=origin,
                squares=squares,
                min_size=self.min_size,
                max_iter=self.max_iter,
                tol=self.tol,
            )
            if best is None or result.inertia < best.inertia:
                best = result
        if best is None:
            raise ValueError(f"n_init must be at least 1, got {self.n_init}")
        self.labels_, self.inertia_, self.n_iter_ = best.labels, best.inertia, best.n_iter
        self.cluster_centers_ = best.centers if origin is None else best.centers + origin
        return self

    def _start_of_many(
        self, features: Float[np.ndarray, "n d"], rng: np.random.Generator
    ) -> Float[np.ndarray, "k d"]:
        """Return the centers of the best restart on a sample, so that the whole table sees one run near its end."""
        n_sampled = max(SAMPLED_ROWS, SAMPLED_PER_CLUSTER * self.n_clusters)
        if n_sampled >= len(features):
            n_sampled = len(features) // 2
        chosen = np.sort(rng.choice(len(features), size=n_sampled, replace=False))
        sample = SizeConstrainedKMeans(
            **{
                **self.get_params(),
                "min_size": self.min_size * n_sampled // len(features),
                "random_state": rng,
            }
        )
        return sample.fit(np.asarray(features[chosen])).cluster_centers_

    def predict(self, X: Float[np.ndarray, "m d"]) -> Int[np.ndarray, " m"]:
        """Return the nearest center of each row; the floor concerns the training samples only.

        Raises:
            DataError: If values are not finite.
            ValueError: If the model is not fitted or the width differs from the fitted one.
        """
        if not hasattr(self, "cluster_centers_"):
            raise ValueError("this SizeConstrainedKMeans is not fitted; call fit first")
        features = as_matrix(X)
        width = self.cluster_centers_.shape[1]
        if features.shape[1] != width:
            raise ValueError(f"features have {features.shape[1]} columns, the centers {width}")
        origin = np.median(self.cluster_centers_, axis=0).astype(features.dtype)
        return nearest(features, (self.cluster_centers_ - origin).astype(features.dtype), origin=origin)[0]

    def fit_predict(self, X: Float[np.ndarray, "n d"], y: object = None) -> Int[np.ndarray, " n"]:
        """Cluster the rows of ``X`` and return their clusters, which meet the floor."""
        return self.fit(X, y).labels_

    def _check(self, features: Float[np.ndarray, "n d"]) -> None:
        n_samples, width = features.shape
        for name in ("n_clusters", "n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.min_size < 0 or not self.tol >= 0:
            raise ValueError(f"min_size={self.min_size} and tol={self.tol} must be at least 0")
        if self.init is not None and np.shape(self.init) != (self.n_clusters, width):
            raise ValueError(
                f"init must have shape {(self.n_clusters, width)} (clusters x dimensions), "
                f"got {np.shape(self.init)}"
            )
        if n_samples < self.n_clusters:
            raise DataError(f"{n_samples} samples cannot fill {self.n_clusters} clusters; lower n_clusters")
        if self.min_size * self.n_clusters > n_samples:
            raise DataError(
                f"{n_samples} samples cannot fill {self.n_clusters} clusters of at least {self.min_size}; "
                "lower min_size or n_clusters"
            )


def cluster_features(
    features: Float[np.ndarray, "n d"],
    *,
    n_clusters: int,
    rho: float,
    space: Space = "standardize",
    n_init: int = 4,
    seed: int,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "k d"], int, float]:
    """Cluster training features with the floor of :func:`minimum_size`, in a chosen space.

    Args:
        features: Training features of all classes; labels play no part. A ``row_blocks.RowBlocks`` stays on disk: what
            is held beside it grows with rows times clusters, not with the dimensions.
        n_clusters: ``K``; the authors' code uses 32.
        rho: Balance factor, at least 1.
        space: ``standardize`` divides each dimension by its standard deviation, constant dimensions drop out
            (ours); ``raw`` takes the features as they are; ``l2`` divides each row by its norm; ``pca``
            standardizes and keeps the components that hold 95 % of the variance.
        n_init: Restarts.
        seed: Of the starts.

    Returns:
        The cluster of each row; the centers as means of the raw members, so later steps never see the
        clustering space; the floor; the inertia in the clustering space.

    Raises:
        DataError: As :meth:`SizeConstrainedKMeans.fit`, and for a zero row in the space ``l2``.
        ValueError: If a parameter is out of range.
    """
    raw = as_matrix(features)
    min_size = minimum_size(len(raw), n_clusters, rho)
    model = SizeConstrainedKMeans(n_clusters, min_size=min_size, n_init=n_init, random_state=seed)
    model.fit(to_space(raw, space))
    sizes = np.bincount(model.labels_, minlength=n_clusters)
    if not sizes.all():
        k = int(np.argmin(sizes))
        raise DataError(f"cluster {k} of {n_clusters} is empty: lower n_clusters or give a finite rho")
    if isinstance(raw, RowBlocks):
        centers = cluster_sums(raw, model.labels_, n_clusters) / sizes[:, None]
    else:
        centers = np.stack(
            [raw[model.labels_ == k].mean(axis=0, dtype=np.float64) for k in range(n_clusters)]
        )
    return model.labels_, centers.astype(raw.dtype), min_size, model.inertia_
