"""Centers and pulls by name: the one place where the calibration is put together from its parts.

A variant is a center (where a class should lie), a law (how much of a feature stays, ``alpha``) and a way to move.
The stages of the pipeline, the methods of a comparison and :class:`~deblora.debias.estimator.Debiaser` all call this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from deblora.data.longtail import Groups
from deblora.debias.calibrate import alpha_from_imbalance, alpha_from_kappa, contract, shift
from deblora.debias.centers import (
    class_mean_centers,
    debiased_centers,
    global_mean_centers,
    random_head_centers,
)
from deblora.debias.neighbors import fit_kappa, kernel_neighbor_centers
from deblora.debias.spaces import as_matrix, unit_rows

CenterKind = Literal["debiased", "kernel_neighbors", "class_mean", "global_mean", "random_head_mean"]
Law = Literal["imbalance", "kappa"]
Mode = Literal["contract", "shift"]
Which = Literal["tail", "tail+middle", "all"]
Clustering = tuple[Int[np.ndarray, " n"], Float[np.ndarray, "k d"]]
"""Cluster of each training sample, and the center of each cluster."""

MOVES = MappingProxyType({"contract": contract, "shift": shift})


@dataclass(frozen=True)
class Variant:
    """What moves where: a center, the law of ``alpha``, the way to move, and whether features get length 1 first."""

    center: CenterKind
    law: Law
    mode: Mode
    of_length_1: bool = False


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "contract": Variant("debiased", "imbalance", "contract"),
        "contract-class-mean": Variant("class_mean", "imbalance", "contract"),
        "contract-random-head-mean": Variant("random_head_mean", "imbalance", "contract"),
        "contract-kernel-neighbors": Variant("kernel_neighbors", "imbalance", "contract"),
        "shift": Variant("kernel_neighbors", "kappa", "shift", of_length_1=True),
    }
)
"""The paper's calibration, its controls, and the shift (ours)."""


@dataclass(frozen=True)
class Toward:
    """One center per class that moves; ``weights`` are its shares in clusters or donor classes (none for controls)."""

    classes: Int[np.ndarray, " t"]
    centers: Float[np.ndarray, "t d"]
    weights: Float[np.ndarray, "t k"]


@dataclass(frozen=True)
class Moved:
    """Moved training features, ``alpha`` per class (1 where nothing moves), and the fitted ``kappa`` or NaN."""

    features: Float[np.ndarray, "n d"]
    alpha: Float[np.ndarray, " c"]
    kappa: float


def moved_classes(groups: Groups, which: Which) -> Int[np.ndarray, " t"]:
    """Return the classes of the named groups, sorted."""
    chosen = {
        "tail": groups.tail,
        "tail+middle": groups.tail + groups.middle,
        "all": groups.tail + groups.middle + groups.head,
    }[which]
    return np.array(sorted(chosen), dtype=np.int64)


def centers_of(
    kind: CenterKind,
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    classes: Int[np.ndarray, " t"],
    *,
    donors_only: bool = False,
    clusters: Clustering | None = None,
    head: Sequence[int] = (),
    temperature: float = 0.15,
    seed: int = 0,
) -> Toward:
    """Return the centers of a kind.

    Args:
        kind: ``debiased`` mixes cluster centers (paper), ``kernel_neighbors`` better-populated classes (ours); the
            others are controls.
        features: Training features.
        labels: Class of each row.
        n_classes: Number of classes, each with at least one sample.
        classes: Classes that are to move.
        donors_only: Leave out classes without donors (``kernel_neighbors``), whose center is their own mean.
        clusters: Of these features; ``debiased`` needs them.
        head: Classes that ``random_head_mean`` draws from.
        temperature: Of the kernel. Default 0.15 (ours).
        seed: Of random centers.

    Raises:
        DataError: If features are not finite, a class has no sample, or there is no head class to draw from.
        ValueError: If the kind is unknown, or clusters are missing.
    """
    none = np.zeros((len(classes), 0))
    features = as_matrix(features)
    if kind == "debiased":
        if clusters is None:
            raise ValueError("de-biased centers need clusters")
        assignments, cluster_centers = clusters
        return Toward(classes, *debiased_centers(cluster_centers, assignments, labels, classes))
    if kind == "kernel_neighbors":
        every, weights, has_donors = kernel_neighbor_centers(
            features, labels, n_classes, temperature=temperature
        )
        chosen = classes[has_donors[classes]] if donors_only else classes
        return Toward(chosen, every[chosen], weights[chosen])
    if kind == "class_mean":
        return Toward(classes, class_mean_centers(features, labels, classes), none)
    if kind == "global_mean":
        return Toward(classes, global_mean_centers(features, classes), none)
    if kind == "random_head_mean":
        rng = np.random.default_rng(seed)
        return Toward(classes, random_head_centers(features, labels, classes, np.array(head), rng), none)
    raise ValueError(f"unknown center {kind!r}")


def alpha_of(
    law: Law,
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    numerator: float = 10.0,
    imbalance: Literal["per_class", "dataset"] = "per_class",
    temperature: float = 0.15,
    n_rounds: int = 6,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " c"], float]:
    """Return the weight of the original feature by class, and the fitted ``kappa`` (NaN under ``imbalance``).

    ``imbalance`` is :func:`~deblora.debias.calibrate.alpha_from_imbalance` (paper), ``kappa`` is ``n / (n + kappa)``
    with :func:`~deblora.debias.neighbors.fit_kappa` (ours); their settings and errors are those of these functions.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if law == "imbalance":
        return alpha_from_imbalance(counts, numerator=numerator, imbalance=imbalance), float("nan")
    rng = np.random.default_rng(seed)
    kappa = fit_kappa(features, labels, n_classes, n_rounds=n_rounds, temperature=temperature, rng=rng)
    return alpha_from_kappa(counts, kappa), kappa


def move(
    mode: Mode,
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    toward: Toward,
    alpha: Float[np.ndarray, " c"],
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " c"]]:
    """Move features toward centers; return them and ``alpha`` with 1 for the classes that stay.

    Raises:
        DataError: If a class that moves has no sample.
        ValueError: If shapes disagree or an alpha is outside [0, 1].
    """
    kept = np.ones(len(alpha))
    kept[toward.classes] = alpha[toward.classes]
    return MOVES[mode](features, labels, toward.centers, toward.classes, kept), kept


def moved_features(
    name: str,
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    groups: Groups,
    *,
    which: Which = "tail",
    clusters: Clustering | None = None,
    numerator: float = 10.0,
    imbalance: Literal["per_class", "dataset"] = "per_class",
    temperature: float = 0.15,
    n_rounds: int = 6,
    seed: int = 0,
) -> Moved:
    """Return the training features of a variant; validation and test features never move.

    Args:
        name: One of :data:`VARIANTS`.
        features: Training features of the first adapter.
        labels: Class of each row.
        groups: Head, middle and tail classes.
        which: Classes that a contraction moves (paper: tail); the shift moves every class that has donors.
        clusters: Of these features, for de-biased centers.
        numerator: Of the law ``imbalance``. Default 10 (paper).
        imbalance: Its reading of the imbalance ratio. Default per class (ours).
        temperature: Of the kernel over classes. Default 0.15 (ours).
        n_rounds: Of the fit of ``kappa``. Default 6 (ours).
        seed: Of random centers and of that fit.

    Raises:
        DataError: If a class has no sample, or there is no head class to draw a center from.
        KeyError: If the name is unknown.
    """
    variant = VARIANTS[name]
    precise = as_matrix(features).astype(np.float64)
    x = unit_rows(precise) if variant.of_length_1 else precise
    n_classes = sum(map(len, groups.named().values()))
    has_donors = variant.law == "kappa"
    toward = centers_of(
        variant.center,
        x,
        labels,
        n_classes,
        np.arange(n_classes) if has_donors else moved_classes(groups, which),
        donors_only=has_donors,
        clusters=clusters,
        head=groups.head,
        temperature=temperature,
        seed=seed,
    )
    alpha, kappa = alpha_of(
        variant.law,
        x,
        labels,
        n_classes,
        numerator=numerator,
        imbalance=imbalance,
        temperature=temperature,
        n_rounds=n_rounds,
        seed=seed,
    )
    moved, kept = move(variant.mode, x, labels, toward, alpha)
    return Moved(unit_rows(moved) if variant.of_length_1 else moved, kept, kappa)
