"""Centers that unite neighbors and clusters: of a neighbor class, only the part that looks like the rare class."""

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import class_means
from deblora.debias.neighbors import kernel_neighbor_centers


def united_centers(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    assignments: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    temperature: float = 0.15,
) -> Float[np.ndarray, "c d"]:
    """Mix donor classes by the kernel, and within a donor weigh its samples by the clusters they share (ours).

    ::

        P_c = sum_j w_cj q_cj,   q_cj = sum_{i in j} v_c,k(i) z_i / sum_{i in j} v_c,k(i),   v_ck = n_ck / n_c

    ``w`` are the weights of :func:`~deblora.debias.neighbors.kernel_neighbor_centers`, ``v`` those of
    :func:`~deblora.debias.centers.debiased_centers`. A donor that shares no cluster counts with its mean. With one
    cluster this is the kernel-neighbor center.

    Args:
        features: Training features; L2-normalize the rows first if cosine geometry is meant.
        labels: Class of each row.
        assignments: Cluster of each row.
        n_classes: Number of classes, each with at least one sample.
        temperature: Of the donor kernel, positive.

    Raises:
        DataError: If a class has no sample.
        ValueError: If ``temperature`` is not positive or lengths disagree.
    """
    if len(assignments) != len(labels):
        raise ValueError(f"{len(assignments)} assignments but {len(labels)} labels")
    _, kernel, _ = kernel_neighbor_centers(features, labels, n_classes, temperature=temperature)
    n_clusters = int(assignments.max()) + 1
    sums = np.zeros((n_classes, n_clusters, features.shape[1]))
    np.add.at(sums, (labels, assignments), features)
    sizes = np.zeros((n_classes, n_clusters))
    np.add.at(sizes, (labels, assignments), 1)
    shares = sizes / sizes.sum(axis=1, keepdims=True)
    weight = shares @ sizes.T  # of the samples of a donor that lie in the clusters of a class
    shared = np.einsum("ck,jkd->cjd", shares, sums) / np.where(weight > 0, weight, 1)[:, :, None]
    means = class_means(features, labels, n_classes).astype(np.float64)
    parts = np.where(weight[:, :, None] > 0, shared, means[None])
    return np.asarray(np.einsum("cj,cjd->cd", kernel, parts)).astype(features.dtype)
