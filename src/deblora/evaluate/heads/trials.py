"""Every head with the same number of validation trials: what is tried for each of them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

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
from deblora.evaluate.heads.search import Chosen, Samples, try_one, try_two
from deblora.evaluate.probe import Probe, ProbeFits

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


def every_head(samples: Samples) -> Iterator[tuple[str, Chosen]]:
    """Fit every head of the package, those that allow it in the row space of the training features.

    Yields:
        Name and chosen head, which takes features as they were extracted.

    Raises:
        DataError: As :func:`other_heads` and :func:`distribution_head`.
        ValueError: If shapes, labels or groups do not fit.
    """
    yield from _in_row_space(samples, prior_heads, other_heads)
    yield "distribution_calibration", distribution_head(samples)


def moved_heads(samples: Samples) -> Iterator[tuple[str, Chosen]]:
    """Fit the heads of :func:`prior_heads`, in the row space of the features before they were moved.

    Yields:
        Name and chosen head, which takes features as they were extracted.

    Raises:
        DataError: As :func:`prior_heads`.
        ValueError: If shapes or labels do not fit, or a moved feature leaves the span of ``statistics_of``.
    """
    yield from _in_row_space(samples, prior_heads)


def _in_row_space(
    samples: Samples, *families: Callable[[Samples], Iterator[tuple[str, Chosen]]]
) -> Iterator[tuple[str, Chosen]]:
    space = RowSpace.fit(samples.statistics_of)
    if space is None:
        for family in families:
            yield from family(samples)
        return
    x = space(samples.x)
    if np.abs(x[:, -1]).max() > 1e-4 * np.linalg.norm(x, axis=1).max():
        raise ValueError("moved features must lie in the span of the features they were moved from")
    statistics_of = x if samples.statistics_of is samples.x else space(samples.statistics_of)
    reduced = replace(samples, x=x, x_val=space(samples.x_val), statistics_of=statistics_of)
    for family in families:
        for name, chosen in family(reduced):
            yield name, Chosen(RowSpaceHead(space, chosen.head), chosen.record)


def prior_heads(samples: Samples) -> Iterator[tuple[str, Chosen]]:
    """Fit the linear probe and what can be made of it by its bias or its lengths; moved features are fitted too.

    ``cross_entropy``, ``balanced_softmax`` (the penalty is tried) and ``logit_adjustment`` (penalty, then ``tau``).
    Under a free bias the three are one family: ``CE(z W + b + log pi)`` has the weights of ``CE(z W + b)`` and the
    bias less ``log pi``, so each penalty is fitted once and ``balanced_softmax`` is ``tau = 1``. ``tau_norm`` is
    left out for moved features.

    Yields:
        Name and chosen head, in that order.

    Raises:
        DataError: If there is no validation sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit.
    """
    fits = ProbeFits.of(
        samples.x, samples.y, samples.n_classes, loss="cross_entropy", statistics_of=samples.statistics_of
    )
    fitted: dict[float, Probe] = {}

    def probe(l2: float) -> Probe:
        if l2 not in fitted:
            warmer = min((known for known in fitted if known > l2), default=None)
            fitted[l2] = fits.fit(l2, start=None if warmer is None else fitted[warmer])
        return fitted[l2]

    def adjusted(l2: float, tau: float) -> Head:
        return adjust_probe(probe(l2), samples.prior, tau)

    yield "cross_entropy", try_one(samples, "l2", PENALTIES, probe)
    yield "balanced_softmax", try_one(samples, "l2", PENALTIES, lambda l2: adjusted(l2, 1.0))
    yield "logit_adjustment", try_two(samples, "tau", LOGIT_TAUS, adjusted)
    if samples.statistics_of is samples.x:
        yield (
            "tau_norm",
            try_two(samples, "tau", NORM_TAUS, lambda l2, tau: tau_normalize(probe(l2), tau)),
        )


def other_heads(samples: Samples) -> Iterator[tuple[str, Chosen]]:
    """Fit re-weighting, cosine, nearest-mean, ResLT and SADE heads.

    Yields:
        Name and chosen head.

    Raises:
        DataError: If a class has no sample, there is no validation sample, or features are not finite or all alike.
        ValueError: If shapes, labels or groups do not fit.
    """
    x, y, n_classes = samples.x, samples.y, samples.n_classes
    yield "crt", try_one(samples, "l2", PENALTIES, lambda l2: fit_crt(x, y, n_classes, l2=l2))
    yield (
        "effective_number",
        try_two(
            samples,
            "beta",
            NUMBER_BETAS,
            lambda l2, beta: fit_effective_number(x, y, n_classes, l2=l2, beta=beta),
        ),
    )
    yield (
        "ldam_drw",
        try_two(
            samples,
            "n_iterations",
            ITERATIONS,
            lambda scale, n: fit_ldam_drw(x, y, n_classes, scale=scale, n_iterations=int(n)),
            first=("scale", SCALES),
        ),
    )
    yield (
        "lift",
        try_two(
            samples,
            "n_iterations",
            ITERATIONS,
            lambda scale, n: fit_lift(x, y, n_classes, scale=scale, n_iterations=int(n)),
            first=("scale", SCALES),
        ),
    )
    for name, fit in (
        ("nearest_mean_cosine", fit_nearest_mean_cosine),
        ("nearest_mean_euclidean", fit_nearest_mean_euclidean),
    ):
        yield name, Chosen(*select([({}, fit(x, y, n_classes))], samples.x_val, samples.y_val))
    yield (
        "reslt",
        try_two(
            samples,
            "beta",
            BRANCH_BETAS,
            lambda l2, beta: fit_reslt(x, y, n_classes, groups=samples.groups, l2=l2, beta=beta),
        ),
    )
    yield (
        "sade",
        try_two(samples, "tau", EXPERT_TAUS, lambda l2, tau: fit_sade(x, y, n_classes, l2=l2, tau=tau)),
    )


def distribution_head(samples: Samples) -> Chosen:
    """Fit distribution calibration; it treats dimensions one by one and needs the features as extracted.

    Raises:
        DataError: If no class is frequent enough, or as :func:`other_heads`.
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
