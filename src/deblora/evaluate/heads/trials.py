"""The classifiers by name, each with the same number of validation trials: what is tried for each of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from deblora.evaluate.heads.cosine import fit_ldam_drw, fit_lift
from deblora.evaluate.heads.distribution import POWER, CalibratedFits, TukeyHead
from deblora.evaluate.heads.head import Head, select
from deblora.evaluate.heads.linear import (
    EFFECTIVE_NUMBER_BETA,
    adjust_probe,
    fit_crt,
    fit_effective_number,
    tau_normalize,
)
from deblora.evaluate.heads.nearest_mean import fit_nearest_mean_cosine, fit_nearest_mean_euclidean
from deblora.evaluate.heads.reslt import BETA, fit_reslt
from deblora.evaluate.heads.row_space import RowSpace, RowSpaceHead
from deblora.evaluate.heads.sade import TAU, fit_sade
from deblora.evaluate.heads.search import Chosen, Pair, Samples, try_one, try_two
from deblora.evaluate.probe import Probe, ProbeFits
from deblora.evaluate.sgd_probe import N_EPOCHS, fit_sgd_probe

N_TRIALS = 8
"""Settings that a head may try on validation (ours); the nearest means have nothing to try."""

PENALTIES = (1.0, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-6)
"""Of heads with one setting, largest first, so that the larger one wins ties (ours)."""

# Second settings after the default; where a paper has a range, they lie in it.
LOGIT_TAUS = (1.0, 0.5, 1.5, 2.0, 2.5)
NORM_TAUS = (0.5, 0.25, 0.75, 0.9, 1.0)
EXPERT_TAUS = (TAU, 0.5, 1.0, 1.5, 3.0)
BRANCH_BETAS = (BETA, 0.1, 0.3, 0.7, 0.9)
NUMBER_BETAS = (EFFECTIVE_NUMBER_BETA, 0.5, 0.9, 0.99, 0.999)
POWERS = (POWER, 0.25, 0.75, 1.0, 1.25)
SCALES = (10.0, 20.0, 30.0, 40.0)
ITERATIONS = (10, 3, 5, 20, 40)


PRIOR_CLASSIFIERS = ("cross_entropy", "balanced_softmax", "logit_adjustment", "tau_norm")
"""The linear probe and what can be made of it by its bias or its lengths; ``tau_norm`` is not for moved features."""

CLASSIFIERS = (
    *PRIOR_CLASSIFIERS,
    "crt",
    "effective_number",
    "ldam_drw",
    "lift",
    "nearest_mean_cosine",
    "nearest_mean_euclidean",
    "reslt",
    "sade",
    "distribution_calibration",
)
"""All classifiers that are fitted unless others are asked for, in the order they are fitted and shown."""

ON_REQUEST = ("sgd_probe",)
"""Fitted only when they are named."""

Fits = dict[str, Callable[[], Chosen]]


def fit_classifiers(samples: Samples, names: Sequence[str]) -> Iterator[tuple[str, Chosen]]:
    """Fit the named classifiers, those that allow it in the row space of the training features.

    Args:
        samples: What to fit and choose on; ``x`` may be moved, within the span of ``statistics_of``.
        names: Of :data:`CLASSIFIERS` and :data:`ON_REQUEST`; nothing else is fitted.

    Yields:
        Name and chosen classifier, which takes features as they were extracted, in the order of the names.

    Raises:
        DataError: If a class has no sample, there is no validation sample, or features are not finite or all alike.
        KeyError: If a name is unknown.
        ValueError: If shapes, labels or groups do not fit, or a moved feature leaves the span of ``statistics_of``.
    """
    space = RowSpace.fit(samples.statistics_of)
    reduced = samples if space is None else _in_row_space(samples, space)
    inside: Fits = {**_prior_fits(reduced), **_other_fits(reduced)}
    as_extracted: Fits = {
        "distribution_calibration": lambda: distribution_head(samples),
        "sgd_probe": lambda: _sgd_probe(samples),
    }
    for name in names:
        if name in as_extracted:
            yield name, as_extracted[name]()
            continue
        chosen = inside[name]()
        yield name, chosen if space is None else Chosen(RowSpaceHead(space, chosen.head), chosen.record)


def _in_row_space(samples: Samples, space: RowSpace) -> Samples:
    x = space(samples.x)
    if np.abs(x[:, -1]).max() > 1e-4 * np.linalg.norm(x, axis=1).max():
        raise ValueError("moved features must lie in the span of the features they were moved from")
    statistics_of = x if samples.statistics_of is samples.x else space(samples.statistics_of)
    return replace(samples, x=x, x_val=space(samples.x_val), statistics_of=statistics_of)


def _prior_fits(samples: Samples) -> Fits:
    """Return the fits of :data:`PRIOR_CLASSIFIERS`, which share their probes; moved features are fitted too.

    Under a free bias the first three are one family: ``CE(z W + b + log pi)`` has the weights of ``CE(z W + b)`` and
    the bias less ``log pi``, so each penalty is fitted once and ``balanced_softmax`` is ``tau = 1``.
    """
    fitted: dict[float, Probe] = {}

    @cache
    def fits() -> ProbeFits:
        return ProbeFits.of(
            samples.x, samples.y, samples.n_classes, loss="cross_entropy", statistics_of=samples.statistics_of
        )

    def probe(l2: float) -> Probe:
        if l2 not in fitted:
            warmer = min((known for known in fitted if known > l2), default=None)
            fitted[l2] = fits().fit(l2, start=None if warmer is None else fitted[warmer])
        return fitted[l2]

    def adjusted(l2: float, tau: float) -> Head:
        return adjust_probe(probe(l2), samples.prior, tau)

    return {
        "cross_entropy": lambda: try_one(samples, "l2", PENALTIES, probe),
        "balanced_softmax": lambda: try_one(samples, "l2", PENALTIES, lambda l2: adjusted(l2, 1.0)),
        "logit_adjustment": lambda: try_two(samples, "tau", LOGIT_TAUS, adjusted),
        "tau_norm": lambda: try_two(samples, "tau", NORM_TAUS, lambda l2, tau: tau_normalize(probe(l2), tau)),
    }


def _other_fits(samples: Samples) -> Fits:
    """Return the fits of the re-weighting, cosine, nearest-mean, ResLT and SADE classifiers."""
    x, y, n_classes = samples.x, samples.y, samples.n_classes

    def two(name: str, values: Sequence[float], fit: Pair) -> Callable[[], Chosen]:
        return lambda: try_two(samples, name, values, fit)

    def of_scales(fit: Callable[..., Head]) -> Callable[[], Chosen]:
        return lambda: try_two(
            samples,
            "n_iterations",
            ITERATIONS,
            lambda scale, n: fit(x, y, n_classes, scale=scale, n_iterations=int(n)),
            first=("scale", SCALES),
        )

    def of_means(fit: Callable[..., Head]) -> Callable[[], Chosen]:
        return lambda: Chosen(*select([({}, fit(x, y, n_classes))], samples.x_val, samples.y_val))

    return {
        "crt": lambda: try_one(samples, "l2", PENALTIES, lambda l2: fit_crt(x, y, n_classes, l2=l2)),
        "effective_number": two(
            "beta", NUMBER_BETAS, lambda l2, beta: fit_effective_number(x, y, n_classes, l2=l2, beta=beta)
        ),
        "ldam_drw": of_scales(fit_ldam_drw),
        "lift": of_scales(fit_lift),
        "nearest_mean_cosine": of_means(fit_nearest_mean_cosine),
        "nearest_mean_euclidean": of_means(fit_nearest_mean_euclidean),
        "reslt": two(
            "beta",
            BRANCH_BETAS,
            lambda l2, beta: fit_reslt(x, y, n_classes, groups=samples.groups, l2=l2, beta=beta),
        ),
        "sade": two("tau", EXPERT_TAUS, lambda l2, tau: fit_sade(x, y, n_classes, l2=l2, tau=tau)),
    }


def _sgd_probe(samples: Samples) -> Chosen:
    """Fit the probe of the authors' code; its trials are its epochs."""
    probe, record = fit_sgd_probe(samples.x, samples.y, samples.x_val, samples.y_val, samples.n_classes)
    return Chosen(probe, {**record, "n_trials": N_EPOCHS})


def distribution_head(samples: Samples) -> Chosen:
    """Fit distribution calibration; it treats dimensions one by one and needs the features as extracted.

    Raises:
        DataError: If no class is frequent enough, or as :func:`fit_classifiers`.
        ValueError: If shapes or labels do not fit.
    """

    def prepared(power: float) -> CalibratedFits:
        rng = np.random.default_rng(samples.seed)
        return CalibratedFits.of(samples.x, samples.y, samples.n_classes, power=power, rng=rng)

    default = prepared(POWER)
    last: TukeyHead | None = None

    def fit(l2: float, power: float) -> Head:
        nonlocal last
        if power != POWER:
            return prepared(power).fit(l2)
        last = default.fit(l2, start=last)  # the largest penalty comes first
        return last

    return try_two(samples, "power", POWERS, fit)
