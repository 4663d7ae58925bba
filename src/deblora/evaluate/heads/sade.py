"""SADE: three experts, for the training, the uniform and the reversed class frequencies, and their aggregation."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import LinearConstraint, minimize
from scipy.special import softmax

from deblora.errors import DataError
from deblora.evaluate.heads.head import Standardizer, checked_counts
from deblora.evaluate.heads.linear import fit_softmax
from deblora.evaluate.metrics import check_labels
from deblora.evaluate.probe import Probe, log_prior

TAU = 2.0
"""Strength of the reversed prior (SADE authors' code)."""

WEIGHT_FLOOR = 0.05
"""Smallest weight of an expert; the authors' code stops when a weight falls below it."""

DROPOUT_RATE = 0.1
"""Share of feature entries set to zero in a view (ours)."""

_UNIFORM = (1 / 3, 1 / 3, 1 / 3)


@dataclass(frozen=True)
class SadeHead:
    """``logits = sum_k w_k s_k`` of three experts; equal weights unless others are set."""

    experts: tuple[Probe, Probe, Probe]
    weights: tuple[float, float, float] = _UNIFORM

    @property
    def n_features(self) -> int:
        """Size of a feature."""
        return self.experts[0].n_features

    def logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return the aggregated logits."""
        return np.asarray(np.tensordot(self.weights, self.expert_logits(x), axes=1))

    def expert_logits(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "3 n c"]:
        """Return the logits of each expert."""
        return np.stack([expert.logits(x) for expert in self.experts])

    def with_weights(self, weights: tuple[float, float, float]) -> "SadeHead":
        """Return the head with other weights, not negative and summing to 1.

        Raises:
            ValueError: If they are not.
        """
        if len(weights) != len(self.experts) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"weights must be 3 numbers >= 0 that sum to 1, got {weights}")
        return replace(self, weights=weights)


def inverse_log_prior(y: Int[np.ndarray, " n"], n_classes: int) -> Float[np.ndarray, " c"]:
    """Return the log of the prior with ranks reversed: the rarest class gets the largest frequency.

    Classes with equal counts share the mean of the frequencies of their ranks (ours), so that the order of
    classes does not matter.

    Raises:
        ValueError: If a class has no sample or a label is out of range.
    """
    check_labels(y, n_classes, name="y")
    counts = np.bincount(y, minlength=n_classes)
    if not counts.all():
        raise ValueError(f"classes {np.flatnonzero(counts == 0).tolist()} have no training sample")
    _, position, n_tied = np.unique(counts, return_inverse=True, return_counts=True)
    totals = np.bincount(np.sort(position), weights=np.sort(counts)[::-1])
    return np.asarray(np.log((totals / n_tied)[position] / len(y)))


def fit_sade(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    *,
    l2: float,
    tau: float = TAU,
) -> SadeHead:
    """Fit the experts of SADE (Zhang et al., arXiv 2107.09249), aggregated with equal weights.

    ::

        expert 1: CE(s, y)   expert 2: CE(s + log pi, y)   expert 3: CE(s + log pi - tau log pi_inv, y)

    The losses are added in the paper; on fixed features they share no parameter, so each expert stands alone. As its
    bias is free, ``CE(s + o, y)`` has the weights of ``CE(s, y)`` and its bias less ``o``: one fit gives all three.

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        l2: Penalty of each expert, > 0.
        tau: Strength of the reversed prior, >= 0; 0 makes expert 3 equal to expert 2.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes or labels do not fit or a setting is out of range.
    """
    checked_counts(x, y, n_classes)
    if not (np.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must not be negative, got {tau}")
    prior = log_prior(y, n_classes)
    standardizer = Standardizer.fit(x)
    z = standardizer(x)
    offsets = (np.zeros(n_classes), prior, prior - tau * inverse_log_prior(y, n_classes))
    weights, bias = fit_softmax(z, y, n_classes, l2=l2)
    first, second, third = (
        Probe(weights, bias - (offset - offset.mean()), standardizer.mean, standardizer.scale, True)
        for offset in offsets
    )
    return SadeHead((first, second, third))


def dropout_views(
    x: Float[np.ndarray, "n d"], *, rng: np.random.Generator, rate: float = DROPOUT_RATE
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """Return two copies of features with random entries set to zero.

    A stand-in for the two augmented images of the paper where only features are at hand (ours). Heads divide
    features by their norm, so the usual factor ``1 / (1 - rate)`` would change nothing.

    Raises:
        ValueError: If ``rate`` is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    first, second = (x * (rng.random(x.shape) >= rate) for _ in range(2))
    return first, second


def stable_weights(
    head: SadeHead,
    view_a: Float[np.ndarray, "n d"],
    view_b: Float[np.ndarray, "n d"],
    *,
    floor: float = WEIGHT_FLOOR,
) -> tuple[float, float, float]:
    """Return the weights that make predictions agree most between two views of unlabeled samples.

    **Transductive:** the views are of the samples to be predicted. No label is used, but a score with these
    weights must be named as one that has seen the test features. Maximizes, from equal weights::

        mean_i cos(softmax(sum_k w_k s_k(a_i)), softmax(sum_k w_k s_k(b_i)))   over  w_k >= floor, sum_k w_k = 1

    The paper climbs by SGD and stops when a weight falls below the floor; here the floor is a bound and the
    optimizer is SLSQP (ours).

    Agreement is not accuracy: an expert that answers alike for all samples agrees with itself best. Compare the
    result with equal weights before using it.

    Args:
        head: The experts; its own weights are not used.
        view_a: Features of one view of the samples, for instance from :func:`dropout_views`.
        view_b: Features of another view, rows in the same order.
        floor: In [0, 1/3]; 1/3 gives equal weights.

    Raises:
        DataError: If there is no sample.
        ValueError: If the views differ in shape or ``floor`` is out of range.
    """
    if view_a.shape != view_b.shape:
        raise ValueError(f"the views have shapes {view_a.shape} and {view_b.shape}")
    if not len(view_a):
        raise DataError("there is no sample to aggregate the experts on; use equal weights")
    if not 0 <= floor <= 1 / 3:
        raise ValueError(f"floor must be in [0, 1/3], got {floor}")
    logits_a, logits_b = head.expert_logits(view_a), head.expert_logits(view_b)

    def disagreement(weights: Float[np.ndarray, " k"]) -> float:
        return -agreement(logits_a, logits_b, weights)

    result = minimize(
        disagreement,
        np.array(_UNIFORM),
        method="SLSQP",
        bounds=[(floor, 1.0)] * len(_UNIFORM),
        constraints=LinearConstraint(np.ones((1, len(_UNIFORM))), 1.0, 1.0),
        options={"ftol": 1e-9},
    )
    first, second, third = (np.clip(result.x, floor, 1.0) / np.clip(result.x, floor, 1.0).sum()).tolist()
    return first, second, third


def agreement(
    logits_a: Float[np.ndarray, "k n c"],
    logits_b: Float[np.ndarray, "k n c"],
    weights: Float[np.ndarray, " k"],
) -> float:
    """Return the mean cosine, in (0, 1], between the aggregated probabilities of two views."""
    a = softmax(np.tensordot(weights, logits_a, axes=1), axis=1)
    b = softmax(np.tensordot(weights, logits_b, axes=1), axis=1)
    return float(np.mean(np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))
