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
from deblora.evaluate.heads.head import Standardizer, checked_counts
from deblora.evaluate.heads.search import Chosen, Samples, try_two
from deblora.evaluate.metrics import macro_f1
from deblora.evaluate.probe import fit_probe


@dataclass(frozen=True)
class Blocks:
    """One :class:`Standardizer` per kind of feature; columns lie in that order."""

    standardizers: tuple[Standardizer, ...]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "n d"], sizes: Sequence[int] | None = None) -> "Blocks":
        """Take the statistics of each kind from training features.

        Args:
            x: Training features, all kinds in one row.
            sizes: Columns of each kind, all >= 1; one kind when None.

        Raises:
            DataError: If features of a kind are not finite or all the same.
            ValueError: If the sizes do not add up to the columns.
        """
        widths = [x.shape[1]] if sizes is None else list(sizes)
        if sum(widths) != x.shape[1] or min(widths, default=0) < 1:
            raise ValueError(f"sizes {widths} do not add up to {x.shape[1]} columns")
        return cls(tuple(Standardizer.fit(part) for part in _parts(x, widths)))

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return standardized features in float64.

        Raises:
            ValueError: If the columns are not those of the fit.
        """
        widths = [len(own.mean) for own in self.standardizers]
        if x.ndim != 2 or x.shape[1] != sum(widths):
            raise ValueError(f"features have shape {x.shape}, the head was fitted on sizes {widths}")
        parts = _parts(x, widths)
        return np.hstack([own(part) for own, part in zip(self.standardizers, parts, strict=True)])


def _parts(x: Float[np.ndarray, "n d"], widths: Sequence[int]) -> list[np.ndarray]:
    return np.split(x, np.cumsum(widths)[:-1], axis=1)


START_L2 = 1e-2
"""Penalty of the balanced-softmax probe that makes the first guess (ours)."""
N_DIMENSIONS = 300
"""Principal directions that are kept, for speed (ours)."""


@dataclass(frozen=True)
class SharedGaussians:
    """``logit_c = -||(z - m_c) T||^2 / (2 temperature)``, with ``T T'`` the inverse of the shared covariance.

    Attributes:
        blocks: Standardizes features.
        projection: Principal directions of the features of the fit.
        means: One per class, projected.
        whitening: ``T``.
        temperature: Divides the logits; at prediction it changes their size, not their order.
    """

    blocks: Blocks
    projection: Float[np.ndarray, "d e"]
    means: Float[np.ndarray, "c e"]
    whitening: Float[np.ndarray, "e e"]
    temperature: float

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return sum(len(own.mean) for own in self.blocks.standardizers)

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return one logit per sample and class; no class is favored by its count."""
        return _logits(self.blocks(x) @ self.projection, self.means, self.whitening, self.temperature)


@dataclass(frozen=True)
class Start:
    """What all fits to the same features share: standardized and projected features, and the first guess."""

    blocks: Blocks
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
            unlabeled: Features that the adapter was not trained on. Validation features make the head
                semi-supervised, the features it is to classify make it transductive: say so where you report it.
            sizes: Columns of each kind of features put side by side, see :class:`Blocks`; one kind when None.

        Raises:
            DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
            ValueError: If shapes or labels do not fit.
        """
        checked_counts(x, y, n_classes)
        if unlabeled.ndim != 2 or unlabeled.shape[1] != x.shape[1]:
            raise ValueError(f"unlabeled has shape {unlabeled.shape}, x has feature size {x.shape[1]}")
        if not len(unlabeled):
            raise DataError("there is no unlabeled feature; give the head validation or test features")
        if not np.isfinite(unlabeled).all():
            raise DataError("the unlabeled features hold values that are not finite; extract them again")
        blocks = Blocks.fit(x, sizes)
        z, u = blocks(x), blocks(unlabeled)
        projection = _principal(np.vstack([z, u]), N_DIMENSIONS)
        z, u = z @ projection, u @ projection
        probe = fit_probe(
            z, y, n_classes, loss="balanced_softmax", l2=START_L2, l2_normalize=False, tolerance=1e-6
        )
        return cls(blocks, projection, z, y, u, probe.logits(u))


def fit_shared_gaussians(
    start: Start,
    *,
    shares: Float[np.ndarray, " c"] | None = None,
    shrinkage: float = 0.03,
    trust: float = 3.0,
    temperature: float = 2.0,
    n_rounds: int = 8,
) -> SharedGaussians:
    """Fit class means and one covariance to labeled and unlabeled features by EM.

    With the responsibilities ``r_uc`` of the unlabeled samples, in the first round those of the probe::

        m_c = (trust n_c mean_c + sum_u r_uc u) / (trust n_c + sum_u r_uc)
        S   = scatter of labeled and unlabeled samples about their means / (n + m)
        T   = (S + shrinkage v I)^(-1/2),   v = mean variance of a dimension

    In each round the responsibilities are scaled until class ``c`` owns the share ``shares[c]`` of the samples.

    Args:
        start: Features and first guess.
        shares: Share of each class among the unlabeled samples, positive, summing to 1; all equal when None, which
            is what every prior-corrected head assumes of a test set.
        shrinkage: Ridge of the covariance, > 0 (ours: 0.03).
        trust: Unlabeled samples that a labeled one counts for in the means, > 0 (ours: 3).
        temperature: Above 1, responsibilities are softer than those of Gaussians, > 0 (ours: 2).
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
        guess = start.guess if step == 0 else _logits(u, means, whitening, temperature)
        owned = scaled_to_shares(log_softmax(guess, axis=1), wanted)
        means = (anchor * labeled + owned.T @ u) / (anchor + owned.sum(axis=0)[:, None])
        inside = _scatter(z, one_hot, means) + _scatter(u, owned, means)
        whitening = _whitening(inside / (len(z) + len(u)), ridge)
    return SharedGaussians(start.blocks, start.projection, means, whitening, temperature)


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


def _logits(
    z: Float[np.ndarray, "n e"],
    means: Float[np.ndarray, "c e"],
    whitening: Float[np.ndarray, "e e"],
    temperature: float,
) -> Float[np.ndarray, "n c"]:
    white, centers = z @ whitening, means @ whitening
    squared = np.sum(white**2, axis=1)[:, None] - 2.0 * white @ centers.T + np.sum(centers**2, axis=1)
    return np.asarray(-0.5 * squared / temperature)


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
        return np.asarray(np.linalg.eigh(z.T @ z)[1][:, -n_dimensions:])
    values, vectors = np.linalg.eigh(z @ z.T)
    kept = values > 1e-10 * values[-1]
    kept[:-n_dimensions] = False
    return np.asarray(z.T @ (vectors[:, kept] / np.sqrt(values[kept])))


SHRINKAGES = (0.3, 0.1, 0.03, 0.01)
TEMPERATURES = (2.0, 1.0, 4.0, 8.0, 16.0)
N_FOLDS = 5
"""With two, the fits see half of the chips, and a head that gains is too often refused (ours, docs/log.md)."""
ENOUGH = 10
"""Unlabeled chips of each class from which on the head gained on our real data; with five of each it lost (ours)."""


def n_short(y_val: Int[np.ndarray, " v"], n_classes: int) -> int:
    """Return how many classes have fewer than ``ENOUGH`` validation chips; their validation score says little."""
    return int((np.bincount(y_val, minlength=n_classes) < ENOUGH).sum())


def semi_supervised_head(samples: Samples, *, sizes: Sequence[int] | None = None) -> Chosen:
    """Fit with validation features as the unlabeled ones; their labels choose shrinkage and temperature.

    The shares of the classes are those of the validation set, which are known. No test feature is seen. ``macro_f1``
    of the record is measured on the very chips whose features were fitted; ``held_out_macro_f1`` is not, and is what
    other heads may be compared with.

    Args:
        samples: What to fit and choose on.
        sizes: Columns of each kind of features, see :class:`deblora.evaluate.heads.semi_supervised.Blocks`.

    Raises:
        DataError: If a class has no sample, there is no validation sample, or features are not finite or all alike.
        ValueError: If shapes or labels do not fit.
    """
    start = Start.of(samples.x, samples.y, samples.n_classes, samples.x_val, sizes=sizes)
    shares = _shares(samples.y_val, samples.n_classes)

    def fit(shrinkage: float, temperature: float) -> SharedGaussians:
        return fit_shared_gaussians(start, shares=shares, shrinkage=shrinkage, temperature=temperature)

    chosen = try_two(samples, "temperature", TEMPERATURES, fit, first=("shrinkage", SHRINKAGES))
    unseen = held_out_predictions(
        samples,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
        sizes=sizes,
    )
    score = macro_f1(samples.y_val, unseen, samples.n_classes)
    return Chosen(chosen.head, {**chosen.record, "held_out_macro_f1": score})


def held_out_predictions(
    samples: Samples, *, shrinkage: float, temperature: float, sizes: Sequence[int] | None = None
) -> Int[np.ndarray, " v"]:
    """Predict each fifth of the validation chips by a head that saw the other four without labels.

    Their score is on the low side: fewer chips help less than all of them. Class 0 if there are not two chips.

    Args:
        samples: What to fit and score on; its seed draws the folds, class by class.
        shrinkage: See :func:`deblora.evaluate.heads.semi_supervised.fit_shared_gaussians`.
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
        head = fit_shared_gaussians(
            start,
            shares=_shares(y_val[~kept], samples.n_classes),
            shrinkage=shrinkage,
            temperature=temperature,
        )
        predicted[kept] = head.logits(samples.x_val[kept]).argmax(axis=1)
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


def transductive_head(
    samples: Samples,
    chosen: Chosen,
    unlabeled: Float[np.ndarray, "m d"],
    *,
    sizes: Sequence[int] | None = None,
) -> Chosen:
    """Fit again with the features that are to be classified as the unlabeled ones, classes equally frequent.

    Args:
        samples: What to fit on.
        chosen: Result of :func:`semi_supervised_head`, whose settings are taken over.
        unlabeled: Test features; their labels are not known here.
        sizes: As there.

    Raises:
        DataError: If a class has no sample, nothing is unlabeled, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    start = Start.of(samples.x, samples.y, samples.n_classes, unlabeled, sizes=sizes)
    head = fit_shared_gaussians(
        start,
        shrinkage=float(chosen.record["shrinkage"]),
        temperature=float(chosen.record["temperature"]),
    )
    return Chosen(head, chosen.record)
