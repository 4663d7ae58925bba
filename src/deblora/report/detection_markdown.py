"""The report of a detection run, and the table over runs, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from deblora.report.detection_page import classes_table, groups_table, sentences
from deblora.report.tables import Table


def render_detection_markdown(title: str, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return title, finding, groups and classes; ``facts`` may be empty (foreign predictions)."""
    lines = [f"# {title}", "", *(f"- {line}" for line in sentences(summary))]
    if facts:
        lines.append(
            f"- {facts['method']} on {facts['backbone']}, seed {facts['seed']}: extractor "
            f"{facts['n_extractor'] / 1e6:.2f} M parameters, {facts['n_extractor_trained'] / 1e6:.2f} M of them "
            f"trained; neck and head {facts['n_head'] / 1e6:.2f} M"
        )
    return "\n".join(
        [*lines, "", *table_lines(groups_table(summary)), "", *table_lines(classes_table(summary)), ""]
    )


def table_lines(table: Table) -> list[str]:
    """Return a table in Markdown."""
    rule = ["---"] * table.n_text + ["---:"] * (len(table.header) - table.n_text)
    cells: Sequence[Sequence[str]] = [
        [cell.text + (f" [{cell.interval}]" if cell.interval else "") for cell in row] for row in table.rows
    ]
    return [f"| {' | '.join(row)} |" for row in (table.header, rule, *cells)]
