"""The table of costs: what each row trained and used, beside pre-training that is known from the literature only."""

import math
from collections.abc import Mapping, Sequence

from deblora.report.compare_content import CostRow
from deblora.report.tables import MISSING, Cell, Table

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
