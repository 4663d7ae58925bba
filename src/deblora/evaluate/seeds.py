"""Scores over several seeds: mean, spread, t interval of the mean, and differences paired run by run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
BASELINES = (("lora", "cross_entropy"), ("lora", "balanced_softmax"))
SCORES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""What a share (F1, precision, accuracy) can be, and the difference of two of them."""
_TIE = 1e-12  # rounding of a mean of F1 values; smaller differences are none


class Unit(NamedTuple):
    """One run, the unit that is paired: methods are compared within it and never across."""

    dataset: str
    backbone: str
    seed: int


class Entry(NamedTuple):
    """What a score belongs to within a run."""

    method: str
    probe: str
    metric: str
    group: str


Scores = Mapping[Unit, Mapping[Entry, float]]


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


@dataclass(frozen=True)
class PairedSpread:
    """Differences ``method - baseline`` of the runs that have both, and how often the method is higher."""

    differences: dict[Unit, float]
    spread: Spread
    n_wins: int
    n_ties: int

    @property
    def verdict(self) -> str:
        """``"gain"`` or ``"loss"`` if the t interval excludes zero, ``"open"`` otherwise or when unknown."""
        if self.spread.ci_lower > 0:
            return "gain"
        return "loss" if self.spread.ci_upper < 0 else "open"


@dataclass(frozen=True)
class SpreadRow:
    """One entry over the runs that are summarized together.

    Attributes:
        entry: Method, probe, metric and group.
        values: Score of each run that has one.
        spread: Mean and spread of these scores.
        against: Baseline (method, probe) -> paired differences; the entry's own baseline is left out.
    """

    entry: Entry
    values: dict[Unit, float]
    spread: Spread
    against: dict[tuple[str, str], PairedSpread]


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
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    if n < 2:
        return Spread(n, mean, math.nan, math.nan, math.nan)
    sd = float(defined.std(ddof=1))
    half = _t_quantile(n - 1) * sd / math.sqrt(n)
    low, high = within
    return Spread(n, mean, sd, max(low, mean - half), min(high, mean + half))


def _t_quantile(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2))


def paired_spread(values: Mapping[Unit, float], baseline: Mapping[Unit, float]) -> PairedSpread:
    """Compare two methods run by run.

    Args:
        values: Score of the method by run.
        baseline: Score of the baseline by run.

    Returns:
        Differences of the runs in which both have a score, matched by run and never by position. A win is a run in
        which the method is higher; equal scores are ties and no wins.
    """
    differences = {
        unit: value - baseline[unit]
        for unit, value in values.items()
        if unit in baseline and not math.isnan(value - baseline[unit])
    }
    found = np.array(list(differences.values()), dtype=np.float64)
    n_wins, n_ties = int((found > _TIE).sum()), int((np.abs(found) <= _TIE).sum())
    return PairedSpread(differences, spread(found, within=DIFFERENCES), n_wins, n_ties)


def summarize_runs(
    scores: Scores, *, baselines: Sequence[tuple[str, str]] = BASELINES
) -> tuple[SpreadRow, ...]:
    """Summarize every entry over all given runs.

    Args:
        scores: Score of every entry by run; hand over the runs of one data set and backbone for a spread over seeds.
        baselines: Methods and probes to compare with; by default LoRA with a plain probe and with balanced softmax
            (ours: the second separates the gain of the features from that of the probe's prior).

    Returns:
        One row per entry, in order of first appearance.
    """
    by_entry: dict[Entry, dict[Unit, float]] = {}
    for unit, found in scores.items():
        for entry, value in found.items():
            by_entry.setdefault(entry, {})[unit] = value
    rows = []
    for entry, values in by_entry.items():
        against = {
            (method, probe): paired_spread(
                values, by_entry.get(entry._replace(method=method, probe=probe), {})
            )
            for method, probe in baselines
            if (method, probe) != (entry.method, entry.probe)
        }
        rows.append(SpreadRow(entry, values, spread(np.array(list(values.values()))), against))
    return tuple(rows)


def studies(scores: Scores) -> dict[tuple[str, str], dict[Unit, Mapping[Entry, float]]]:
    """Split runs by data set and backbone; within a part, runs differ in the seed only and are sorted by it."""
    parts: dict[tuple[str, str], dict[Unit, Mapping[Entry, float]]] = {}
    for unit in scores:
        parts.setdefault((unit.dataset, unit.backbone), {})
    for unit in sorted(scores, key=lambda unit: unit.seed):
        parts[unit.dataset, unit.backbone][unit] = scores[unit]
    return parts
