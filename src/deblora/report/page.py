"""The frame of every page: sections, and the template that turns them into one HTML file without scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from deblora.report.svg import GROUP_COLORS, clean
from deblora.report.tables import Table


@dataclass(frozen=True)
class Section:
    """A part of the page; ``missing`` is said when it has neither figure nor table nor text."""

    key: str
    title: str
    lead: str
    missing: str
    figure: str = ""
    table: Table | None = None
    folded: str = ""
    text: str = ""

    @property
    def empty(self) -> bool:
        """True when there is nothing to show."""
        return not (self.figure or self.text or (self.table and self.table.rows))


def fill_template(
    content: object,
    sections: Sequence[Section],
    *,
    summary: Sequence[str],
    facts: Sequence[tuple[str, str]],
) -> str:
    """Return one HTML file that needs no other file and runs no script; all strings are escaped.

    Args:
        content: Has ``title`` and ``notes``.
        sections: Parts of the page, in order.
        summary: The finding in plain sentences.
        facts: Name and value of what is shown on top.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = resources.files("deblora.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = _printable
    environment.filters["svg"] = Markup
    return environment.from_string(source).render(
        content=content, sections=sections, summary=summary, colors=GROUP_COLORS, facts=facts
    )


def _printable(value: object) -> object:
    return clean(value, keep="\n\t") if type(value) is str else value
