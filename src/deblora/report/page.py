"""The page engine: a page is a title and sections of blocks, rendered to one HTML file or to Markdown.

A block is a :class:`Text`, :class:`Table`, :class:`Figure`, :class:`Pictures` or :class:`Details`. The HTML
needs no other file and runs no script; Markdown leaves figures and pictures out. Both escape all text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import ClassVar

GROUP_COLORS = {"head": "#0072B2", "middle": "#8A94A3", "tail": "#D55E00", "all": "#1F2933", "": "#C4CBD4"}
"""Color of each class group, in figures and on pages."""


@dataclass(frozen=True)
class Text:
    """A paragraph, or with ``code`` a block whose line breaks are kept."""

    text: str
    code: bool = False
    kind: ClassVar[str] = "text"


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
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        uri: ``data:`` address of an image.
        alt: What a screen reader says.
        width: Largest width on the page, pixels.
    """

    uri: str
    alt: str
    width: int
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Picture:
    """A photograph or chip.

    Attributes:
        uri: ``data:`` address of an image.
        caption: Below the picture.
        title: Shown when the pointer rests on it.
    """

    uri: str
    caption: str
    title: str = ""


@dataclass(frozen=True)
class Pictures:
    """Rows of pictures, each with a name (may be empty), shown ``side`` pixels wide."""

    rows: Mapping[str, Sequence[Picture]]
    side: int
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Details:
    """Blocks that the reader unfolds by a click on the title."""

    title: str
    blocks: tuple["Block", ...]
    kind: ClassVar[str] = "details"


Block = Text | Table | Figure | Pictures | Details


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; ``key`` is the anchor, unique on the page."""

    key: str
    title: str
    blocks: tuple[Block, ...]


def section(key: str, title: str, lead: str, *blocks: Block | None) -> Section | None:
    """Return a section that starts with a paragraph; None if no block has anything to show.

    Args:
        key: Anchor.
        title: Heading.
        lead: What is shown, in plain words.
        blocks: None and empty ones are left out.
    """
    shown = [block for block in blocks if block is not None and not _is_empty(block)]
    return Section(key, title, (Text(lead), *shown)) if shown else None


def present(sections: Sequence[Section | None]) -> list[Section]:
    """Return the sections that have something to show."""
    return [found for found in sections if found is not None]


def _is_empty(block: Block) -> bool:
    match block:
        case Details(blocks=blocks):
            return all(_is_empty(inner) for inner in blocks)
        case Table(rows=rows):
            return not rows
        case Pictures(rows=rows):
            return not any(rows.values())
        case Text(text=text):
            return not text
        case _:
            return False


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes:
        title: Headline.
        summary: The finding in plain sentences, shown first.
        facts: Name and value of what is shown beside the headline.
        sections: In order.
        notes: Caveats, one sentence each, shown last.
    """

    title: str
    summary: Sequence[str]
    facts: Mapping[str, str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()


def render_html(page: Page) -> str:
    """Return one HTML file that needs no other file and runs no script; all strings are escaped."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("deblora.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = lambda value: clean(value, keep="\n\t") if type(value) is str else value
    return environment.from_string(source).render(page=page, colors=GROUP_COLORS)


def render_markdown(page: Page) -> str:
    """Return the same sentences and tables as GitHub-flavored Markdown; all strings are escaped."""
    parts = [f"# {escape(page.title)}"]
    if page.facts:
        parts.append(escape("; ".join(f"{name}: {value}" for name, value in page.facts.items()) + "."))
    if page.summary:
        parts += ["## Summary", bullets(page.summary)]
    for section in page.sections:
        parts.append(f"## {escape(section.title)}")
        parts += [part for block in section.blocks for part in _markdown(block)]
    if page.notes:
        parts += ["## Notes", bullets(page.notes)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> list[str]:
    match block:
        case Text(text=text, code=True):
            # Indented code cannot be closed from within, whatever the text holds.
            lines = clean(text.rstrip(), keep="\n\t").splitlines()
            return ["\n".join(f"    {line}" for line in lines)]
        case Text(text=text):
            return [escape(text)]
        case Table():
            return [markdown_table(block)]
        case Details(title=title, blocks=blocks):
            return [f"{escape(title)}:", *(part for inner in blocks for part in _markdown(inner))]
        case _:
            return []


def bullets(sentences: Sequence[str]) -> str:
    """Return escaped sentences as a Markdown list."""
    return "\n".join(f"- {escape(sentence)}" for sentence in sentences)


def markdown_table(table: Table) -> str:
    """Return a table as GitHub-flavored Markdown; all strings are escaped."""
    marks = [":--" if i < table.n_text else "--:" for i in range(len(table.header))]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines = [[escape(name) for name in table.header], marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    text = escape(cell.text) + (f" ({escape(cell.interval)})" if cell.interval else "")
    return f"**{text}**" if cell.style == "best" else text


def escape(text: str) -> str:
    """Make ``text`` literal in a Markdown paragraph or table cell."""
    plain = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", clean(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clean(text: str, *, longest: int | None = None, keep: str = "") -> str:
    """Replace characters that cannot be printed, except those in ``keep``; shorten with an ellipsis."""
    printable = "".join(
        char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text
    )
    if longest is None or len(printable) <= longest:
        return printable
    return printable[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
