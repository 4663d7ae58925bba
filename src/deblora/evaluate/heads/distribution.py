"""Distribution calibration ("free lunch"): rare classes borrow mean and covariance from near frequent ones."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import class_means
from deblora.debias.spaces import unit_rows
from deblora.errors import DataError
from deblora.evaluate.heads.head import Standardizer, checked_counts, tukey
from deblora.evaluate.heads.linear import LinearFits

POWER = 0.5
"""Exponent of Tukey's transform (Yang et al. 2021)."""

N_NEAREST = 2
"""Frequent classes that a sample borrows from (Yang et al. 2021)."""

SPREAD = 0.21
"""Added variance (the number of Yang et al. 2021; the unit is ours, see :class:`Calibration`)."""


@dataclass(frozen=True)
class Calibration:
    """One Gaussian ``N(mean_i, mean of the covariances of nearest_i + spread v I)`` per sample of a rare class.

    ``v`` is the variance per dimension, averaged over dimensions and frequent classes. The unit and the
    identity are ours: the authors' code adds .21 to *every* entry of the covariance, at the scale of its network.
    """

    means: Float[np.ndarray, "m d"]
    nearest: Int[np.ndarray, "m k"]
    variance: float


def calibrated_gaussians(
    samples: Float[np.ndarray, "m d"],
    base_features: Float[np.ndarray, "n d"],
    base_labels: Int[np.ndarray, " n"],
    *,
    n_nearest: int = N_NEAREST,
) -> Calibration:
    """Describe each sample of a rare class by its nearest frequent classes ``S``, Euclidean to their means ``mu_b``.

    ::

        mean = (sum_{b in S} mu_b + sample) / (|S| + 1)        covariance: see Calibration

    Args:
        samples: Transformed features of rare classes.
        base_features: Transformed features of the frequent classes.
        base_labels: Classes ``0 .. n_base - 1``, renumbered; each with at least 2 samples.
        n_nearest: Size of ``S``, capped by the number of frequent classes.

    Raises:
        DataError: If a frequent class has fewer than 2 samples.
        ValueError: If ``n_nearest`` is below 1.
    """
    if n_nearest < 1:
        raise ValueError(f"n_nearest must be at least 1, got {n_nearest}")
    n_base = int(base_labels.max(initial=-1)) + 1
    counts = np.bincount(base_labels, minlength=n_base)
    if not n_base or counts.min() < 2:
        raise DataError(
            "distribution calibration needs frequent classes with at least 2 samples each; lower base_count or "
            "choose another head"
        )
    means = class_means(base_features, base_labels, n_base)
    squared = np.sum(means**2, axis=1) - 2.0 * samples @ means.T
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :n_nearest]
    centered = base_features - means[base_labels]
    per_class = np.bincount(base_labels, weights=np.mean(centered**2, axis=1)) / (counts - 1)
    mixed = (means[nearest].sum(axis=1) + samples) / (nearest.shape[1] + 1)
    return Calibration(mixed, nearest, float(per_class.mean()))


def sample_gaussian(
    calibration: Calibration,
    index: int,
    centered: list[Float[np.ndarray, "_ d"]],
    *,
    n_samples: int,
    spread: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "s d"]:
    """Draw from the Gaussian of one sample, without building a covariance.

    With ``A_b`` the centered features of class ``b``, rows of ``g A_b / sqrt(n_b - 1)`` with standard normal
    ``g`` have exactly its sample covariance.

    Args:
        calibration: See :func:`calibrated_gaussians`.
        index: Which of its samples.
        centered: ``A_b`` of each frequent class.
        n_samples: Draws.
        spread: Added variance in units of ``calibration.variance``, >= 0.
        rng: Source of randomness.
    """
    nearest = calibration.nearest[index]
    drawn = np.tile(calibration.means[index], (n_samples, 1))
    for b in nearest:
        members = centered[int(b)]
        noise = rng.standard_normal((n_samples, len(members)))
        drawn += noise @ members / np.sqrt((len(members) - 1) * len(nearest))
    drawn += np.sqrt(spread * calibration.variance) * rng.standard_normal(drawn.shape)
    return drawn


def distribution_fits(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    rng: np.random.Generator,
    power: float = POWER,
    n_nearest: int = N_NEAREST,
    spread: float = SPREAD,
    base_count: int | None = None,
) -> LinearFits:
    """Fill rare classes with features drawn from calibrated Gaussians, ready for linear fits at any penalty.

    Distribution calibration (Yang et al. 2021, arXiv 2101.06395) carried over to a long tail. Ours: the
    statistics of frequent classes are those of *transformed* unit features, and each rare class is filled up to
    the count of the largest class, its own samples taking turns.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        rng: Of the draws.
        power: Of :func:`~deblora.evaluate.heads.head.tukey`.
        n_nearest: Frequent classes that a sample borrows from.
        spread: Added variance, >= 0; see :class:`Calibration`.
        base_count: A class is frequent with at least so many samples; the median count when None (ours), and
            at least 2.

    Raises:
        DataError: If a class has no sample, none is frequent, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit or a setting is out of range.
    """
    counts = checked_counts(x, y, n_classes)
    if not (np.isfinite(spread) and spread >= 0):
        raise ValueError(f"spread must not be negative, got {spread}")
    z = tukey(unit_rows(x), power)
    threshold = max(2, int(np.median(counts)) if base_count is None else base_count)
    drawn = _draws(z, y, counts, threshold, n_nearest=n_nearest, spread=spread, rng=rng)
    features, labels = np.concatenate([z, *drawn.values()]), [y]
    labels += [np.full(len(own), c, dtype=y.dtype) for c, own in drawn.items()]
    standardizer = Standardizer.fit(z)  # of features that are transformed already, as the draws are
    fits = LinearFits.of(features, np.concatenate(labels), n_classes, standardizer=standardizer)
    return replace(fits, standardizer=replace(standardizer, power=float(power)))


def _draws(
    z: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " c"],
    threshold: int,
    *,
    n_nearest: int,
    spread: float,
    rng: np.random.Generator,
) -> dict[int, Float[np.ndarray, "s d"]]:
    """Return what fills each class below the threshold up to the count of the largest."""
    base = np.flatnonzero(counts >= threshold)
    in_base = np.isin(y, base)
    base_z, base_y = z[in_base], np.searchsorted(base, y[in_base])
    rare = np.flatnonzero(~in_base)
    calibration = calibrated_gaussians(z[rare], base_z, base_y, n_nearest=n_nearest)
    centered = [base_z[base_y == b] - base_z[base_y == b].mean(axis=0) for b in range(len(base))]
    drawn = {}
    for c in np.flatnonzero(counts < threshold).tolist():
        members = np.flatnonzero(y[rare] == c)
        turns = np.diff(np.linspace(0, counts.max() - counts[c], len(members) + 1).astype(np.int64))
        own = [
            sample_gaussian(calibration, index, centered, n_samples=n_samples, spread=spread, rng=rng)
            for index, n_samples in zip(members.tolist(), turns.tolist(), strict=True)
        ]
        drawn[c] = np.concatenate(own)
    return drawn
