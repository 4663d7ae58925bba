"""Gaussians with one covariance, completed by features without labels: semi-supervised or transductive.

An adapter collapses its own training features, so they say too little about how far a class spreads, and the mean of
three samples says too little about where it lies. Features of chips that the adapter was not trained on know both,
and need no label for it. EM for a mixture with labeled and unlabeled samples is that of Nigam et al. (2000, Machine
Learning 39); the share of each class is kept by Sinkhorn scaling (arXiv 1306.0895).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp

from deblora.debias.centers import class_means
from deblora.errors import DataError
from deblora.evaluate.classifiers.classifier import Standardizer, checked_counts
from deblora.evaluate.classifiers.linear import Linear, LinearFits, fit_linear, log_prior
from deblora.evaluate.classifiers.search import Chosen, Samples, try_two
from deblora.evaluate.metrics import macro_f1

START_L2 = 1e-2
"""Penalty of the balanced-softmax probe that makes the first guess (ours)."""
N_DIMENSIONS = 300
"""Principal directions that are kept, for speed (ours)."""


@dataclass(frozen=True)
class Start:
    """What all fits to the same features share: standardized and projected features, and the first guess."""

    standardizer: Standardizer
    projection: Float[np.ndarray, "d e"]
    z: Float[np.ndarray, "n e"]
    y: Int[np.ndarray, " n"]
    u: Float[np.ndarray, "m e"]
    guess: Float[np.ndarray, "m c"]

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "n d"],
        y: Int[np.ndarray, " n"],
        n_classes: int,
        unlabeled: Float[np.ndarray, "m d"],
        *,
        sizes: Sequence[int] | None = None,
    ) -> "Start":
        """Standardize, project to at most 300 principal directions, and guess by a balanced-softmax probe.

        Args:
            x: Training features.
            y: Their classes.
            n_classes: Number of classes, each with a training sample.
            unlabeled: Features that the adapter was not trained on. Validation features make the classifier
                semi-supervised, the features it is to classify make it transductive: say so where you report it.
            sizes: Columns of each kind of features put side by side, each standardized by itself; one kind when None.

        Raises:
            DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
            ValueError: If shapes or labels do not fit.
        """
        checked_counts(x, y, n_classes)
        if unlabeled.ndim != 2 or unlabeled.shape[1] != x.shape[1]:
            raise ValueError(f"unlabeled has shape {unlabeled.shape}, x has feature size {x.shape[1]}")
        if not len(unlabeled):
            raise DataError("there is no unlabeled feature; give the classifier validation or test features")
        if not np.isfinite(unlabeled).all():
            raise DataError("the unlabeled features hold values that are not finite; extract them again")
        standardizer = Standardizer.fit(x, sizes)
        z, u = standardizer(x), standardizer(unlabeled)
        projection = _principal(np.vstack([z, u]), N_DIMENSIONS)
        z, u = z @ projection, u @ projection
        fits = LinearFits.of(z, y, n_classes, standardizer=Standardizer.fit(z, ()))
        probe = fits.fit(START_L2, tolerance=1e-6).adjusted(log_prior(y, n_classes))
        return cls(standardizer, projection, z, y, u, probe.logits(u))


def fit_shared_gaussians(
    start: Start,
    *,
    shares: Float[np.ndarray, " c"] | None = None,
    shrinkage: float = 0.03,
    trust: float = 3.0,
    temperature: float = 2.0,
    n_rounds: int = 8,
) -> Linear:
    """Fit class means and one covariance to labeled and unlabeled features by EM.

    The logits are ``-||(z - m_c) T||^2 / (2 temperature)`` with ``T T'`` the inverse of the covariance, less what all
    classes share, and so linear in ``z``; no class is favored by its count.

    With the responsibilities ``r_uc`` of the unlabeled samples, in the first round those of the probe::

        m_c = (trust n_c mean_c + sum_u r_uc u) / (trust n_c + sum_u r_uc)
        S   = scatter of labeled and unlabeled samples about their means / (n + m)
        T   = (S + shrinkage v I)^(-1/2),   v = mean variance of a dimension

    In each round the responsibilities are scaled until class ``c`` owns the share ``shares[c]`` of the samples.

    Args:
        start: Features and first guess.
        shares: Share of each class among the unlabeled samples, positive, summing to 1; all equal when None, which
            is what every prior-corrected classifier assumes of a test set.
        shrinkage: Ridge of the covariance, > 0 (ours: 0.03).
        trust: Unlabeled samples that a labeled one counts for in the means, > 0 (ours: 3).
        temperature: Above 1, responsibilities are softer than those of Gaussians, > 0 (ours: 2). At prediction it
            changes the size of logits, not their order.
        n_rounds: Rounds of EM, >= 0; with 0 no unlabeled sample has a say (ours: 8).

    Raises:
        ValueError: If a setting is out of range or the shares do not fit the classes.
    """
    for name, value in (("shrinkage", shrinkage), ("trust", trust), ("temperature", temperature)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value}")
    if n_rounds < 0:
        raise ValueError(f"n_rounds must be at least 0, got {n_rounds}")
    z, y, u, n_classes = start.z, start.y, start.u, start.guess.shape[1]
    wanted = np.full(n_classes, 1.0 / n_classes) if shares is None else np.asarray(shares, dtype=np.float64)
    if wanted.shape != (n_classes,) or not (wanted > 0).all() or not np.isclose(wanted.sum(), 1):
        raise ValueError(f"shares must be {n_classes} positive numbers that sum to 1, got {wanted.tolist()}")
    ridge = shrinkage * float(np.vstack([z, u]).var(axis=0).mean())
    one_hot = np.eye(n_classes)[y]
    labeled = class_means(z, y, n_classes)
    anchor = trust * one_hot.sum(axis=0)[:, None]
    means = labeled
    whitening = _whitening(_scatter(z, one_hot, means) / max(1, len(z) - n_classes), ridge)
    for step in range(n_rounds):
        if step == 0:
            guess = start.guess
        else:
            weights, bias = _discriminants(means, whitening, temperature)
            guess = u @ weights + bias
        owned = scaled_to_shares(log_softmax(guess, axis=1), wanted)
        means = (anchor * labeled + owned.T @ u) / (anchor + owned.sum(axis=0)[:, None])
        inside = _scatter(z, one_hot, means) + _scatter(u, owned, means)
        whitening = _whitening(inside / (len(z) + len(u)), ridge)
    weights, bias = _discriminants(means, whitening, temperature)
    return Linear(start.standardizer, start.projection @ weights, bias)


def scaled_to_shares(
    log_probabilities: Float[np.ndarray, "m c"], shares: Float[np.ndarray, " c"], *, n_iterations: int = 20
) -> Float[np.ndarray, "m c"]:
    """Scale columns and rows in turn (Sinkhorn) toward columns that sum to ``m shares``; rows sum to 1.

    Args:
        log_probabilities: Of each class, by sample.
        shares: Of each class, positive, summing to 1.
        n_iterations: Of both scalings (ours).
    """
    wanted = np.log(shares * len(log_probabilities))
    scaled = log_probabilities
    for _ in range(n_iterations):
        scaled = scaled - logsumexp(scaled, axis=0, keepdims=True) + wanted
        scaled = scaled - logsumexp(scaled, axis=1, keepdims=True)
    return np.asarray(np.exp(scaled))


def _discriminants(
    means: Float[np.ndarray, "c e"], whitening: Float[np.ndarray, "e e"], temperature: float
) -> tuple[Float[np.ndarray, "e c"], Float[np.ndarray, " c"]]:
    """Return weights and bias of ``-||(z - m_c) T||^2 / (2 temperature)`` without the part all classes share."""
    centers = means @ whitening
    return whitening @ centers.T / temperature, -0.5 * np.sum(centers**2, axis=1) / temperature


def _scatter(
    z: Float[np.ndarray, "n e"], owned: Float[np.ndarray, "n c"], means: Float[np.ndarray, "c e"]
) -> Float[np.ndarray, "e e"]:
    """Return ``sum_ic r_ic (z_i - m_c)(z_i - m_c)'`` without a table of all differences."""
    mixed = (owned.T @ z).T @ means
    own, outer = (z.T * owned.sum(axis=1)) @ z, (means.T * owned.sum(axis=0)) @ means
    return np.asarray(own - mixed - mixed.T + outer)


def _whitening(covariance: Float[np.ndarray, "e e"], ridge: float) -> Float[np.ndarray, "e e"]:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray(vectors / np.sqrt(np.maximum(values, 0.0) + ridge))


def _principal(z: Float[np.ndarray, "n d"], n_dimensions: int) -> Float[np.ndarray, "d e"]:
    """Return the directions of most energy, by the smaller of the two Gram matrices."""
    n, d = z.shape
    if d <= n_dimensions:
        return np.eye(d)
    if d <= n:
        return np.ascontiguousarray(np.linalg.eigh(z.T @ z)[1][:, -n_dimensions:])
    values, vectors = np.linalg.eigh(z @ z.T)
    kept = values > 1e-10 * values[-1]
    kept[:-n_dimensions] = False
    return np.asarray(z.T @ (vectors[:, kept] / np.sqrt(values[kept])))


SHRINKAGES = (0.3, 0.1, 0.03, 0.01)
TEMPERATURES = (2.0, 1.0, 4.0, 8.0, 16.0)
N_FOLDS = 5
"""With two, the fits see half of the chips, and a classifier that gains is too often refused (ours, docs/log.md)."""
ENOUGH = 10
"""Unlabeled chips of each class from which on it gained on our real data; with five of each it lost (ours)."""


def n_short(y_val: Int[np.ndarray, " v"], n_classes: int) -> int:
    """Return how many classes have fewer than ``ENOUGH`` validation chips; their validation score says little."""
    return int((np.bincount(y_val, minlength=n_classes) < ENOUGH).sum())


def fit_semi_supervised(samples: Samples, *, sizes: Sequence[int] | None = None) -> Chosen:
    """Fit with validation features as the unlabeled ones; their labels choose shrinkage and temperature.

    The shares of the classes are those of the validation set, which are known. No test feature is seen. ``macro_f1``
    of the record is measured on the very chips whose features were fitted; ``held_out_macro_f1`` is not, and is what
    other classifiers may be compared with.

    Args:
        samples: What to fit and choose on.
        sizes: Columns of each kind of features, see :meth:`Start.of`.

    Raises:
        DataError: If a class has no sample, there is no validation sample, or features are not finite or all alike.
        ValueError: If shapes or labels do not fit.
    """
    start = Start.of(samples.x, samples.y, samples.n_classes, samples.x_val, sizes=sizes)
    shares = _shares(samples.y_val, samples.n_classes)

    def fit(shrinkage: float, temperature: float) -> Linear:
        return fit_shared_gaussians(start, shares=shares, shrinkage=shrinkage, temperature=temperature)

    chosen = try_two(samples, "temperature", TEMPERATURES, fit, first=("shrinkage", SHRINKAGES))
    unseen = held_out_predictions(
        samples,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
        sizes=sizes,
    )
    score = macro_f1(samples.y_val, unseen, samples.n_classes)
    return Chosen(chosen.classifier, {**chosen.record, "held_out_macro_f1": score})


def held_out_predictions(
    samples: Samples, *, shrinkage: float, temperature: float, sizes: Sequence[int] | None = None
) -> Int[np.ndarray, " v"]:
    """Predict each fifth of the validation chips by a classifier that saw the other four without labels.

    Their score is on the low side: fewer chips help less than all of them. Class 0 if there are not two chips.

    Args:
        samples: What to fit and score on; its seed draws the folds, class by class.
        shrinkage: See :func:`fit_shared_gaussians`.
        temperature: Likewise.
        sizes: Columns of each kind of features.

    Raises:
        DataError: If a class has no training sample, or features are not finite or all the same.
        ValueError: If shapes, labels or settings do not fit.
    """
    y_val = samples.y_val
    predicted = np.zeros(len(y_val), dtype=np.int64)
    if len(y_val) < 2:
        return predicted
    fold = _folds(y_val, min(N_FOLDS, len(y_val)), np.random.default_rng(samples.seed))
    for kept in (fold == k for k in range(fold.max() + 1)):
        start = Start.of(samples.x, samples.y, samples.n_classes, samples.x_val[~kept], sizes=sizes)
        classifier = fit_shared_gaussians(
            start,
            shares=_shares(y_val[~kept], samples.n_classes),
            shrinkage=shrinkage,
            temperature=temperature,
        )
        predicted[kept] = classifier.logits(samples.x_val[kept]).argmax(axis=1)
    return predicted


def _folds(y: Int[np.ndarray, " m"], n_folds: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """Deal the samples of each class in turn to the folds, in random order."""
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), dtype=np.int64)
    fold[order] = np.arange(len(y)) % n_folds
    return fold


def _shares(y: Int[np.ndarray, " m"], n_classes: int) -> Float[np.ndarray, " c"]:
    """Return the share of each class; one that is absent counts as half a chip, for no share may be 0."""
    seen = np.maximum(np.bincount(y, minlength=n_classes), 0.5)
    return np.asarray(seen / seen.sum())


def fit_transductive(
    samples: Samples,
    chosen: Chosen,
    unlabeled: Float[np.ndarray, "m d"],
    *,
    sizes: Sequence[int] | None = None,
) -> Chosen:
    """Fit again with the features that are to be classified as the unlabeled ones, classes equally frequent.

    Args:
        samples: What to fit on.
        chosen: Result of :func:`fit_semi_supervised`, whose settings are taken over.
        unlabeled: Test features; their labels are not known here.
        sizes: As there.

    Raises:
        DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    start = Start.of(samples.x, samples.y, samples.n_classes, unlabeled, sizes=sizes)
    classifier = fit_shared_gaussians(
        start,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
    )
    return Chosen(classifier, chosen.record)


TEACHER_SHRINKAGE, TEACHER_TEMPERATURE, SHARPENING = 0.1, 4.0, 2.0
"""Fixed, for a choice on validation would let its labels reach the adapter (ours, docs/log.md)."""


def soft_labels(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    unlabeled: Float[np.ndarray, "m d"],
    *,
    adapted_size: int,
) -> Float[np.ndarray, "m c"]:
    """Return the probability of each class for each unlabeled feature; every class owns the same share of them.

    Shared Gaussians are fitted by EM twice, to the adapted features alone and to all columns. With the mean ``l`` of
    their logits, the result is ``Sinkhorn(softmax(2 l))`` with columns that sum to ``m / c``.

    Args:
        x: Training features, adapted ones first, those of the base model beside them.
        y: Their classes.
        n_classes: Number of classes, each with a training sample.
        unlabeled: Features of chips that the adapter was not trained on, the same columns.
        adapted_size: Columns of adapted features, 1 to ``d - 1``.

    Raises:
        DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    if not 0 < adapted_size < x.shape[1]:
        raise ValueError(f"adapted_size must be 1 to {x.shape[1] - 1}, got {adapted_size}")
    sizes = [adapted_size, x.shape[1] - adapted_size]
    logits = np.zeros((len(unlabeled), n_classes))
    for width, own in ((adapted_size, sizes[:1]), (x.shape[1], sizes)):
        start = Start.of(x[:, :width], y, n_classes, unlabeled[:, :width], sizes=own)
        classifier = fit_shared_gaussians(start, shrinkage=TEACHER_SHRINKAGE, temperature=TEACHER_TEMPERATURE)
        logits += classifier.logits(unlabeled[:, :width]) / 2
    return scaled_to_shares(log_softmax(SHARPENING * logits, axis=1), np.full(n_classes, 1.0 / n_classes))


def fit_pseudo_labeled(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    unlabeled: Float[np.ndarray, "m d"],
    soft: Float[np.ndarray, "m c"],
    *,
    l2: float = 1e-2,
) -> Linear:
    """Fit balanced softmax to labeled features and to others under their most probable class.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        unlabeled: Other features.
        soft: Probability of each class for each of them, as :func:`soft_labels` gives.
        l2: Penalty, fixed: validation chips are among the others and cannot choose it (ours).

    Raises:
        DataError: If features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    if soft.shape != (len(unlabeled), n_classes):
        raise ValueError(f"soft has shape {soft.shape}, expected {(len(unlabeled), n_classes)}")
    classes = np.concatenate([y, soft.argmax(axis=1)])
    both = np.vstack([x, unlabeled])
    fitted = fit_linear(both, classes, n_classes, l2=l2, standardizer=Standardizer.fit(both, ()))
    return fitted.adjusted(log_prior(classes, n_classes))
