"""Tables over several runs, shared by the merged page and its Markdown."""

import math
from collections.abc import Mapping, Sequence

from deblora.evaluate.seeds import PairedSpread, SpreadRow
from deblora.report.content import GROUP_NAMES
from deblora.report.seeds_content import CostRow, MergedRun, Verdicts
from deblora.report.tables import MISSING, Cell, Table, between, percent, points

WORDS = {"gain": "higher", "loss": "lower", "open": "undecided"}
N_HASH_DIGITS = 16


def scores(rows: Sequence[SpreadRow]) -> Table:
    """Methods and probes in rows, groups in columns; the best mean of a column has the style ``best``."""
    found: dict[tuple[str, str], dict[str, SpreadRow]] = {}
    for row in rows:
        found.setdefault((row.entry.method, row.entry.probe), {})[row.entry.group] = row
    best = {
        group: max((r.spread.mean for r in rows if r.entry.group == group and r.spread.n), default=math.nan)
        for group in GROUP_NAMES
    }
    lines = []
    for (method, probe), by_group in found.items():
        cells = [Cell(method, style="name"), Cell(probe)]
        cells += [_score(by_group.get(group), best[group]) for group in GROUP_NAMES]
        lines.append(tuple(cells))
    return Table(("Method", "Probe", *(name.capitalize() for name in GROUP_NAMES)), tuple(lines), 2)


def _score(row: SpreadRow | None, best: float) -> Cell:
    if row is None or not row.spread.n:
        return Cell(MISSING)
    spread = row.spread
    text = percent(spread.mean)
    if spread.n > 1:
        text += f" \N{PLUS-MINUS SIGN} {percent(spread.sd)}"
    interval = between(spread.ci_lower, spread.ci_upper).replace("-", "\N{MINUS SIGN}")
    return Cell(text, interval, "best" if spread.mean == best else "")


def differences(rows: Sequence[SpreadRow], verdicts: Verdicts) -> Table:
    """One paired difference over seeds per row, with wins and what each run says on its own."""
    lines = []
    for row, baseline, found in pairs(rows):
        alone = verdicts.get((row.entry, baseline), ())
        lines.append(
            (
                *_names(row, baseline),
                *_verdict(found),
                Cell(_counts(alone)),
                *_numbers(found),
            )
        )
    header = (
        "Method",
        "Against",
        "Group",
        "Over seeds",
        "Higher in",
        "Runs alone",
        "Difference",
        "95 % interval",
    )
    return Table(header, tuple(lines), 6)


def pooled(rows: Sequence[SpreadRow]) -> Table:
    """The same over the runs of all data sets, without the verdicts of single runs."""
    lines = [
        (*_names(row, baseline), *_verdict(found), *_numbers(found)) for row, baseline, found in pairs(rows)
    ]
    header = ("Method", "Against", "Group", "Over runs", "Higher in", "Difference", "95 % interval")
    return Table(header, tuple(lines), 5)


def pairs(rows: Sequence[SpreadRow]) -> list[tuple[SpreadRow, tuple[str, str], PairedSpread]]:
    """Return the comparisons that at least one run allows, in the order of the rows."""
    return [
        (row, baseline, found)
        for row in rows
        for baseline, found in row.against.items()
        if found.spread.n and row.entry.group in GROUP_NAMES
    ]


def word(found: PairedSpread) -> str:
    """Say what the seeds tell: higher, lower, undecided, equal in every run, or only one seed."""
    if found.spread.n < 2:
        return "one seed"
    return "equal" if found.n_ties == found.spread.n else WORDS[found.verdict]


def _names(row: SpreadRow, baseline: tuple[str, str]) -> tuple[Cell, ...]:
    group = row.entry.group
    return (
        Cell(f"{row.entry.method} · {row.entry.probe}", style="name"),
        Cell(" · ".join(baseline)),
        Cell(group, style=f"group {group}"),
    )


def _verdict(found: PairedSpread) -> tuple[Cell, ...]:
    wins = f"{found.n_wins} of {found.spread.n}"
    if found.n_ties:
        wins += f", equal in {found.n_ties}"
    return Cell(word(found), style=found.verdict), Cell(wins)


def _numbers(found: PairedSpread) -> tuple[Cell, ...]:
    spread = found.spread
    text = points(spread.mean)
    if spread.n > 1:
        text += f" \N{PLUS-MINUS SIGN} {percent(spread.sd)}"
    return Cell(text), Cell(between(spread.ci_lower, spread.ci_upper, signed=True) or MISSING)


def _counts(verdicts: Sequence[str]) -> str:
    parts = [f"{verdicts.count(name)} {shown}" for name, shown in WORDS.items() if verdicts.count(name)]
    return ", ".join(parts) or MISSING


def runs(merged: Sequence[MergedRun]) -> Table:
    """Name, seed and data of every run."""
    lines = [
        (
            Cell(run.name, style="name"),
            Cell(run.unit.dataset),
            Cell(run.unit.backbone),
            Cell(run.data_sha256[:N_HASH_DIGITS], style="code"),
            Cell(str(run.unit.seed)),
            Cell(" / ".join(map(str, run.group_sizes))),
            Cell(f"{run.n_train:,}"),
            Cell(f"{run.n_test:,}"),
        )
        for run in merged
    ]
    header = ("Run", "Data set", "Backbone", "Data sha256", "Seed", "Head / middle / tail", "Train", "Test")
    return Table(header, tuple(lines), 4)


def provenance(values: Mapping[str, str]) -> Table:
    """Versions."""
    lines = tuple((Cell(key, style="name"), Cell(value, style="code")) for key, value in values.items())
    return Table(("What", "Value"), lines, 2)


HEADER = (
    "Method",
    "Trained (M)",
    "Stored (MB)",
    "Chips",
    "Train s",
    "Train CPU s",
    "Train peak (GB)",
    "Extract s",
    "Extract CPU s",
    "Extract peak (GB)",
)
LITERATURE = (
    "SatMAE, self-supervised pre-training (Cong et al., NeurIPS 2022, arXiv 2207.08051)",
    "MoCo v3, self-supervised pre-training (Chen et al., ICCV 2021, arXiv 2104.02057)",
)
"""What adapters save; their cost stands in the papers and is not measured here, so no number is given."""


def costs(rows: Sequence[CostRow]) -> Table:
    """Return one line per row, means over seeds, then the citations without numbers."""
    lines = [(Cell(row.method, style="name"), *_cells(row.values)) for row in rows]
    if lines:
        missing = tuple(Cell(MISSING) for _ in HEADER[1:])
        lines += [(Cell(name, style="name"), *missing) for name in LITERATURE]
    return Table(HEADER, tuple(lines), 1)


def study_costs(found: Mapping[str, Sequence[CostRow]], methods: Sequence[str]) -> Table:
    """Return one line per variant and method of a study; the methods' own features only.

    Args:
        found: Costs by variant.
        methods: Those that the study shows; others are left out.
    """
    lines = [
        (Cell(variant, style="name"), Cell(row.method), *_cells(row.values))
        for variant, rows in found.items()
        for row in rows
        if row.method in methods
    ]
    return Table(("Variant", *HEADER), tuple(lines), 2)


def _cells(values: Mapping[str, float]) -> tuple[Cell, ...]:
    shown = [
        _number(values.get("n_trained"), 1e-6, 3),
        _number(values.get("stored_bytes"), 1e-6, 2),
        _number(values.get("n_train_chips"), 1.0, 0),
    ]
    for part in ("train", "extract"):
        shown += [_number(values.get(f"{part}_{key}"), 1.0, 1) for key in ("seconds", "cpu_seconds")]
        shown.append(_number(values.get(f"{part}_peak_bytes"), 1e-9, 2))
    return tuple(Cell(text) for text in shown)


def _number(value: float | None, factor: float, n_digits: int) -> str:
    if value is None or math.isnan(value):
        return MISSING
    return f"{factor * value:,.{n_digits}f}" if value else "0"
