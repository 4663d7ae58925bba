"""The page of a study and its Markdown twin, pure functions."""

from deblora.evaluate.seeds import PairedSpread, Spread
from deblora.report.markdown import bullets, escape, sections_markdown
from deblora.report.page import Section, fill_template
from deblora.report.seeds_content import GROUPS, StudyContent, StudyPoint
from deblora.report.seeds_page import origin_sections
from deblora.report.seeds_tables import study_costs, word
from deblora.report.study_figures import curves
from deblora.report.tables import MISSING, Cell, Table, between, percent, points

__all__ = ["render_study_markdown", "render_study_page", "summarize_study"]


def render_study_page(content: StudyContent) -> str:
    """Render the study as one HTML file that needs no other file and runs no script; all strings are escaped."""
    facts = [
        ("Varied", content.axis()[0]),
        ("Variants", str(len(content.variants))),
        ("Seeds", ", ".join(map(str, content.seeds))),
    ]
    return fill_template(
        content, _sections(content, drawn=True), summary=summarize_study(content), facts=facts
    )


def render_study_markdown(content: StudyContent) -> str:
    """Render the same sentences and tables as GitHub-flavored Markdown; all strings are escaped."""
    opening = [f"# {escape(content.title)}", bullets(summarize_study(content))]
    return sections_markdown(opening, _sections(content, drawn=False), content.notes)


def summarize_study(content: StudyContent) -> tuple[str, ...]:
    """Say for every row how much the setting matters on the tail and over all classes; plain sentences.

    A difference counts as found when its 95 % t interval over seeds excludes zero; intervals are not corrected for the
    number of comparisons.
    """
    n = len(content.seeds)
    sentences = [
        f"{len(content.variants)} variants of {content.axis()[0]}, {n} seed{'s' if n > 1 else ''} each; differences "
        "are paired seed by seed with the first variant."
    ]
    for row in content.rows:
        for group in ("tail", "all"):
            sentences += _matters(content, row, group)
    return tuple(sentences)


def _matters(content: StudyContent, row: tuple[str, str], group: str) -> list[str]:
    own = [point for point in content.of(row, group) if point.spread.n]
    if len(own) < 2:
        return []
    low, high = (pick(own, key=lambda point: point.spread.mean) for pick in (min, max))
    place = "over all classes" if group == "all" else f"on the {group} classes"
    sentence = (
        f"{' · '.join(row)} {place}: from {percent(low.spread.mean)} % ({low.variant}) to "
        f"{percent(high.spread.mean)} % ({high.variant})"
    )
    if len(content.seeds) < 2:
        return [f"{sentence}; one seed cannot say whether that is more than chance."]
    found = [
        point
        for point in own
        if point.to_first and point.to_first.verdict != "open" and word(point.to_first) != "equal"
    ]
    first = own[0].variant
    if not found:
        return [f"{sentence}; no variant differs significantly from {first}."]
    parts = [f"{point.variant} {_paired(point.to_first)}" for point in found]
    return [f"{sentence}; significantly different from {first}: {', '.join(parts)}."]


def _sections(content: StudyContent, *, drawn: bool) -> list[Section]:
    return [
        Section(
            "curves",
            "Sensitivity",
            "Macro F1 in percent by variant: mean over seeds, with the 95 % t interval of the mean as a band. The "
            "black line is LoRA with balanced softmax in the same runs.",
            "No scores were given.",
            figure=curves(content, key="curves") if drawn else "",
            table=_scores(content),
        ),
        Section(
            "differences",
            "Paired differences",
            "Seed by seed: to the same row in the first variant, and to LoRA with balanced softmax in the "
            "same variant.",
            "There is one variant only.",
            table=_differences(content),
            folded="All differences",
        ),
        Section(
            "costs",
            "Cost",
            "What the features of each method took in each variant, means over seeds; what variants share was computed "
            "and measured once.",
            "No costs were recorded.",
            table=study_costs(content.costs, [method for method, _ in content.rows]),
            folded="Cost by variant",
        ),
        *origin_sections("The settings of the first variant", content.recipe_yaml, content.provenance),
    ]


def _scores(content: StudyContent) -> Table:
    lines = []
    for row in content.rows:
        for variant in content.variants:
            found = {
                point.group: point.spread
                for point in content.points
                if (point.row, point.variant) == (row, variant)
            }
            cells = [_score(found.get(group)) for group in GROUPS]
            lines.append((Cell(" · ".join(row), style="name"), Cell(variant), *cells))
    return Table(("Row", "Variant", *(group.capitalize() for group in GROUPS)), tuple(lines), 2)


def _score(spread: Spread | None) -> Cell:
    if spread is None or not spread.n:
        return Cell(MISSING)
    text = percent(spread.mean)
    return Cell(f"{text} \N{PLUS-MINUS SIGN} {percent(spread.sd)}" if spread.n > 1 else text)


def _differences(content: StudyContent) -> Table:
    lines = [_line(point) for point in content.points if point.to_first or point.to_lora]
    header = ("Row", "Variant", "Group", "To the first variant", "To LoRA, balanced softmax")
    return Table(header, tuple(lines), 3)


def _line(point: StudyPoint) -> tuple[Cell, ...]:
    return (
        Cell(" · ".join(point.row), style="name"),
        Cell(point.variant),
        Cell(point.group, style=f"group {point.group}"),
        Cell(_paired(point.to_first)),
        Cell(_paired(point.to_lora)),
    )


def _paired(found: PairedSpread | None) -> str:
    if found is None or not found.spread.n:
        return MISSING
    spread = found.spread
    text = points(spread.mean)
    interval = between(spread.ci_lower, spread.ci_upper, signed=True)
    return f"{text} ({interval}; {found.n_wins} of {spread.n})" if interval else text
