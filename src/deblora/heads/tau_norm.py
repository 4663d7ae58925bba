"""tau-normalization: rescale the weight vectors of a trained classifier, no training (Kang et al. 2020)."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.probe import Probe
from deblora.heads.prior import fit_cross_entropy

TAU_NORM_GRID = tuple(step / 10 for step in range(11))
"""0 to 1 in tenths: the range of the paper, the step is ours."""


def tau_normalize(probe: Probe, tau: float) -> Probe:
    """Return ``w_c <- w_c / ||w_c||^tau`` without bias (arXiv 1910.09217).

    Plain training gives frequent classes longer weight vectors; ``tau = 0`` leaves them, ``tau = 1`` makes all
    lengths 1. A weight vector of zeros stays zero.

    Args:
        probe: A linear classifier.
        tau: In [0, 1] in the paper, chosen on validation.

    Raises:
        ValueError: If ``tau`` is negative or not finite.
    """
    if not (np.isfinite(tau) and tau >= 0):
        raise ValueError(f"tau must not be negative, got {tau}")
    lengths = np.linalg.norm(probe.weights, axis=0)
    weights = probe.weights / np.where(lengths > 0, lengths, 1.0) ** tau
    return replace(probe, weights=weights, bias=np.zeros_like(probe.bias))


def fit_tau_normalized(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int, *, l2: float, tau: float
) -> Probe:
    """Fit the plain probe and normalize it; for a grid of ``tau`` fit once and call :func:`tau_normalize`.

    Raises:
        DataError: If features are not finite or all the same.
        ValueError: If shapes, labels, ``l2`` or ``tau`` do not fit.
    """
    return tau_normalize(fit_cross_entropy(x, y, n_classes, l2=l2), tau)
