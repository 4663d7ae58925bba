"""Distribution calibration ("free lunch"): rare classes borrow mean and covariance from near frequent ones."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import class_means
from deblora.debias.spaces import unit_rows
from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Standardizer, checked_counts, tukey
from deblora.evaluate.classifiers.linear import LinearFits

POWER = 0.5
"""Exponent of Tukey's transform (Yang et al. 2021)."""

N_NEAREST = 2
"""Frequent classes that a sample borrows from (Yang et al. 2021)."""

SPREAD = 0.21
"""Added variance (the number of Yang et al. 2021; the unit is ours, see :class:`Calibration`)."""


@dataclass(frozen=True)
class Calibration:
    """One Gaussian ``N(mean_i, mean of the covariances of nearest_i + 0.21 v I)`` per sample of a rare class.

    ``v`` is the variance per dimension, averaged over dimensions and frequent classes. The unit and the
    identity are ours: the authors' code adds .21 to *every* entry of the covariance, at the scale of its network.

    Attributes:
        means: Of the Gaussians.
        nearest: Frequent classes that each of them borrows from.
        variance: ``v``.
        centered: Features of each frequent class less their mean.
    """

    means: Float[np.ndarray, "m d"]
    nearest: Int[np.ndarray, "m k"]
    variance: float
    centered: tuple[Float[np.ndarray, "_ d"], ...]

    @classmethod
    def of(
        cls,
        samples: Float[np.ndarray, "m d"],
        base_features: Float[np.ndarray, "n d"],
        base_labels: Int[np.ndarray, " n"],
    ) -> "Calibration":
        """Describe each sample of a rare class by its nearest frequent classes ``S``, at most two.

        Nearest by Euclidean distance to the class means ``mu_b``; ``mean = (sum_{b in S} mu_b + sample) / (|S| + 1)``.

        Args:
            samples: Transformed features of rare classes.
            base_features: Transformed features of the frequent classes.
            base_labels: Classes ``0 .. n_base - 1``, renumbered; each with at least 2 samples.

        Raises:
            DataError: If there is no frequent class, or one with fewer than 2 samples.
        """
        n_base = int(base_labels.max(initial=-1)) + 1
        counts = np.bincount(base_labels, minlength=n_base)
        if not n_base or counts.min() < 2:
            raise DataError(
                "distribution calibration needs frequent classes with at least 2 samples each; leave "
                "distribution_calibration out of the classifiers"
            )
        means = class_means(base_features, base_labels, n_base)
        squared = np.sum(means**2, axis=1) - 2.0 * samples @ means.T
        nearest = np.argsort(squared, axis=1, kind="stable")[:, :N_NEAREST]
        centered = base_features - means[base_labels]
        per_class = np.bincount(base_labels, weights=np.mean(centered**2, axis=1)) / (counts - 1)
        mixed = (means[nearest].sum(axis=1) + samples) / (nearest.shape[1] + 1)
        apart = tuple(centered[base_labels == b] for b in range(n_base))
        return cls(mixed, nearest, float(per_class.mean()), apart)

    def draw(self, index: int, n_samples: int, rng: np.random.Generator) -> Float[np.ndarray, "s d"]:
        """Draw from the Gaussian of one sample, without building a covariance.

        With ``A_b`` the centered features of class ``b``, rows of ``g A_b / sqrt(n_b - 1)`` with standard normal
        ``g`` have exactly its sample covariance.
        """
        nearest = self.nearest[index]
        drawn = np.tile(self.means[index], (n_samples, 1))
        for b in nearest:
            members = self.centered[int(b)]
            noise = rng.standard_normal((n_samples, len(members)))
            drawn += noise @ members / np.sqrt((len(members) - 1) * len(nearest))
        drawn += np.sqrt(SPREAD * self.variance) * rng.standard_normal(drawn.shape)
        return drawn


def distribution_fits(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    rng: np.random.Generator,
    power: float = POWER,
) -> LinearFits:
    """Fill rare classes with features drawn from calibrated Gaussians, ready for linear fits at any penalty.

    Distribution calibration (Yang et al. 2021, arXiv 2101.06395) carried over to a long tail. Ours: the statistics of
    frequent classes, those with at least the median count and at least 2 samples, are those of *transformed* unit
    features, and each rare class is filled up to the count of the largest class, its own samples taking turns.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        rng: Of the draws.
        power: Of :func:`~deblora.evaluate.classifiers.classifier.tukey`, > 0.

    Raises:
        DataError: If a class has no sample, none is frequent, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit or ``power`` is out of range.
    """
    counts = checked_counts(x, y, n_classes)
    z = tukey(unit_rows(x), power)
    frequent = counts >= max(2, int(np.median(counts)))
    base, in_base = np.flatnonzero(frequent), frequent[y]
    calibration = Calibration.of(z[~in_base], z[in_base], np.searchsorted(base, y[in_base]))
    features, labels = [z], [y]
    for c in np.flatnonzero(~frequent).tolist():
        members = np.flatnonzero(y[~in_base] == c)
        turns = np.diff(np.linspace(0, counts.max() - counts[c], len(members) + 1).astype(np.int64))
        features += [
            calibration.draw(i, n, rng) for i, n in zip(members.tolist(), turns.tolist(), strict=True)
        ]
        labels.append(np.full(int(turns.sum()), c, dtype=y.dtype))
    standardizer = Standardizer.fit(z)  # of features that are transformed already, as the draws are
    fits = LinearFits.of(
        np.concatenate(features), np.concatenate(labels), n_classes, standardizer=standardizer
    )
    return replace(fits, standardizer=replace(standardizer, power=float(power)))
