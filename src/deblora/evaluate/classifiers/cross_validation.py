"""Balanced softmax that needs no validation chip: penalty and temperature by cross-validation on the labeled chips.

Choosing among many settings on a handful of validation chips is worse than not choosing. Here every labeled chip
judges, once, a classifier that was fitted without it, and what is compared is the Brier score, which moves smoothly
where macro F1 jumps. It is balanced over classes, as macro F1 is, and freed of the scale of the logits, which a penalty
changes too. With it the penalty came within 1.0 points of the best one for the test chips of AID and MSTAR; by
likelihood up to 3.8 (128 numbers a chip), by accuracy up to 2.7 points (1,280) were lost (docs/log.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from deblora.errors import DataError
from deblora.evaluate.classifiers.linear import LARGE, Linear, LinearFits, log_prior
from deblora.evaluate.metrics import check_labels

N_FOLDS = 5
"""As is usual; ten folds chose the same penalties on AID and MSTAR (ours)."""

PENALTIES = (1e-1, 5e-2, 2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 1e-5)
"""Largest first, so that the larger one wins ties. The best ones on test chips of AID (1,280 numbers a chip) and MSTAR
(128) lie well inside (ours)."""

COARSER = 3
"""Of the penalties for large problems, this many to a step (ours)."""

PATIENCE = 3
"""Penalties in a row that are worse than the best one, after which smaller ones are not tried (ours)."""

TOLERANCE = 1e-6
"""Relative decrease of the loss at which the fits of the folds stop; the last fit is exact (ours)."""

LOG_TEMPERATURES = (np.log(1 / 20), np.log(20))
"""Range of the temperature (ours)."""

ALWAYS_TRAINS = -1


@dataclass(frozen=True)
class CrossValidated:
    """A classifier fitted to all samples, and what its folds say about new ones.

    Attributes:
        classifier: Balanced softmax at the chosen penalty.
        l2: Penalty with the least Brier score.
        temperature: Of the held-out logits at that penalty.
        score: Class-balanced Brier score of held-out samples at that temperature, in [0, 2].
        held_out: Held-out logits at that penalty; NaN for samples in no fold.
    """

    classifier: Linear
    l2: float
    temperature: float
    score: float
    held_out: Float[np.ndarray, "n c"]


def fit_cross_validated(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    rng: np.random.Generator,
    units: Sequence[str] = (),
    penalties: Sequence[float] = PENALTIES,
    n_folds: int = N_FOLDS,
) -> CrossValidated:
    """Fit balanced softmax with the penalty whose held-out Brier score is least, at the temperature of each.

    Of large problems (``linear.LARGE``) one of the folds is judged, at every third penalty unless others are given.

    Args:
        x: Features of labeled samples, not moved.
        y: Their classes.
        n_classes: Number of classes, each with a sample.
        rng: Source of the folds.
        units: Scene, image or flight of each sample, never parted by a fold; none draws single samples.
        penalties: To try, largest first; on ties the first wins.
        n_folds: At least 2.

    Raises:
        DataError: If no class has samples for two folds, a class has none, or features are not finite or all alike.
        ValueError: If shapes or labels do not fit.
    """
    fold = draw_folds(y, n_folds=n_folds, rng=rng, units=units)
    is_large = x.size * n_classes >= LARGE
    if is_large:  # so many samples of so many classes are judged well by one fold
        fold[fold != fold.max()] = ALWAYS_TRAINS
        penalties = penalties[::COARSER] if penalties is PENALTIES else penalties
    judged = fold != ALWAYS_TRAINS
    parts = [_Part.of(x, y, n_classes, fold == number) for number in np.unique(fold[judged])]
    found: list[tuple[float, float]] = []
    best, held_out = 0, np.full((len(y), n_classes), np.nan)
    for k, l2 in enumerate(penalties):
        logits = np.full_like(held_out, np.nan)
        for part in parts:
            logits[part.held] = part.logits(l2)
        found.append(calibrated_score(logits[judged], y[judged]))
        if found[k][1] < found[best][1] or k == 0:
            best, held_out = k, logits
        if k - best == PATIENCE:
            break
    temperature, score = found[best]
    start = parts[0].last if is_large else None
    fitted = LinearFits.of(x, y, n_classes).fit(penalties[best], start=start)
    fitted = fitted.adjusted(log_prior(y, n_classes))
    return CrossValidated(fitted, penalties[best], temperature, score, held_out)


@dataclass
class _Part:
    """What a fold trains on, what it holds out, and its last fit, from which the next one starts."""

    fits: LinearFits
    log_prior: Float[np.ndarray, " c"]
    held: Int[np.ndarray, " k"]
    x_held: Float[np.ndarray, "k d"]
    last: Linear | None = None

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "n d"],
        y: Int[np.ndarray, " n"],
        n_classes: int,
        is_held: Bool[np.ndarray, " n"],
    ) -> "_Part":
        fits = LinearFits.of(x[~is_held], y[~is_held], n_classes)
        return cls(fits, log_prior(y[~is_held], n_classes), np.flatnonzero(is_held), x[is_held])

    def logits(self, l2: float) -> Float[np.ndarray, "k c"]:
        """Return the logits of the samples held out at a penalty."""
        self.last = self.fits.fit(l2, start=self.last, tolerance=TOLERANCE)
        return self.last.adjusted(self.log_prior).logits(self.x_held)


def class_balanced_loss(logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
    """Return the mean over classes of the mean of ``-log softmax(g)_y``, in nats; only classes with samples count.

    Raises:
        ValueError: If there is no sample or a label is out of range.
    """
    check_labels(y, logits.shape[1], name="y")
    if not len(y):
        raise ValueError("a loss needs a sample")
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    counts = np.bincount(y)
    return float((np.bincount(y, weights=losses)[counts > 0] / counts[counts > 0]).mean())


def class_balanced_brier(logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
    """Return the mean over classes of the mean of ``sum_k (p_k - [k = y])^2``, in [0, 2] (Brier 1950).

    Raises:
        ValueError: As :func:`class_balanced_loss`.
    """
    check_labels(y, logits.shape[1], name="y")
    if not len(y):
        raise ValueError("a score needs a sample")
    gaps = softmax(logits, axis=1)
    gaps[np.arange(len(y)), y] -= 1
    counts = np.bincount(y)
    return float((np.bincount(y, weights=(gaps**2).sum(axis=1))[counts > 0] / counts[counts > 0]).mean())


def calibrated_score(logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the temperature of logits of held-out samples, and their class-balanced Brier score at it."""
    temperature = fit_temperature(logits, y)
    return temperature, class_balanced_brier(logits / temperature, y)


def fit_temperature(logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]) -> float:
    """Return the temperature ``T`` with the least class-balanced loss of ``g / T``.

    The loss is convex in ``1 / T``, so a bounded search over ``log T`` finds the one minimum.

    Args:
        logits: Of samples that the classifier was not fitted to.
        y: Their classes.

    Raises:
        ValueError: As :func:`class_balanced_loss`.
    """
    found = minimize_scalar(
        lambda log_t: class_balanced_loss(logits / np.exp(log_t), y),
        bounds=LOG_TEMPERATURES,
        method="bounded",
    )
    return float(np.exp(found.x))


def expected_calibration_error(
    logits: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"], *, n_bins: int = 15
) -> float:
    """Return ``sum_b n_b / n |accuracy_b - confidence_b|`` over bins of equal width, in [0, 1] (Guo et al. 2017).

    Args:
        logits: One row per sample; the confidence is the largest probability.
        y: True classes.
        n_bins: Bins of the confidence; 15 as there.

    Raises:
        ValueError: If there is no sample or a label is out of range.
    """
    check_labels(y, logits.shape[1], name="y")
    if not len(y):
        raise ValueError("a calibration error needs a sample")
    confidence = np.exp(logits.max(axis=1) - logsumexp(logits, axis=1))
    hit = logits.argmax(axis=1) == y
    bins = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    gaps = np.bincount(bins, weights=hit.astype(np.float64) - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(y))


def draw_folds(
    y: Int[np.ndarray, " n"], *, n_folds: int, rng: np.random.Generator, units: Sequence[str] = ()
) -> Int[np.ndarray, " n"]:
    """Return the fold of each sample, classes spread evenly; -1 for samples that every fold trains on.

    A class needs samples of two units to be judged: one of them would otherwise be missing from training. Samples of
    other classes, and what shares their units, always train.

    Raises:
        DataError: If no class can be judged.
        ValueError: If there are fewer than two folds or units do not fit.
    """
    if n_folds < 2 or (units and len(units) != len(y)):
        raise ValueError(f"need two folds and a unit per sample, got {n_folds} and {len(units)} for {len(y)}")
    unit = np.unique(np.asarray(units), return_inverse=True)[1] if units else np.arange(len(y))
    kept = _units_of_single_unit_classes(y, unit)
    free = ~np.isin(unit, kept)
    fold = np.full(len(y), ALWAYS_TRAINS)
    n_used = 0
    for c in np.argsort(np.bincount(y), kind="stable"):  # the rarest first: its units are the fewest
        own = rng.permutation(np.unique(unit[(y == c) & free & (fold == ALWAYS_TRAINS)]))
        start = rng.integers(n_folds)
        held = np.bincount(fold[(y == c) & (fold != ALWAYS_TRAINS)], minlength=n_folds)
        order = np.lexsort(((np.arange(n_folds) - start) % n_folds, held))
        drawn = np.full(int(unit.max()) + 1, ALWAYS_TRAINS)
        drawn[own] = order[np.arange(len(own)) % n_folds]
        fold = np.where(drawn[unit] != ALWAYS_TRAINS, drawn[unit], fold)
        n_used += len(own)
    fold = _with_every_class_in_training(y, fold)
    if len(np.unique(fold[fold != ALWAYS_TRAINS])) < 1:
        raise DataError(
            "no class has two labeled chips of different images, so nothing can be cross-validated; label some more"
        )
    return fold


def _units_of_single_unit_classes(
    y: Int[np.ndarray, " n"], unit: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " k"]:
    """Return the units that are the only one of some class."""
    pairs = np.unique(np.stack([y, unit], axis=1), axis=0)
    single = np.flatnonzero(np.bincount(pairs[:, 0]) == 1)
    return np.asarray(pairs[np.isin(pairs[:, 0], single), 1])


def _with_every_class_in_training(
    y: Int[np.ndarray, " n"], fold: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Return the folds without those samples of a fold whose class it holds completely."""
    n_class = np.bincount(y)
    for number in np.unique(fold[fold != ALWAYS_TRAINS]):
        own = np.bincount(y[fold == number], minlength=len(n_class))
        whole = np.flatnonzero((own == n_class) & (own > 0))
        fold = np.where((fold == number) & np.isin(y, whole), ALWAYS_TRAINS, fold)
    return fold
