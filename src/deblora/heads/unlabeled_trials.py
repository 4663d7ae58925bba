"""Choosing the shared Gaussians on validation: as many trials as every other head has."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.metrics import macro_f1
from deblora.heads.search import Chosen, Samples, try_two
from deblora.heads.unlabeled import SharedGaussians, Start, fit_shared_gaussians

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
        sizes: Columns of each kind of features, see :class:`deblora.heads.blocks.Blocks`.

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
        shrinkage: See :func:`deblora.heads.unlabeled.fit_shared_gaussians`.
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
