"""Linear probe: multinomial logistic regression by L-BFGS, with or without the class prior in the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from deblora.debias.spaces import unit_rows
from deblora.errors import DataError
from deblora.evaluate.metrics import check_labels, macro_f1
from deblora.evaluate.softmax import Rotated, fit_cross_entropy

Loss = Literal["cross_entropy", "balanced_softmax"]

MEAN_SQUARED_NORM = 50.0
"""Mean squared norm after scaling (ours): fixes what one value of ``l2`` means, whatever the backbone."""

L2_GRID = tuple(float(10.0**step) for step in range(-4, 1))
"""1e-4 to 1 in decades (ours): balanced softmax wants about 1e-2, plain cross-entropy as little as there is; below
1e-4 the fit takes thousands of iterations, and a fit cut short depends on rounding."""

SELECTION_TOLERANCE = 1e-7
"""Relative decrease of the loss at which a probe of the grid stops (ours); the chosen one is then finished."""

FINAL_TOLERANCE = 1e-12
"""The same for the probe that is reported (ours)."""

MAX_ITER = 2000
"""Iterations of L-BFGS (ours); reaching them is logged."""

TAU_GRID = tuple(step / 4 for step in range(13))
"""0 to 3 in quarters (ours); 0 is the plain probe, 1 the shift that balanced softmax trains with."""


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier on features.

    ``logits(x) = scale (u(x) - mean) W + b``; ``u`` divides each feature by its norm if ``l2_normalize``.
    """

    weights: Float[np.ndarray, "d c"]
    bias: Float[np.ndarray, " c"]
    mean: Float[np.ndarray, " d"]
    scale: float
    l2_normalize: bool

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return len(self.mean)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return raw logits; neither loss adds a prior at prediction.

        Raises:
            ValueError: If the feature size is not the one of the fit.
        """
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"features have shape {x.shape}, the probe was fitted on size {len(self.mean)}")
        standardized = standardize(x, self.mean, self.scale, self.l2_normalize)
        return np.asarray(standardized @ self.weights + self.bias)


def log_prior(y: Int[np.ndarray, " n"], n_classes: int) -> Float[np.ndarray, " c"]:
    """Return ``log(n_c / n)`` of the training labels.

    Raises:
        ValueError: If a class has no sample, since its log prior would be minus infinity.
    """
    check_labels(y, n_classes, name="y")
    counts = np.bincount(y, minlength=n_classes)
    if not counts.all():
        empty = np.flatnonzero(counts == 0).tolist()
        raise ValueError(f"classes {empty} have no training sample, their log prior is not finite")
    return np.asarray(np.log(counts / counts.sum()))


@dataclass(frozen=True)
class ProbeFits:
    """Samples that are prepared once for fits at any number of penalties.

    Attributes:
        rotated: Standardized features on their principal axes.
        y: Their classes.
        offset: Added to the logits while fitting.
        mean: Of the features that standardize.
        scale: Likewise.
        l2_normalize: Whether features are divided by their norm first.
    """

    rotated: Rotated
    y: Int[np.ndarray, " n"]
    offset: Float[np.ndarray, " c"]
    mean: Float[np.ndarray, " d"]
    scale: float
    l2_normalize: bool

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "n d"],
        y: Int[np.ndarray, " n"],
        n_classes: int,
        *,
        loss: Loss,
        statistics_of: Float[np.ndarray, "m d"] | None = None,
        l2_normalize: bool = True,
    ) -> "ProbeFits":
        """Check, standardize and rotate samples; arguments and errors are those of :func:`fit_probe`."""
        _check_samples(x, y, n_classes, loss)
        offset = log_prior(y, n_classes) if loss == "balanced_softmax" else np.zeros(n_classes)
        mean, scale = feature_statistics(x if statistics_of is None else statistics_of, l2_normalize)
        if len(mean) != x.shape[1]:
            raise ValueError(f"statistics_of has feature size {len(mean)}, x has {x.shape[1]}")
        rotated = Rotated.of(standardize(x, mean, scale, l2_normalize), _equal(len(y)))
        return cls(rotated, y, offset, mean, scale, l2_normalize)

    def fit(
        self,
        l2: float,
        *,
        start: Probe | None = None,
        max_iter: int = MAX_ITER,
        tolerance: float = FINAL_TOLERANCE,
    ) -> Probe:
        """Fit at one penalty; see :func:`fit_probe`."""
        _check_penalty(l2)
        fitted = fit_cross_entropy(
            self.rotated,
            self.y,
            _equal(len(self.y)),
            self.offset,
            l2,
            _initial(start, (len(self.mean) + 1, len(self.offset))),
            max_iter=max_iter,
            tolerance=tolerance,
            name=f"the probe with l2={l2:g}",
        )
        return Probe(fitted[:-1].copy(), fitted[-1].copy(), self.mean, self.scale, self.l2_normalize)


def fit_probe(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    loss: Loss,
    l2: float,
    statistics_of: Float[np.ndarray, "m d"] | None = None,
    l2_normalize: bool = True,
    start: Probe | None = None,
    max_iter: int = MAX_ITER,
    tolerance: float = FINAL_TOLERANCE,
) -> Probe:
    """Minimize ``mean CE(x W + b + offset, y) + l2 / 2 ||W||^2`` with a free bias, in float64.

    ``offset`` is 0 for ``cross_entropy``, the log prior of ``y`` for ``balanced_softmax`` (Ren et al. 2020).

    Args:
        x: Training features, calibrated or not.
        y: Their classes.
        n_classes: Number of classes, including those absent from ``y``.
        loss: ``cross_entropy`` or ``balanced_softmax``.
        l2: Weight of the penalty, > 0.
        statistics_of: Features whose mean and scatter standardize all others; the uncalibrated training
            features when ``x`` is calibrated. ``x`` itself when None.
        l2_normalize: Whether features are divided by their norm first (ours).
        start: Weights and bias to start from, zero when None; changes the path, not the optimum.
        max_iter: Iterations of L-BFGS (ours); reaching them is logged.
        tolerance: Relative decrease of the loss at which L-BFGS stops.

    Raises:
        ValueError: If shapes or labels do not fit, ``l2`` is not positive, the loss is unknown, or a class
            has no sample under ``balanced_softmax``.
        DataError: If features are not finite or are all the same.
    """
    _check_penalty(l2)
    fits = ProbeFits.of(x, y, n_classes, loss=loss, statistics_of=statistics_of, l2_normalize=l2_normalize)
    return fits.fit(l2, start=start, max_iter=max_iter, tolerance=tolerance)


def select_probe(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    x_val: Float[np.ndarray, "v d"],
    y_val: Int[np.ndarray, " v"],
    n_classes: int,
    *,
    loss: Loss,
    l2_grid: Sequence[float] = L2_GRID,
    statistics_of: Float[np.ndarray, "m d"] | None = None,
    l2_normalize: bool = True,
) -> tuple[Probe, dict[str, float]]:
    """Fit a probe per ``l2`` and keep the one with the best validation macro F1; the larger ``l2`` wins ties.

    Args:
        x: Training features.
        y: Their classes.
        x_val: Validation features; never the ones a result is reported on.
        y_val: Their classes.
        n_classes: Number of classes.
        loss: See :func:`fit_probe`.
        l2_grid: Penalties to try, each fit starting from the next larger one.
        statistics_of: See :func:`fit_probe`.
        l2_normalize: See :func:`fit_probe`.

    Returns:
        The probe, and a record: the chosen ``l2``, its ``macro_f1``, and ``macro_f1_at_<l2>`` per grid point.

    Raises:
        ValueError: If the grid is empty, or as :func:`fit_probe`.
        DataError: If there is no validation sample, or as :func:`fit_probe`.
    """
    if not len(l2_grid):
        raise ValueError(f"l2_grid is empty: {l2_grid!r}")
    if not len(y_val):
        raise DataError("the validation set is empty, so no penalty can be chosen; give it at least one chip")
    _check_penalty(min(l2_grid))
    fits = ProbeFits.of(x, y, n_classes, loss=loss, statistics_of=statistics_of, l2_normalize=l2_normalize)
    scored: list[tuple[float, float, Probe]] = []
    probe: Probe | None = None
    for l2 in sorted(l2_grid, reverse=True):
        probe = fits.fit(l2, start=probe, tolerance=SELECTION_TOLERANCE)
        score = macro_f1(y_val, probe.logits(x_val).argmax(axis=1), n_classes)
        scored.append((score, float(l2), probe))
    best_score, best_l2, nearly = max(scored, key=lambda entry: entry[:2])
    per_point = {f"macro_f1_at_{l2:g}": score for score, l2, _ in scored}
    return fits.fit(best_l2, start=nearly), {"l2": best_l2, "macro_f1": best_score, **per_point}


def adjust_logits(
    logits: Float[np.ndarray, "n c"], log_prior: Float[np.ndarray, " c"], tau: float
) -> Float[np.ndarray, "n c"]:
    """Return ``logits - tau log_prior``: post-hoc logit adjustment (Menon et al. 2021)."""
    return logits - tau * log_prior


def select_tau(
    logits_val: Float[np.ndarray, "v c"],
    y_val: Int[np.ndarray, " v"],
    log_prior: Float[np.ndarray, " c"],
    *,
    grid: Sequence[float] = TAU_GRID,
) -> float:
    """Return the ``tau`` with the best validation macro F1 of adjusted logits; the smaller one wins ties.

    Raises:
        ValueError: If the grid or the validation set is empty.
    """
    if not len(grid) or not len(y_val):
        raise ValueError(f"tau needs candidates and samples, got {len(grid)} and {len(y_val)}")
    n_classes = logits_val.shape[1]

    def score(tau: float) -> float:
        return macro_f1(y_val, adjust_logits(logits_val, log_prior, tau).argmax(axis=1), n_classes)

    return float(max(sorted(grid), key=score))


def standardize(
    x: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"], scale: float, l2_normalize: bool
) -> Float[np.ndarray, "n d"]:
    """Return ``scale (u(x) - mean)`` in float64; ``u`` divides each row by its norm if ``l2_normalize``."""
    precise = x.astype(np.float64)
    return np.asarray(scale * ((unit_rows(precise) if l2_normalize else precise) - mean))


def feature_statistics(
    x: Float[np.ndarray, "m d"], l2_normalize: bool
) -> tuple[Float[np.ndarray, " d"], float]:
    """Return the mean and the scale with which :func:`standardize` gives mean squared norm 50.

    Raises:
        ValueError: If there is no feature.
        DataError: If features are not finite or are all the same.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"statistics need features of shape (samples, size), got {x.shape}")
    if not np.isfinite(x).all():
        raise DataError("the features for mean and scale hold values that are not finite; extract them again")
    precise = x.astype(np.float64)
    prepared = unit_rows(precise) if l2_normalize else precise
    mean = prepared.mean(axis=0)
    scatter = float(np.mean(np.sum((prepared - mean) ** 2, axis=1)))
    if scatter <= 1e-24 * float(mean @ mean):
        raise DataError(
            "all features are the same, nothing can be classified; check the chips and the backbone"
        )
    return mean, float(np.sqrt(MEAN_SQUARED_NORM / scatter))


def _initial(start: Probe | None, shape: tuple[int, int]) -> Float[np.ndarray, "e c"]:
    if start is None:
        return np.zeros(shape)
    stacked = np.vstack([start.weights, start.bias])
    if stacked.shape != shape:
        raise ValueError(f"start has weights and bias of shape {stacked.shape}, expected {shape}")
    return stacked


def _equal(n: int) -> Float[np.ndarray, " n"]:
    return np.full(n, 1 / n)


def _check_penalty(l2: float) -> None:
    if not l2 > 0:
        raise ValueError(f"l2 must be positive, got {l2}")


def _check_samples(x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, loss: str) -> None:
    check_labels(y, n_classes, name="y")
    if x.ndim != 2 or len(x) != len(y) or not len(y):
        raise ValueError(f"x has shape {x.shape}, y has {len(y)} labels")
    if not np.isfinite(x).all():
        raise DataError("the training features hold values that are not finite; extract them again")
    if loss not in ("cross_entropy", "balanced_softmax"):
        raise ValueError(f"loss must be cross_entropy or balanced_softmax, got {loss!r}")
