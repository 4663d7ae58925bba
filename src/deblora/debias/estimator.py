"""The whole feature-space method as one scikit-learn transformer."""

import numbers
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, TransformerMixin

from deblora.debias.kmeans.estimator import cluster_features
from deblora.debias.spaces import Space, as_matrix, directions
from deblora.debias.variants import CenterKind, Clustering, Toward, alpha_of, centers_of, move
from deblora.errors import DataError


class Debiaser(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Calibrate training features of rare classes; test features pass through unchanged.

    In a scikit-learn pipeline, ``fit_transform`` hands the calibrated training features to the classifier,
    while ``transform`` returns its input, because calibration needs labels.

    Args:
        method: ``contract`` pulls every sample toward the center (paper); ``shift`` moves the class and keeps
            its scatter (ours).
        center: ``debiased`` mixes cluster centers (paper); ``kernel_neighbors`` mixes better-populated
            classes (ours); the others are controls.
        tail_classes: The labels that move. Default: the least populated third (ours); for
            ``kernel_neighbors`` every class that has donors (ours).
        n_clusters: Clusters of the center ``debiased``. Default 32 (authors' code).
        rho: Balance factor of the size floor, at least 1. Default 10 (ours).
        space: Clustering space, see :func:`deblora.debias.cluster_features`.
        n_init: Restarts of the clustering. Default 4 (ours).
        alpha: ``imbalance`` is ``min(1, numerator / ir)`` (paper); ``kappa`` is ``n / (n + kappa)`` with
            ``kappa`` fitted on the training data (ours); a number in [0, 1] holds for all classes.
        numerator: Of the law ``imbalance``. Default 10 (paper).
        l2_normalize: Scale rows to norm 1 before calibration and after it, and in ``transform``.
        random_state: Seed of clustering, ``kappa`` and random centers.

    Attributes:
        classes_: Labels in sorted order; class-indexed arrays follow it.
        calibrated_: Calibrated training features, rows as in ``X``.
        centers_: One row per moved class.
        moved_classes_: The labels of these rows.
        alpha_: Weight of the original feature per class; 1 for classes that do not move.
        kappa_: The fitted ``kappa``, or NaN.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(["car", "ship", "crane"], [200, 100, 10])
        >>> X = rng.normal(size=(310, 16))
        >>> fitted = Debiaser(n_clusters=8).fit(X, y)
        >>> fitted.moved_classes_.tolist(), fitted.alpha_.round(2).tolist()
        (['crane'], [1.0, 0.5, 1.0])
    """

    def __init__(
        self,
        method: Literal["contract", "shift"] = "contract",
        *,
        center: CenterKind = "debiased",
        tail_classes: Sequence[Any] | None = None,
        n_clusters: int = 32,
        rho: float = 10.0,
        space: Space = "standardize",
        n_init: int = 4,
        alpha: Literal["imbalance", "kappa"] | float = "imbalance",
        numerator: float = 10.0,
        l2_normalize: bool = False,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.center = center
        self.tail_classes = tail_classes
        self.n_clusters = n_clusters
        self.rho = rho
        self.space = space
        self.n_init = n_init
        self.alpha = alpha
        self.numerator = numerator
        self.l2_normalize = l2_normalize
        self.random_state = random_state

    def fit(self, X: Float[np.ndarray, "n d"], y: Shaped[np.ndarray, " n"]) -> Self:
        """Compute centers and weights from the training features and calibrate these.

        Raises:
            DataError: If features are not finite, a row cannot be normalized or a class of ``tail_classes``
                is absent.
            ValueError: If a parameter is out of range, or labels are missing (``None``, NaN) or of mixed types.
        """
        if self.method not in ("contract", "shift"):
            raise ValueError(f"method must be 'contract' or 'shift', got {self.method!r}")
        features = self._prepared(X)
        self.n_features_in_ = features.shape[1]
        self.classes_, labels = np.unique(_checked_labels(y), return_inverse=True)
        if len(labels) != len(features):
            raise ValueError(f"{len(features)} feature rows but {len(labels)} labels")
        counts = np.bincount(labels)
        toward = self._toward(features, labels, counts)
        self.centers_, self.moved_classes_ = toward.centers, self.classes_[toward.classes]
        alpha = self._alpha(features, labels, counts)
        calibrated, self.alpha_ = move(self.method, features, labels, toward, alpha)
        self.calibrated_ = self._prepared(calibrated)
        return self

    def fit_transform(
        self, X: Float[np.ndarray, "n d"], y: Shaped[np.ndarray, " n"], **fit_params: Any
    ) -> Float[np.ndarray, "n d"]:
        """Fit, and return the calibrated training features."""
        return self.fit(X, y, **fit_params).calibrated_

    def transform(self, X: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
        """Return test features as they are (normalized if ``l2_normalize``).

        Raises:
            DataError: If features are not finite or a row cannot be normalized.
            ValueError: If the estimator is not fitted or the width differs.
        """
        if not hasattr(self, "calibrated_"):
            raise ValueError("this Debiaser is not fitted; call fit first")
        features = self._prepared(X)
        if features.shape[1] != self.n_features_in_:
            raise ValueError(f"features have {features.shape[1]} columns, fitted on {self.n_features_in_}")
        return features

    def _prepared(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        matrix = as_matrix(features)
        return directions(matrix) if self.l2_normalize else matrix

    def _wanted(self, counts: np.ndarray) -> np.ndarray:
        if self.tail_classes is not None:
            unknown = [c for c in self.tail_classes if c not in self.classes_]
            if unknown:
                raise DataError(
                    f"tail class {unknown[0]!r} has no training sample; known are {self.classes_.tolist()}"
                )
            return np.flatnonzero(np.isin(self.classes_, np.asarray(self.tail_classes)))
        if self.center == "kernel_neighbors":
            return np.arange(len(counts))
        return np.sort(np.argsort(counts, kind="stable")[: len(counts) // 3])

    def _toward(self, features: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> Toward:
        """Return the classes that move and their centers."""
        return centers_of(
            self.center,
            features,
            labels,
            len(counts),
            self._wanted(counts),
            donors_only=True,
            clusters=self._clusters(features) if self.center == "debiased" else None,
            head=np.argsort(-counts, kind="stable")[: max(1, len(counts) // 3)].tolist(),
            seed=self.random_state,
        )

    def _clusters(self, features: np.ndarray) -> Clustering:
        assignments, centers, _, _ = cluster_features(
            features,
            n_clusters=self.n_clusters,
            rho=self.rho,
            space=self.space,
            n_init=self.n_init,
            seed=self.random_state,
        )
        return assignments, centers

    def _alpha(self, features: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        self.kappa_ = float("nan")
        if self.alpha in ("imbalance", "kappa"):
            alpha, self.kappa_ = alpha_of(
                self.alpha,
                features,
                labels,
                len(counts),
                numerator=self.numerator,
                seed=self.random_state,
            )
            return alpha
        if isinstance(self.alpha, str):
            raise ValueError(f"alpha must be 'imbalance', 'kappa' or a number, got {self.alpha!r}")
        return np.full(len(counts), float(self.alpha))


def _checked_labels(y: Shaped[np.ndarray, " n"] | Sequence[Any]) -> Shaped[np.ndarray, " n"]:
    """Return labels that can be told apart and sorted; NumPy would turn a mixed list into text in silence."""
    values = np.asarray(y)
    if values.ndim != 1:
        raise ValueError(f"y must be a vector with one label per row, got shape {values.shape}")
    raw = np.array(y, dtype=object) if values.dtype.kind in "OUS" else values
    missing = [row for row, value in enumerate(raw) if value is None or bool(value != value)]
    if missing:
        raise ValueError(
            f"the label of row {missing[0]} is missing ({raw[missing[0]]!r}); drop rows without one"
        )
    if raw.dtype == object:
        kinds = {_kind(value): row for row, value in reversed(list(enumerate(raw)))}
        if len(kinds) > 1:
            (one, first), (other, second) = sorted(kinds.items(), key=lambda item: item[1])[:2]
            raise ValueError(
                f"labels mix types: row {first} is {one}, row {second} is {other}; convert y to one type, "
                "for example to text"
            )
    return values


def _kind(value: object) -> str:
    """Name the type of a label; all kinds of numbers count as one."""
    return "a number" if isinstance(value, (numbers.Number, np.bool_)) else type(value).__name__
