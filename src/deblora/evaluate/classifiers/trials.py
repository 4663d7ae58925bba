"""The classifiers by name, each with the same number of validation trials: what is tried for each of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from deblora.evaluate.classifiers.classifier import Classifier, Standardizer, checked_counts
from deblora.evaluate.classifiers.cosine import (
    fit_ldam_drw,
    fit_lift,
    fit_nearest_mean_cosine,
    fit_nearest_mean_euclidean,
)
from deblora.evaluate.classifiers.cross_validation import fit_cross_validated
from deblora.evaluate.classifiers.distribution import POWER, distribution_fits
from deblora.evaluate.classifiers.linear import (
    EFFECTIVE_NUMBER_BETA,
    SADE_TAU,
    Linear,
    LinearFits,
    effective_number_weights,
    inverse_frequency_weights,
    sade_prior,
)
from deblora.evaluate.classifiers.names import FLOOR
from deblora.evaluate.classifiers.reslt import BETA, fit_reslt
from deblora.evaluate.classifiers.search import Chosen, Samples, select, try_one, try_two
from deblora.evaluate.classifiers.sgd_probe import N_EPOCHS, fit_sgd_probe

N_TRIALS = 8
"""Settings that a classifier may try on validation (ours); the nearest means have nothing to try."""

PENALTIES = (1.0, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-6)
"""Of classifiers with one setting, largest first, so that the larger one wins ties (ours)."""

# Second settings after the default; where a paper has a range, they lie in it.
LOGIT_TAUS = (1.0, 0.5, 1.5, 2.0, 2.5)
NORM_TAUS = (0.5, 0.25, 0.75, 0.9, 1.0)
EXPERT_TAUS = (SADE_TAU, 0.5, 1.0, 1.5, 3.0)
BRANCH_BETAS = (BETA, 0.1, 0.3, 0.7, 0.9)
NUMBER_BETAS = (EFFECTIVE_NUMBER_BETA, 0.5, 0.9, 0.99, 0.999)
POWERS = (POWER, 0.25, 0.75, 1.0, 1.25)
SCALES = (10.0, 20.0, 30.0, 40.0)
ITERATIONS = (10, 3, 5, 20, 40)


def fit_classifiers(samples: Samples, names: Sequence[str]) -> Iterator[tuple[str, Chosen]]:
    """Fit the named classifiers, each with settings chosen on validation.

    Args:
        samples: What to fit and choose on; ``x`` may be moved.
        names: Of :mod:`deblora.evaluate.classifiers.names`; nothing else is fitted.

    Yields:
        Name and chosen classifier, in the order of the names.

    Raises:
        DataError: If a class has no sample, there is no validation sample, or features are not finite or all alike.
        KeyError: If a name is unknown.
        ValueError: If shapes, labels or groups do not fit.
    """
    known = {**_linear_trials(samples), **_other_trials(samples)}
    for name in names:
        yield name, known[name]()


def _linear_trials(samples: Samples) -> dict[str, Callable[[], Chosen]]:
    """Return the trials of the linear classifiers, which share their fits: those of the prior differ in the bias."""
    x, y, n_classes = samples.x, samples.y, samples.n_classes

    @cache
    def standardizer() -> Standardizer:
        return Standardizer.fit(samples.statistics_of)

    @cache
    def plain() -> Callable[[float], Linear]:
        return LinearFits.of(x, y, n_classes, standardizer=standardizer()).warm()

    @cache
    def weighted(beta: float | None) -> Callable[[float], Linear]:
        counts = checked_counts(x, y, n_classes)
        weights = (
            inverse_frequency_weights(counts) if beta is None else effective_number_weights(counts, beta=beta)
        )
        fits = LinearFits.of(x, y, n_classes, class_weights=weights, standardizer=standardizer())
        return fits.warm()

    def adjusted(l2: float, tau: float) -> Classifier:
        return plain()(l2).adjusted(samples.prior, tau)

    def sade(l2: float, tau: float) -> Classifier:
        return plain()(l2).adjusted(sade_prior(y, n_classes, tau=tau))

    return {
        "cross_entropy": lambda: try_one(samples, "l2", PENALTIES, lambda l2: plain()(l2)),
        "balanced_softmax": lambda: try_one(samples, "l2", PENALTIES, lambda l2: adjusted(l2, 1.0)),
        "logit_adjustment": lambda: try_two(samples, "tau", LOGIT_TAUS, adjusted),
        "tau_norm": lambda: try_two(
            samples, "tau", NORM_TAUS, lambda l2, tau: plain()(l2).tau_normalized(tau)
        ),
        "sade": lambda: try_two(samples, "tau", EXPERT_TAUS, sade),
        "crt": lambda: try_one(samples, "l2", PENALTIES, lambda l2: weighted(None)(l2)),
        "effective_number": lambda: try_two(
            samples, "beta", NUMBER_BETAS, lambda l2, beta: weighted(beta)(l2)
        ),
    }


def _other_trials(samples: Samples) -> dict[str, Callable[[], Chosen]]:
    """Return the trials of the cosine, nearest-mean, ResLT, distribution-calibrated and SGD classifiers."""
    x, y, n_classes = samples.x, samples.y, samples.n_classes

    def of_scales(fit: Callable[..., Classifier]) -> Callable[[], Chosen]:
        return lambda: try_two(
            samples,
            "n_iterations",
            ITERATIONS,
            lambda scale, n: fit(x, y, n_classes, scale=scale, n_iterations=int(n)),
            first=("scale", SCALES),
        )

    def of_means(fit: Callable[..., Classifier]) -> Callable[[], Chosen]:
        return lambda: select([({}, fit(x, y, n_classes))], samples.x_val, samples.y_val)

    def reslt(l2: float, beta: float) -> Classifier:
        return fit_reslt(x, y, n_classes, groups=samples.groups, l2=l2, beta=beta)

    @cache
    def calibrated(power: float) -> Callable[[float], Linear]:
        return distribution_fits(x, y, n_classes, power=power, rng=np.random.default_rng(samples.seed)).warm()

    def sgd_probe() -> Chosen:
        probe, record = fit_sgd_probe(x, y, samples.x_val, samples.y_val, n_classes)
        return Chosen(probe, {**record, "n_trials": N_EPOCHS})  # its trials are its epochs

    def cross_validated() -> Chosen:
        rng = np.random.default_rng(samples.seed)
        found = fit_cross_validated(x, y, n_classes, rng=rng, units=samples.units)
        return select([({"l2": found.l2}, found.classifier)], samples.x_val, samples.y_val)

    return {
        FLOOR: cross_validated,
        "ldam_drw": of_scales(fit_ldam_drw),
        "lift": of_scales(fit_lift),
        "nearest_mean_cosine": of_means(fit_nearest_mean_cosine),
        "nearest_mean_euclidean": of_means(fit_nearest_mean_euclidean),
        "reslt": lambda: try_two(samples, "beta", BRANCH_BETAS, reslt),
        "distribution_calibration": lambda: try_two(
            samples, "power", POWERS, lambda l2, power: calibrated(power)(l2)
        ),
        "sgd_probe": sgd_probe,
    }
