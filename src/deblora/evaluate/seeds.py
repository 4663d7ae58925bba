"""Mean of a score over several seeds, its standard deviation and the t interval of the mean."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
SCORES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""What a share (F1, precision, accuracy) can be, and the difference of two of them."""


@dataclass(frozen=True)
class Spread:
    """Mean over ``n`` values, their standard deviation, and the t interval of the mean.

    ``sd`` and the interval are NaN for fewer than two values, ``mean`` is NaN for none.
    """

    n: int
    mean: float
    sd: float
    ci_lower: float
    ci_upper: float


def spread(values: Float[np.ndarray, " n"], *, within: tuple[float, float] = SCORES) -> Spread:
    """Return mean, standard deviation and the 95 % t interval of the mean.

    ``sd = sqrt(sum (x - mean)^2 / (n - 1))`` and ``mean +- t(0.975, n - 1) sd / sqrt(n)``, cut to the values a mean
    can have: with two seeds the quantile is 12.7, and the interval would often reach beyond them. The interval is
    about the mean over seeds; it holds for scores that are near normal over seeds. Equal values give an interval
    without width.

    Args:
        values: One score per run; NaN (an empty group) is left out.
        within: Least and largest possible value.
    """
    from scipy.special import stdtrit

    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    if n < 2:
        return Spread(n, mean, math.nan, math.nan, math.nan)
    sd = float(defined.std(ddof=1))
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * sd / math.sqrt(n)
    low, high = within
    return Spread(n, mean, sd, max(low, mean - half), min(high, mean + half))
