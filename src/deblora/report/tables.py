"""Tables and number formats that the page and the Markdown share."""

import math
from dataclasses import dataclass

from deblora.report.content import GROUP_NAMES, ReportContent, ScoreRow

MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """One number or text of a table, with its interval in smaller type and style names for the page."""

    text: str
    interval: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Header and rows; the first ``n_text`` columns hold words, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    n_text: int


def percent(fraction: float) -> str:
    """Format a fraction in percent with one decimal, ``-`` when it is not a number."""
    return f"{100 * fraction:.1f}" if math.isfinite(fraction) else MISSING


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


def scores(content: ReportContent) -> Table:
    """Methods and probes in rows, groups in columns; the best of a column has the style ``best``."""
    found: dict[tuple[str, str], dict[str, ScoreRow]] = {}
    for row in content.rows:
        found.setdefault((row.method, row.probe), {})[row.group] = row
    best = {
        group: max(
            (r.value for r in content.rows if r.group == group and math.isfinite(r.value)), default=math.nan
        )
        for group in GROUP_NAMES
    }
    rows = []
    for (method, probe), by_group in found.items():
        cells = [Cell(method, style="name"), Cell(probe)]
        cells += [_score(by_group.get(group), best[group]) for group in GROUP_NAMES]
        rows.append(tuple(cells))
    return Table(("Method", "Probe", *(name.capitalize() for name in GROUP_NAMES)), tuple(rows), 2)


def _score(row: ScoreRow | None, best: float) -> Cell:
    if row is None or not math.isfinite(row.value):
        return Cell(MISSING)
    return Cell(
        percent(row.value),
        between(row.ci_lower, row.ci_upper) or MISSING,
        "best" if row.value == best else "",
    )


def differences(content: ReportContent) -> Table:
    """One paired difference per row, in percentage points, with what its interval says."""
    words = {"gain": "higher", "loss": "lower", "open": "undecided"}
    rows = []
    for row in content.differences:
        verdict = words[row.verdict] if math.isfinite(row.value) else MISSING
        rows.append(
            (
                Cell(f"{row.method} · {row.probe}", style="name"),
                Cell(f"{row.baseline} · {row.baseline_probe}"),
                Cell(row.group, style=f"group {row.group}" if row.group in GROUP_NAMES else ""),
                Cell(verdict, style=row.verdict),
                Cell(points(row.value)),
                Cell(between(row.ci_lower, row.ci_upper, signed=True) or MISSING),
            )
        )
    return Table(("Method", "Against", "Group", "Verdict", "Difference", "95 % interval"), tuple(rows), 4)


def classes(content: ReportContent) -> Table:
    """Chips of every class in every split, from the most to the least frequent."""
    group_of = content.group_of()
    rows = []
    for index in content.by_count():
        group = group_of[index]
        cells = [Cell(content.class_names[index], style="name")]
        cells.append(Cell(group or MISSING, style=f"group {group}" if group else ""))
        cells += [Cell(f"{int(counts[index]):,}") for counts in content.counts.values()]
        for alpha in content.alpha_per_class.values():
            value = float(alpha[index])
            cells.append(Cell(f"{value:.3f}" if math.isfinite(value) else MISSING))
        rows.append(tuple(cells))
    header = ("Class", "Group", *content.counts, *(f"alpha, {name}" for name in content.alpha_per_class))
    return Table(header, tuple(rows), 2)


def separation(content: ReportContent) -> Table:
    """Mean cosine distances: labels in rows, metrics in columns."""
    metrics = list(dict.fromkeys(metric for values in content.separation.values() for metric in values))
    rows = []
    for label, values in content.separation.items():
        numbers = [values.get(metric, math.nan) for metric in metrics]
        cells = [Cell(f"{number:.3f}" if math.isfinite(number) else MISSING) for number in numbers]
        rows.append((Cell(label, style="name"), *cells))
    return Table(("Features", *(metric.replace("_", " ") for metric in metrics)), tuple(rows), 1)


def provenance(content: ReportContent) -> Table:
    """Hashes, versions and machine."""
    rows = tuple(
        (Cell(key, style="name"), Cell(value, style="code")) for key, value in content.provenance.items()
    )
    return Table(("What", "Value"), rows, 2)


def timings(content: ReportContent) -> Table:
    """Seconds per stage and their sum."""
    rows = [
        (Cell(stage, style="name"), Cell(f"{seconds:,.1f}")) for stage, seconds in content.timings.items()
    ]
    if len(rows) > 1:
        rows.append(
            (Cell("total", style="total"), Cell(f"{sum(content.timings.values()):,.1f}", style="total"))
        )
    return Table(("Stage", "Seconds"), tuple(rows), 1)
