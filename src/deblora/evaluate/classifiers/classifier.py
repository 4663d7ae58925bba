"""What all classifiers share: the protocol, the standardization of features, and the checks of training samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.centers import counted
from deblora.debias.spaces import unit_rows
from deblora.errors import DataError
from deblora.evaluate.metrics import check_labels

MEAN_SQUARED_NORM = 50.0
"""Mean squared norm after scaling (ours): fixes what one value of a penalty means, whatever the backbone."""


@runtime_checkable
class Classifier(Protocol):
    """A fitted classifier on features. The class with the largest logit is the prediction."""

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return one logit per sample and class."""
        ...


@dataclass(frozen=True)
class Standardizer:
    """``z = scale (u(x) - mean)``, with mean squared norm 50 on the features of the fit.

    ``u`` applies Tukey's transform, then brings each part of a feature to length 1.

    Attributes:
        mean: Of the transformed features of the fit.
        scale: One factor per column, the same within a part.
        sizes: Columns of each part, for instance of two backbones side by side; none leaves lengths as they are.
        power: Exponent of :func:`tukey`; 1 changes nothing.
    """

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    sizes: tuple[int, ...]
    power: float

    @classmethod
    def fit(
        cls, x: Float[np.ndarray, "n d"], sizes: Sequence[int] | None = None, *, power: float = 1.0
    ) -> "Standardizer":
        """Take mean and scale from training features.

        Args:
            x: Training features, before they were moved.
            sizes: Columns of each part, all >= 1; one part when None, and no part keeps lengths.
            power: Exponent of :func:`tukey`, > 0.

        Raises:
            DataError: If features are not finite, or all the same within a part.
            ValueError: If there is no feature, the sizes do not add up to the columns, or ``power`` is not positive.
        """
        if x.ndim != 2 or not len(x):
            raise ValueError(f"statistics need features of shape (samples, size), got {x.shape}")
        if not np.isfinite(x).all():
            raise DataError(
                "the features for mean and scale hold values that are not finite; extract them again"
            )
        parts = (x.shape[1],) if sizes is None else tuple(int(size) for size in sizes)
        if parts and (sum(parts) != x.shape[1] or min(parts) < 1):
            raise ValueError(f"sizes {list(parts)} do not add up to {x.shape[1]} columns")
        transformed = _transform(x, parts, power)
        mean = transformed.mean(axis=0)
        scale = np.empty_like(mean)
        for part in _slices(parts or (len(mean),)):
            scatter = float(np.mean(np.sum((transformed[:, part] - mean[part]) ** 2, axis=1)))
            if scatter <= 1e-24 * float(mean[part] @ mean[part]):
                raise DataError(
                    "all features are the same, nothing can be classified; check the chips and the backbone"
                )
            scale[part] = np.sqrt(MEAN_SQUARED_NORM / scatter)
        return cls(mean, scale, parts, float(power))

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return standardized features in float64.

        Raises:
            DataError: If features are not finite.
            ValueError: If the feature size is not the one of the fit.
        """
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(
                f"features have shape {x.shape}, the classifier was fitted on size {len(self.mean)}"
            )
        if not np.isfinite(x).all():
            raise DataError("features hold values that are not finite; extract them again")
        return np.asarray(self.scale * (_transform(x, self.sizes, self.power) - self.mean))


def tukey(x: Float[np.ndarray, "n d"], power: float) -> Float[np.ndarray, "n d"]:
    """Return ``sign(x) |x|^power`` in float64: less skewed features for ``power`` below 1.

    Equal to Tukey's ladder for features >= 0; the sign for others is ours.

    Raises:
        ValueError: If ``power`` is not positive.
    """
    if not power > 0:
        raise ValueError(f"power must be positive, got {power}")
    precise = x.astype(np.float64)
    return precise if power == 1 else np.asarray(np.sign(precise) * np.abs(precise) ** power)


def _transform(x: Float[np.ndarray, "n d"], sizes: Sequence[int], power: float) -> Float[np.ndarray, "n d"]:
    precise = tukey(x, power)
    return np.hstack([unit_rows(precise[:, part]) for part in _slices(sizes)]) if sizes else precise


def _slices(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def checked_counts(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, " c"]:
    """Return the samples per class, all at least 1, after checking features and labels.

    Raises:
        DataError: If a class has no sample or a feature is not finite.
        ValueError: If shapes or labels do not fit.
    """
    check_labels(y, n_classes, name="y")
    if x.ndim != 2 or len(x) != len(y) or not len(y):
        raise ValueError(f"x has shape {x.shape}, y has {len(y)} labels")
    if not np.isfinite(x).all():
        raise DataError("the training features hold values that are not finite; extract them again")
    return counted(x, y, n_classes)
