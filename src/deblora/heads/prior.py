"""The linear probe and its prior-corrected forms under the interface of the heads."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.probe import Probe, fit_probe, log_prior
from deblora.heads.head import checked_counts


def fit_cross_entropy(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float
) -> Probe:
    """Fit the plain probe; see :func:`deblora.evaluate.probe.fit_probe` for the errors."""
    return fit_probe(x, y, n_classes, loss="cross_entropy", l2=l2)


def fit_balanced_softmax(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float
) -> Probe:
    """Train with ``CE(s + log pi, y)`` and predict with ``s`` (Ren et al. 2020, arXiv 2007.10740).

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels or ``l2`` do not fit.
    """
    checked_counts(x, y, n_classes)
    return fit_probe(x, y, n_classes, loss="balanced_softmax", l2=l2)


def fit_logit_adjusted(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float, tau: float = 1.0
) -> Probe:
    """Fit the plain probe and predict with ``s - tau log pi`` (post-hoc form, Menon et al., arXiv 2007.07314).

    Args:
        x: Training features.
        y: Their classes.
        n_classes: Number of classes.
        l2: Penalty of the probe, > 0.
        tau: Strength of the correction; 0 is the plain probe, 1 the paper's value.

    Raises:
        DataError: If a class has no sample, or features are not finite or all the same.
        ValueError: If shapes, labels or ``l2`` do not fit.
    """
    checked_counts(x, y, n_classes)
    return adjust_probe(fit_cross_entropy(x, y, n_classes, l2=l2), log_prior(y, n_classes), tau)


def adjust_probe(probe: Probe, log_prior: Float[np.ndarray, " c"], tau: float) -> Probe:
    """Return the probe whose logits are ``s - tau log pi``: only the bias changes."""
    return replace(probe, bias=probe.bias - tau * log_prior)
