"""Clusters by density instead of K-means: the paper's check that the choice of clusterer hardly matters."""

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.spaces import Space, as_matrix, to_space
from deblora.errors import DataError

ROUNDING = 1e-6
"""Ours: largest distance of two copies, in units of the largest coordinate, after rounding to float32."""


def density_clusters(
    features: Float[np.ndarray, "n d"],
    *,
    eps: float = 1.0,
    min_samples: int = 5,
    space: Space = "standardize",
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "k d"], float]:
    """Cluster training features with DBSCAN; a noise point joins the nearest center (ours).

    Args:
        features: Training features of all classes; labels play no part.
        eps: Radius in units of the median distance to the ``min_samples``-th neighbor (ours, so that one value
            means the same for every backbone), > 0. Samples whose neighbors are all copies of them do not count.
        min_samples: Neighbors, itself included, that make a sample a core sample. Default 5 (scikit-learn).
        space: As in :func:`~deblora.debias.kmeans.estimator.cluster_features`.

    Returns:
        The cluster of each row; the centers as means of the raw members, noise included; the sum of squared
        distances to the own center in the clustering space.

    Raises:
        DataError: If values are not finite, all samples are copies, or no cluster is found.
        ValueError: If a parameter is out of range.
    """
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    if not eps > 0 or min_samples < 1:
        raise ValueError(f"eps={eps} must be positive and min_samples={min_samples} at least 1")
    raw = as_matrix(features)
    points = to_space(raw, space).astype(np.float64)
    n_neighbors = min(min_samples, len(points))
    reach = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)[0][:, -1]
    # Distances of copies are rounding; samples that have copies only say nothing of the scale.
    apart = reach[reach > ROUNDING * float(np.abs(points).max())]
    if not len(apart):
        raise DataError(
            f"every sample has {n_neighbors} duplicates, so DBSCAN has no scale; use cluster.method kmeans"
        )
    radius = eps * float(np.median(apart))
    labels = DBSCAN(eps=radius, min_samples=min_samples).fit(points).labels_.astype(np.int64)
    n_clusters = int(labels.max()) + 1
    if n_clusters == 0:
        raise DataError(
            f"DBSCAN with eps {eps:g} finds no cluster; raise cluster.eps or use cluster.method kmeans"
        )
    cores = _means(points, labels, n_clusters)
    noise = labels < 0
    distances = np.linalg.norm(points[noise, None, :] - cores[None], axis=2)
    labels[noise] = distances.argmin(axis=1)
    inertia = float(((points - _means(points, labels, n_clusters)[labels]) ** 2).sum())
    return labels, _means(raw, labels, n_clusters).astype(raw.dtype), inertia


def _means(
    rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], n_clusters: int
) -> Float[np.ndarray, "k d"]:
    return np.stack([rows[labels == k].mean(axis=0, dtype=np.float64) for k in range(n_clusters)])
