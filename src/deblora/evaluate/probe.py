"""The names of the linear probe that are still in use elsewhere."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from deblora.evaluate.heads.head import Standardizer
from deblora.evaluate.heads.linear import Linear as Probe
from deblora.evaluate.heads.linear import LinearFits, log_prior
from deblora.evaluate.heads.search import select
from deblora.evaluate.metrics import macro_f1

__all__ = ["Loss", "Probe", "adjust_logits", "log_prior", "select_probe", "select_tau"]

Loss = Literal["cross_entropy", "balanced_softmax"]
L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


def select_probe(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    x_val: Float[np.ndarray, "v d"],
    y_val: Int[np.ndarray, " v"],
    n_classes: int,
    *,
    loss: Loss,
    l2_grid: Sequence[float] = L2_GRID,
    statistics_of: Float[np.ndarray, "m d"] | None = None,
    l2_normalize: bool = True,
) -> tuple[Probe, dict[str, float]]:
    """Fit one linear classifier per penalty and keep the best on validation."""
    standardizer = Standardizer.fit(
        x if statistics_of is None else statistics_of, None if l2_normalize else ()
    )
    fit = LinearFits.of(x, y, n_classes, standardizer=standardizer).warm()
    shift = log_prior(y, n_classes) * (loss == "balanced_softmax")
    grid = sorted(l2_grid, reverse=True)
    chosen = select((({"l2": l2}, fit(l2).adjusted(shift)) for l2 in grid), x_val, y_val)
    return fit(float(chosen.record["l2"])).adjusted(shift), {
        name: float(value) for name, value in chosen.record.items()
    }


def adjust_logits(
    logits: Float[np.ndarray, "n c"], log_prior: Float[np.ndarray, " c"], tau: float
) -> Float[np.ndarray, "n c"]:
    """Return ``logits - tau log_prior``."""
    return logits - tau * log_prior


def select_tau(
    logits_val: Float[np.ndarray, "v c"], y_val: Int[np.ndarray, " v"], log_prior: Float[np.ndarray, " c"]
) -> float:
    """Return the ``tau`` in 0 to 3 with the best validation macro F1 of adjusted logits; the smaller one wins ties."""

    def score(tau: float) -> float:
        predicted = adjust_logits(logits_val, log_prior, tau).argmax(axis=1)
        return macro_f1(y_val, predicted, logits_val.shape[1])

    return float(max((step / 4 for step in range(13)), key=score))
