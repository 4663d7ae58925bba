"""Number formats, and tables for pages from tidy pandas tables.

A table of scores has the columns ``method``, ``classifier``, ``group``, ``value``, ``ci_lower`` and
``ci_upper``, fractions in 0..1; one of differences also ``baseline`` and ``baseline_classifier``, fractions
in -1..1. Over seeds ``value`` is the mean, ``sd`` and ``n_seeds`` are added, and differences have ``n_wins``
and ``n_ties``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from deblora.report.page import Cell, Table

MISSING = "-"
GROUPS = ("head", "middle", "tail", "all")
NAME = ["method", "classifier"]
PAIR = [*NAME, "baseline", "baseline_classifier"]
PRIORS = ("accuracy_forward", "accuracy_uniform", "accuracy_backward")
WORDS = {"gain": "higher", "loss": "lower", "open": "undecided", "equal": "equal", "single": "one seed"}
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
COSTS: Mapping[str, tuple[str, float, int]] = {
    "n_trained": ("Trained (M)", 1e-6, 3),
    "stored_bytes": ("Stored (MB)", 1e-6, 2),
    "n_train_chips": ("Chips", 1.0, 0),
    "train_seconds": ("Train s", 1.0, 1),
    "train_cpu_seconds": ("Train CPU s", 1.0, 1),
    "train_peak_bytes": ("Train peak (GB)", 1e-9, 2),
    "extract_seconds": ("Extract s", 1.0, 1),
    "extract_cpu_seconds": ("Extract CPU s", 1.0, 1),
    "extract_peak_bytes": ("Extract peak (GB)", 1e-9, 2),
}
"""Column of a table of costs -> heading with unit, factor to that unit, decimals."""
LITERATURE = (
    "SatMAE, self-supervised pre-training (Cong et al., NeurIPS 2022, arXiv 2207.08051)",
    "MoCo v3, self-supervised pre-training (Chen et al., ICCV 2021, arXiv 2104.02057)",
)
"""What adapters save; their cost stands in the papers and is not measured here, so no number is given."""


def percent(fraction: float) -> str:
    """Format a fraction in percent with one decimal, ``-`` when it is not a number."""
    return f"{100 * fraction:.1f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(fraction) else MISSING


def points(fraction: float) -> str:
    """Format a difference of fractions in signed percentage points, ``-`` when it is not a number."""
    if not math.isfinite(fraction):
        return MISSING
    text = f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")
    if text[1:] != "0.0":
        return text
    # A bound that is just off zero must not read as zero: it decides the verdict.
    finer = f"{100 * fraction:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if finer[1:] == "0.00" else finer


def between(lower: float, upper: float, *, signed: bool = False) -> str:
    """Format an interval, empty when an end is unknown."""
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return ""
    show = points if signed else percent
    return f"{show(lower)} to {show(upper)}"


def label(method: str, classifier: str) -> str:
    """Return the name of a method with its classifier; either may be empty."""
    return " · ".join(part for part in (method, classifier) if part)


def verdict(row: Any) -> str:
    """Say what a paired difference shows.

    Args:
        row: Line of a table of differences.

    Returns:
        ``"gain"`` or ``"loss"`` if the interval excludes zero; ``"equal"`` if all seeds are ties;
        ``"single"`` for one seed; otherwise or when the interval is unknown ``"open"``.
    """
    if "n_seeds" in row and row["n_seeds"] < 2:
        return "single"
    if "n_ties" in row and row["n_ties"] == row["n_seeds"]:
        return "equal"
    if row["ci_lower"] > 0:
        return "gain"
    return "loss" if row["ci_upper"] < 0 else "open"


def wins(row: Any) -> str:
    """Say in how many seeds a method is higher, empty for a single run."""
    if "n_wins" not in row:
        return ""
    ties = f", equal in {row['n_ties']:.0f}" if row["n_ties"] else ""
    return f"{row['n_wins']:.0f} of {row['n_seeds']:.0f}{ties}"


def score_table(
    scores: pd.DataFrame,
    differences: pd.DataFrame | None = None,
    *,
    intervals: bool = True,
    groups: Sequence[str] = ("tail", "all"),
) -> Table:
    """Return methods and classifiers in rows, class groups in columns; the best of a column has the style ``best``.

    Args:
        scores: Macro F1.
        differences: Paired differences to one baseline, shown in further columns.
        intervals: Show the interval of each score.
        groups: Groups whose differences are shown.
    """
    best = scores.groupby("group")["value"].max()
    header = ["Method", "Classifier", *(name.capitalize() for name in GROUPS)]
    paired: dict[tuple[str, str, str], Any] = {}
    if differences is not None and len(differences):
        baseline = label(*differences.iloc[0][["baseline", "baseline_classifier"]])
        header += [f"{name.capitalize()}, less {baseline}" for name in groups]
        paired = {(row["method"], row["classifier"], row["group"]): row for _, row in differences.iterrows()}
    rows = []
    for (method, classifier), own in scores.groupby(NAME, sort=False):
        found = {row["group"]: row for _, row in own.iterrows()}
        cells = [Cell(method, style="name"), Cell(classifier)]
        cells += [_score(found.get(group), best.get(group, math.nan), intervals) for group in GROUPS]
        if paired:
            cells += [_paired(paired.get((method, classifier, group))) for group in groups]
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows), 2)


def _score(row: Any, best: float, intervals: bool) -> Cell:
    if row is None or not math.isfinite(row["value"]):
        return Cell(MISSING)
    interval = between(row["ci_lower"], row["ci_upper"]) if intervals else ""
    if intervals and "sd" not in row:
        interval = interval or MISSING  # too few test chips for one
    return Cell(_spread(row, percent), interval, "best" if row["value"] == best else "")


def _spread(row: Any, show: Callable[[float], str]) -> str:
    sd = row.get("sd", math.nan)
    return show(row["value"]) + (f" {PLUS_MINUS} {percent(sd)}" if math.isfinite(sd) else "")


def _paired(row: Any) -> Cell:
    if row is None or not math.isfinite(row["value"]):
        return Cell(MISSING)
    parts = (between(row["ci_lower"], row["ci_upper"], signed=True), wins(row))
    return Cell(points(row["value"]), "; ".join(part for part in parts if part), verdict(row))


def difference_table(differences: pd.DataFrame) -> Table:
    """Return one paired difference per row, in percentage points, with what its interval says.

    A column ``alone`` of ``differences`` (what the single runs say) is shown when it is there.
    """
    seeds, alone = "n_wins" in differences, "alone" in differences
    rows = []
    for _, row in differences[differences["value"].notna()].iterrows():
        word = verdict(row)
        cells = [
            Cell(label(row["method"], row["classifier"]), style="name"),
            Cell(label(row["baseline"], row["baseline_classifier"])),
            Cell(row["group"], style=f"group {row['group']}"),
            Cell(WORDS[word], style=word),
            *([Cell(wins(row))] * seeds),
            *([Cell(str(row["alone"]) if alone else "")] * alone),
            Cell(_spread(row, points)),
            Cell(between(row["ci_lower"], row["ci_upper"], signed=True) or MISSING),
        ]
        rows.append(tuple(cells))
    further = (*(["Higher in"] * seeds), *(["Runs alone"] * alone))
    header = ("Method", "Against", "Group", "Verdict", *further, "Difference", "95 % interval")
    return Table(header, tuple(rows), 4 + seeds + alone)


def prior_table(scores: pd.DataFrame) -> Table:
    """Return the accuracy under other class priors: methods in rows, directions of the tail in columns."""
    own = scores[scores["metric"].isin(PRIORS) & scores["value"].notna()]
    best = own.groupby("metric")["value"].max()
    rows = []
    for (method, classifier), found in own.groupby(NAME, sort=False):
        by_metric = {row["metric"]: row for _, row in found.iterrows()}
        cells = [_score(by_metric.get(metric), best.get(metric, math.nan), False) for metric in PRIORS]
        rows.append((Cell(method, style="name"), Cell(classifier), *cells))
    titles = (metric.removeprefix("accuracy_").capitalize() for metric in PRIORS)
    return Table(("Method", "Classifier", *titles), tuple(rows), 2)


def study_table(scores: pd.DataFrame, variants: Sequence[str]) -> Table:
    """Return one line per method, classifier and variant of a study."""
    rows = []
    for (method, classifier), own in scores.groupby(NAME, sort=False):
        for variant in variants:
            found = {row["group"]: row for _, row in own[own["variant"] == variant].iterrows()}
            cells = [_score(found.get(group), math.nan, False) for group in GROUPS]
            rows.append((Cell(label(method, classifier), style="name"), Cell(variant), *cells))
    return Table(("Method", "Variant", *(name.capitalize() for name in GROUPS)), tuple(rows), 2)


def gain_table(gains: pd.DataFrame) -> Table:
    """Return how many classes of each group gain and lose, by the mean over seeds.

    Args:
        gains: Columns of :data:`PAIR`, ``rank``, ``group`` and ``gain`` (fraction), a line per class and
            seed.
    """
    by_class = gains.groupby([*PAIR, "group", "rank"], sort=False)["gain"].mean().dropna()
    found = by_class.groupby([*PAIR, "group"], sort=False).agg(
        up=lambda values: int((values > 0).sum()), down=lambda values: int((values < 0).sum()), mean="mean"
    )
    rows = [
        (
            Cell(label(*name[:2]), style="name"),
            Cell(label(*name[2:4])),
            Cell(name[4], style=f"group {name[4]}"),
            Cell(f"{row['up']:.0f}"),
            Cell(f"{row['down']:.0f}"),
            Cell(points(row["mean"])),
        )
        for name, row in found.iterrows()
    ]
    return Table(("Method", "Baseline", "Group", "Classes up", "Classes down", "Mean gain"), tuple(rows), 3)


def mismatch_table(mismatch: pd.DataFrame) -> Table:
    """Return the train-test gap and the scatter, means over the classes of each group."""
    names = {
        "gap": "Gap",
        "chance": "Gap by chance",
        "train_scatter": "Scatter, train",
        "test_scatter": "Scatter, test",
    }
    means = mismatch.groupby(["method", "group"], sort=False)[list(names)].mean().reset_index()
    return frame_table(means.rename(columns={"method": "Method", "group": "Group", **names}), n_text=2)


def separation_table(separation: pd.DataFrame) -> Table:
    """Return mean cosine distances: method and split in rows, metrics in columns."""
    wide = separation.pivot_table(
        index=["method", "split"], columns="metric", values="value", sort=False, dropna=False
    ).dropna(how="all")
    wide.columns = [str(name).replace("_", " ") for name in wide.columns]
    wide = wide.reset_index()
    return frame_table(wide.rename(columns={"method": "Method", "split": "Split"}), n_text=2)


def cost_table(costs: pd.DataFrame, *, cited: bool = True) -> Table:
    """Return what each method cost, with a line per citation whose cost was not measured.

    Args:
        costs: ``method`` and the columns of :data:`COSTS`, and ``variant`` in a study; NaN where not
            measured.
        cited: Add the citations.
    """
    names = ["variant", "method"] if "variant" in costs else ["method"]
    rows = []
    for _, row in costs.iterrows():
        numbers = [
            _scaled(row.get(key, math.nan), factor, digits) for key, (_, factor, digits) in COSTS.items()
        ]
        rows.append((Cell(row[names[0]], style="name"), *(Cell(row[key]) for key in names[1:]), *numbers))
    missing = (Cell(MISSING),) * (len(names) - 1 + len(COSTS))
    rows += [(Cell(name, style="name"), *missing) for name in LITERATURE if cited and rows]
    header = (*(name.capitalize() for name in names), *(title for title, _, _ in COSTS.values()))
    return Table(header, tuple(rows), len(names))


def _scaled(value: float, factor: float, digits: int) -> Cell:
    if pd.isna(value):
        return Cell(MISSING)
    return Cell(f"{factor * value:,.{digits}f}" if value else "0")


def frame_table(frame: pd.DataFrame, *, n_text: int = 1, digits: int = 3) -> Table:
    """Return a data frame as a table; numbers get ``digits`` decimals, unknown values a dash.

    The first column names the rows; a column ``Group`` gets the color of its group.
    """
    rows = []
    for row in frame.itertuples(index=False, name=None):
        cells = []
        for i, (column, value) in enumerate(zip(frame.columns, row, strict=True)):
            text = _shown(value, digits)
            style = f"group {text}" if column == "Group" and text in GROUPS else "name" if i == 0 else ""
            cells.append(Cell(text, style=style))
        rows.append(tuple(cells))
    return Table(tuple(map(str, frame.columns)), tuple(rows), n_text)


def _shown(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return MISSING
    return f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}"


def mapping_table(values: Mapping[str, Any], *, header: tuple[str, str] = ("What", "Value")) -> Table:
    """Return names and values as two columns of text."""
    rows = tuple(
        (Cell(str(key), style="name"), Cell(str(value), style="code")) for key, value in values.items()
    )
    return Table(header, rows, 2)
