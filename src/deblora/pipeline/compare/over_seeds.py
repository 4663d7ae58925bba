"""Scores over several seeds as tidy tables: mean, spread and t intervals, and differences paired run by run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from deblora.evaluate.intervals import DIFFERENCES as DIFFERENCE_RANGE
from deblora.evaluate.intervals import spread
from deblora.pipeline.tables import NAME, class_f1, only

STUDY = ["dataset", "backbone"]
ENTRY = ["metric", "group"]
PLAIN, BALANCED = ("lora", "cross_entropy"), ("lora", "balanced_softmax")
STRONG = "strong"
TIE = 1e-12  # rounding of a mean of F1 values; smaller differences are none


def baselines_in(results: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what every method is compared with: LoRA with a plain probe and with balanced softmax, and ``strong``.

    The second baseline separates the gain of the features from that of the classifier's prior.

    Args:
        results: Scores of all runs; baselines that they lack are left out.
    """
    names = list(results[NAME].drop_duplicates().itertuples(index=False, name=None))
    return [
        name for name in (PLAIN, BALANCED, *(name for name in names if name[0] == STRONG)) if name in names
    ]


def mean_scores(results: pd.DataFrame, *, by: Sequence[str] = STUDY) -> pd.DataFrame:
    """Return mean and spread over seeds of every score.

    Where all runs have one test set, the interval holds what its chips leave open too.

    Args:
        results: The scores of all runs, one below the other.
        by: Columns within which runs differ in the seed only.

    Returns:
        Columns ``by``, method, classifier, metric, group, ``value`` (mean), ``sd``, ``ci_lower`` and
        ``ci_upper`` (95 % t interval of the mean), ``n_seeds`` and ``values`` (a tuple, one per seed).
    """
    rows = []
    for key, own in results.groupby([*by, *NAME, *ENTRY], sort=False):
        rows.append((*key, *_spread(own.sort_values("seed"), "value", (0.0, 1.0))))
    columns = [*by, *NAME, *ENTRY, "value", "sd", "ci_lower", "ci_upper", "n_seeds", "values"]
    return pd.DataFrame(rows, columns=columns)


def paired_differences(
    results: pd.DataFrame,
    baselines: Sequence[tuple[str, str]],
    *,
    by: Sequence[str] = STUDY,
    run: Sequence[str] = STUDY,
    alone: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the differences to every baseline, paired run by run and never by position.

    Args:
        results: The scores of all runs.
        baselines: Methods and classifiers.
        by: Columns within which differences are averaged; empty for all runs together.
        run: Columns that name a run, with its seed.
        alone: The differences within each run, with their standard errors over its test chips, for intervals over
            runs that share a test set; those without it are about the seeds alone.

    Returns:
        As :func:`mean_scores`, with ``baseline``, ``baseline_classifier``, ``n_wins`` and ``n_ties``: runs
        in which a method is higher, and equal. A baseline is not compared with itself; pairs without a
        common run are left out.
    """
    parts = []
    for method, classifier in baselines:
        base = only(results, method=method, classifier=classifier)[[*run, "seed", *ENTRY, "value"]]
        others = results[(results["method"] != method) | (results["classifier"] != classifier)]
        others = others.drop(columns="standard_error", errors="ignore")
        if alone is not None:
            own = only(alone, baseline=method, baseline_classifier=classifier)
            own = own[[*run, "seed", *NAME, "group", "standard_error"]].assign(metric="macro_f1")
            others = others.merge(own, how="left", on=[*run, "seed", *NAME, *ENTRY])
        paired = _paired(others, base, on=[*run, "seed", *ENTRY], by=by)
        parts.append(paired.assign(baseline=method, baseline_classifier=classifier))
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else _paired(results[:0], results[:0], on=["seed"], by=by)
    )


def differences_to_first(results: pd.DataFrame, first: str) -> pd.DataFrame:
    """Return the differences of every method to itself in the first variant of a study, paired by seed."""
    base = only(results, variant=first)[[*NAME, *ENTRY, "seed", "value"]]
    others = results[results["variant"] != first].drop(columns="standard_error", errors="ignore")
    found = _paired(others, base, on=[*NAME, *ENTRY, "seed"], by=["variant"])
    return found.assign(baseline=first, baseline_classifier="")


def _paired(
    results: pd.DataFrame, base: pd.DataFrame, *, on: Sequence[str], by: Sequence[str]
) -> pd.DataFrame:
    joined = results.merge(base, on=list(on), suffixes=("", "_of_baseline"))
    joined = joined.assign(difference=joined["value"] - joined["value_of_baseline"]).dropna(
        subset=["difference"]
    )
    rows = []
    for key, own in joined.groupby([*by, *NAME, *ENTRY], sort=False):
        own = own.sort_values("seed")
        found = own["difference"]
        n_ties = int((found.abs() <= TIE).sum())
        rows.append((*key, *_spread(own, "difference", DIFFERENCE_RANGE), int((found > TIE).sum()), n_ties))
    columns = [
        *by,
        *NAME,
        *ENTRY,
        "value",
        "sd",
        "ci_lower",
        "ci_upper",
        "n_seeds",
        "values",
        "n_wins",
        "n_ties",
    ]
    return pd.DataFrame(rows, columns=columns)


def _spread(runs: pd.DataFrame, column: str, within: tuple[float, float]) -> tuple[Any, ...]:
    values, errors = runs[column], None
    if {"test_set", "standard_error"} <= {*runs} and runs["test_set"].nunique() == 1:
        errors = runs["standard_error"].to_numpy(dtype=np.float64)
    found = spread(values.to_numpy(dtype=np.float64), within=within, errors=errors)
    return found.mean, found.sd, found.ci_lower, found.ci_upper, found.n, tuple(values)


def summary_table(
    means: pd.DataFrame, differences: pd.DataFrame, *, by: Sequence[str] = STUDY
) -> pd.DataFrame:
    """Return ``summary.csv``: a line per score, with its differences to every baseline beside it.

    The columns of a baseline start with ``minus_<method>_<classifier>_``, those of the strong one with
    ``minus_strong_``.

    Args:
        means: See :func:`mean_scores`.
        differences: See :func:`paired_differences`.
        by: Columns that name what is summarized.
    """
    keys = [*by, *NAME, *ENTRY]
    numbers = ["value", "sd", "ci_lower", "ci_upper"]
    table = means[[*keys, "n_seeds", *numbers]].rename(columns={"value": "mean"})
    for (method, classifier), own in differences.groupby(["baseline", "baseline_classifier"], sort=False):
        start = baseline_prefix(method, classifier)
        names = {name: start + name for name in (*numbers, "n_wins", "n_ties")}
        names = {**names, "value": f"{start}mean", "n_seeds": f"{start}n"}
        table = table.merge(own[[*keys, *names]].rename(columns=names), on=keys, how="left")
        counts = [f"{start}{name}" for name in ("n_wins", "n_ties", "n")]
        table[counts] = table[counts].fillna(0).astype(int)
    return table


def baseline_prefix(method: str, classifier: str) -> str:
    """Return how the columns of a baseline start in ``summary.csv``."""
    parts = ("minus", method, "" if method == STRONG else classifier)
    return "_".join(part for part in parts if part) + "_"


def class_gains(
    predictions: pd.DataFrame, classes: pd.DataFrame, pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]]
) -> pd.DataFrame:
    """Return the gain of F1 of each class of one run.

    Args:
        predictions: Columns id, true, method, classifier and predicted.
        classes: Columns class and group, from the most to the least frequent.
        pairs: Method and baseline, each with its classifier; pairs that the run lacks are left out.

    Returns:
        Columns method, classifier, baseline, baseline_classifier, class, group, ``rank`` (0 for the most
        frequent class) and ``gain``, a fraction.
    """
    names = list(classes["class"])
    wanted = {name for pair in pairs for name in pair}
    f1 = {key: class_f1(own, names) for key, own in predictions.groupby(NAME, sort=False) if key in wanted}
    parts = [
        classes[["class", "group"]].assign(
            method=own[0],
            classifier=own[1],
            baseline=baseline[0],
            baseline_classifier=baseline[1],
            rank=np.arange(len(names)),
            gain=f1[own] - f1[baseline],
        )
        for own, baseline in pairs
        if own in f1 and baseline in f1
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def by_rank(parts: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Put the class tables of several seeds one below the other, classes by their rank in training chips.

    A seed draws other rare classes, so a class is named where all seeds agree, and else by its rank.

    Args:
        parts: Tables with ``class``, ``group`` and ``rank``, one per seed.
        keys: Columns that name what belongs together.
    """
    full = [part for part in parts if len(part)]
    if not full:
        return pd.DataFrame()
    found = pd.concat(full, ignore_index=True)
    grouped = found.groupby([*keys, "rank"], sort=False)
    same = grouped["class"].transform("nunique") == 1
    rank = "class " + (found["rank"] + 1).astype(str) + " by count"
    most: Any = grouped["group"].transform(lambda own: own.mode(dropna=False).iloc[0])
    return found.assign(**{"class": found["class"].where(same, rank), "group": most})
