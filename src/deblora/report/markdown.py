"""The report as Markdown: the same sentences and tables, without figures."""

import re
from collections.abc import Sequence

from deblora.report import tables
from deblora.report.content import ReportContent
from deblora.report.page import Section
from deblora.report.summary import summarize
from deblora.report.svg import clean
from deblora.report.tables import Cell, Table


def render_markdown(content: ReportContent) -> str:
    """Render summary, tables and recipe as GitHub-flavored Markdown; all strings are escaped."""
    seeds = ", ".join(map(str, content.seeds)) or tables.MISSING
    lines = [
        f"# {escape(content.title)}",
        f"Dataset {escape(content.dataset)}, backbone {escape(content.backbone)}, seeds {seeds}.",
        "## Summary",
        bullets(summarize(content)),
    ]
    parts = (
        ("Comparison (macro F1, %)", tables.scores(content)),
        ("Paired differences (percentage points)", tables.differences(content)),
        ("Classes", tables.classes(content)),
        ("Separation (mean cosine distance)", tables.separation(content)),
        ("Provenance", tables.provenance(content)),
        ("Timings", tables.timings(content)),
    )
    for title, table in parts:
        lines += [f"## {title}", markdown_table(table) if table.rows else "Not available."]
    if content.recipe_yaml:
        whitespace = "\n\t"
        # A fence longer than any run of backticks inside cannot be closed from within.
        longest = max((len(run) for run in re.findall(r"`+", content.recipe_yaml)), default=0)
        fence = "`" * max(3, longest + 1)
        lines += [
            "## Recipe",
            f"{fence}yaml\n{clean(content.recipe_yaml, keep=whitespace).rstrip()}\n{fence}",
        ]
    if content.notes:
        lines += ["## Notes", bullets(content.notes)]
    return "\n\n".join(lines) + "\n"


def sections_markdown(opening: Sequence[str], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Return a page of sections as GitHub-flavored Markdown, figures left out; texts of sections are escaped.

    Args:
        opening: Blocks before the first section, as Markdown.
        sections: Parts of the page, in order.
        notes: Caveats, one sentence each.
    """
    lines = list(opening)
    for section in sections:
        lines += [f"## {escape(section.title)}", escape(section.missing if section.empty else section.lead)]
        if section.table and section.table.rows:
            lines.append(markdown_table(section.table))
        if section.text:
            # Indented code cannot be closed from within, whatever the text holds.
            lines.append("\n".join(f"    {line}" for line in section.text.rstrip().splitlines()))
    if notes:
        lines += ["## Notes", bullets(notes)]
    return "\n\n".join(lines) + "\n"


def bullets(sentences: Sequence[str]) -> str:
    """Return escaped sentences as a list."""
    return "\n".join(f"- {escape(sentence)}" for sentence in sentences)


def escape(text: str) -> str:
    """Make ``text`` literal in a Markdown paragraph or table cell."""
    plain = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", clean(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> str:
    """Return a table as GitHub-flavored Markdown; all strings are escaped."""
    header = "| " + " | ".join(escape(name) for name in table.header) + " |"
    marks = [":--" if i < table.n_text else "--:" for i in range(len(table.header))]
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join([header, "| " + " | ".join(marks) + " |", *rows])


def _cell(cell: Cell) -> str:
    text = escape(cell.text) + (f" ({cell.interval})" if cell.interval else "")
    return f"**{text}**" if cell.style == "best" else text
