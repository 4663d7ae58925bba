"""Training features that the heads are also fitted on after they were moved: contraction and shift, by center."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from deblora.data.longtail import Groups
from deblora.debias.calibrate import alpha_from_imbalance, alpha_from_kappa, contract, shift
from deblora.debias.centers import (
    class_mean_centers,
    debiased_centers,
    global_mean_centers,
    random_head_centers,
)
from deblora.debias.density import density_clusters
from deblora.debias.kmeans.estimator import cluster_features
from deblora.debias.neighbors import (
    fit_kappa,
    kernel_neighbor_centers,
    nearest_donor_centers,
    posterior_kappa,
    united_centers,
)
from deblora.debias.spaces import unit_rows
from deblora.recipe.classify import CalibrateRecipe, Recipe


def moved_classes(groups: Groups, recipe: CalibrateRecipe) -> Int[np.ndarray, " t"]:
    """Return the classes that the recipe moves."""
    chosen = {
        "tail": groups.tail,
        "tail+middle": groups.tail + groups.middle,
        "all": groups.tail + groups.middle + groups.head,
    }[recipe.classes]
    return np.array(sorted(chosen), dtype=np.int64)


CONTRACTED = {
    "contract-debiased": "debiased",
    "contract-class-mean": "class_mean",
    "contract-global-mean": "global_mean",
    "contract-random-head-mean": "random_head_mean",
    "contract-kernel-neighbors": "kernel_neighbors",
}
"""The literal calibration with the paper's center (K of the recipe) and with each control."""

SHIFTED = {
    "shift-kernel": "kernel_neighbors",
    "shift-debiased-8": 8,
    "shift-debiased-32": 32,
    "shift-nearest-3": "nearest",
    "shift-global-mean": "global_mean",
    "shift-united": "united",
    "shift-posterior": "kernel_neighbors",
}
"""The shift with kernel neighbors, de-biased centers of 8 and 32 clusters, 3 nearest donors, the global mean, and
the part of the neighbors that shares clusters. ``shift-posterior`` differs from ``shift-kernel`` in the pull."""

MOVED = (*CONTRACTED, *SHIFTED)


@dataclass(frozen=True)
class Training:
    """Training features of the first adapter with their classes and groups."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    n_classes: int
    groups: Groups

    @property
    def counts(self) -> Int[np.ndarray, " c"]:
        """Samples per class."""
        return np.bincount(self.labels, minlength=self.n_classes)


def moved_features(name: str, training: Training, recipe: Recipe) -> Float[np.ndarray, "n d"]:
    """Return the training features of a row of :data:`MOVED`; validation and test features never move.

    Contraction: raw features of the recipe's classes, ``alpha`` from the imbalance ratio, as the stage
    ``calibrate``. Shift: unit features of every class that has donors, ``alpha = n / (n + kappa)`` with the
    ``kappa`` fitted to kernel neighbors for every center (ours), so that rows differ in the center only;
    ``shift-posterior`` takes the ``kappa`` of :func:`~deblora.debias.neighbors.posterior_kappa`.

    Args:
        name: One of :data:`MOVED`.
        training: What is moved.
        recipe: Its cluster, calibrate and shift tables, and its seed.

    Raises:
        DataError: If there is no head class to draw a center from.
    """
    return _contracted(name, training, recipe) if name in CONTRACTED else _shifted(name, training, recipe)


def moved_settings(name: str, recipe: Recipe) -> list[dict[str, object]]:
    """Return the tables of the recipe that a row of :data:`MOVED` depends on."""
    tables: list[object] = [recipe.calibrate if name in CONTRACTED else recipe.shift]
    if "debiased" in name or name == "shift-united":
        tables.append(recipe.cluster)
    if name == "contract-kernel-neighbors":
        tables.append(recipe.shift)
    return [dict(table.__dict__) for table in tables]


def _contracted(name: str, training: Training, recipe: Recipe) -> Float[np.ndarray, "n d"]:
    features, labels = training.features.astype(np.float64), training.labels
    classes, kind = moved_classes(training.groups, recipe.calibrate), CONTRACTED[name]
    if kind == "debiased":
        centers = _cluster_mix(features, labels, classes, recipe.cluster.n_clusters, recipe)
    elif kind == "class_mean":
        centers = class_mean_centers(features, labels, classes)
    elif kind == "global_mean":
        centers = global_mean_centers(features, classes)
    elif kind == "random_head_mean":
        rng = np.random.default_rng(recipe.seed)
        centers = random_head_centers(features, labels, classes, training.groups.head, rng)
    else:
        every, _, _ = kernel_neighbor_centers(
            features, labels, training.n_classes, temperature=recipe.shift.temperature
        )
        centers = every[classes]
    settings = recipe.calibrate
    alpha = alpha_from_imbalance(training.counts, numerator=settings.numerator, imbalance=settings.imbalance)
    return contract(features, labels, centers, classes, alpha)


def _shifted(name: str, training: Training, recipe: Recipe) -> Float[np.ndarray, "n d"]:
    unit, labels, n_classes = (
        unit_rows(training.features.astype(np.float64)),
        training.labels,
        training.n_classes,
    )
    temperature, kind = recipe.shift.temperature, SHIFTED[name]
    neighbors, _, has_donors = kernel_neighbor_centers(unit, labels, n_classes, temperature=temperature)
    classes = _indices(has_donors)
    if kind == "kernel_neighbors":
        centers = neighbors[classes]
    elif kind == "nearest":
        centers = nearest_donor_centers(unit, labels, n_classes)[0][classes]
    elif isinstance(kind, int):
        centers = _cluster_mix(unit, labels, classes, kind, recipe)
    elif kind == "united":
        found = _clusters(unit, recipe.cluster.n_clusters, recipe)[0]
        centers = united_centers(unit, labels, found, n_classes, temperature=temperature)[classes]
    else:
        centers = global_mean_centers(unit, classes)
    if name == "shift-posterior":
        kappa = posterior_kappa(unit, labels, neighbors, has_donors)
        return unit_rows(shift(unit, labels, centers, classes, alpha_from_kappa(training.counts, kappa)))
    kappa = fit_kappa(
        unit,
        labels,
        n_classes,
        n_rounds=recipe.shift.n_rounds,
        temperature=temperature,
        rng=np.random.default_rng(recipe.seed),
    )
    return unit_rows(shift(unit, labels, centers, classes, alpha_from_kappa(training.counts, kappa)))


def _indices(mask: Bool[np.ndarray, " c"]) -> Int[np.ndarray, " t"]:
    return np.flatnonzero(mask).astype(np.int64)


def _cluster_mix(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    classes: Int[np.ndarray, " t"],
    n_clusters: int,
    recipe: Recipe,
) -> Float[np.ndarray, "t d"]:
    assignments, centers = _clusters(features, n_clusters, recipe)
    return debiased_centers(centers, assignments, labels, classes)[0]


def _clusters(
    features: Float[np.ndarray, "n d"], n_clusters: int, recipe: Recipe
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "k d"]]:
    settings = recipe.cluster
    if settings.method == "dbscan":
        assignments, centers, _ = density_clusters(
            features, eps=settings.eps, min_samples=settings.min_samples, space=settings.space
        )
        return assignments, centers
    assignments, centers, _, _ = cluster_features(
        features,
        n_clusters=min(n_clusters, len(features)),
        rho=settings.rho,
        space=settings.space,
        n_init=settings.n_init,
        seed=recipe.seed,
    )
    return assignments, centers
