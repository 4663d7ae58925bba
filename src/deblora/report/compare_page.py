"""The page of a comparison and its Markdown twin, pure functions."""

from collections.abc import Mapping
from dataclasses import replace

from deblora.evaluate.seeds import SpreadRow
from deblora.report import seeds_figures as merged_figures
from deblora.report import seeds_tables as merged_tables
from deblora.report.compare_summary import summarize_comparison
from deblora.report.markdown import bullets, escape, sections_markdown
from deblora.report.page import Section, fill_template
from deblora.report.seeds_content import PRIOR_METRICS, CompareContent
from deblora.report.seeds_page import class_sections, origin_sections
from deblora.report.seeds_tables import costs
from deblora.report.tables import MISSING, Cell, Table, percent

__all__ = ["render_comparison_markdown", "render_comparison_page"]


def render_comparison_page(content: CompareContent) -> str:
    """Render the comparison as one HTML file that needs no other file and runs no script.

    Args:
        content: What to show; all its strings are escaped.
    """
    facts = [
        ("Data set", content.dataset),
        ("Backbone", content.backbone),
        ("Seeds", ", ".join(map(str, content.seeds))),
        ("Head / middle / tail", _sizes(content)),
    ]
    return fill_template(
        content, _sections(content, drawn=True), summary=summarize_comparison(content), facts=facts
    )


def render_comparison_markdown(content: CompareContent) -> str:
    """Render the same sentences and tables as GitHub-flavored Markdown; all strings are escaped."""
    opening = [f"# {escape(content.title)}", "## Summary", bullets(summarize_comparison(content))]
    return sections_markdown(opening, _sections(content, drawn=False), content.notes)


def _sizes(content: CompareContent) -> str:
    return ", ".join(dict.fromkeys(" / ".join(map(str, run.group_sizes)) for run in content.runs))


def _sections(content: CompareContent, *, drawn: bool) -> list[Section]:
    strong = " · ".join(content.strong)
    return [
        Section(
            "scores",
            "Comparison",
            "Macro F1 in percent: mean \N{PLUS-MINUS SIGN} standard deviation over seeds, with the 95 % t interval of "
            "the mean below. The best mean of a column is in bold. Penalties, strengths and rows are chosen on "
            "validation.",
            "No scores were given.",
            table=merged_tables.scores(content.scores),
        ),
        Section(
            "strong",
            "Against the best strong head",
            f"Row minus {strong}, seed by seed: the head on the features of the first adapter that did best on "
            "validation, in each seed. A filled mark means that the 95 % t interval over seeds excludes zero.",
            "No strong head was fitted.",
            figure=merged_figures.forest(_against_strong(content), key="strong") if drawn else "",
            table=merged_tables.differences(_against_strong(content), {}),
            folded="All differences to the strong head",
        ),
        Section(
            "differences",
            "Against LoRA with the linear probe",
            "Row minus baseline, seed by seed, for the plain and the balanced probe on the same adapter.",
            "No baseline was fitted.",
            table=merged_tables.differences(_against_others(content), {}),
            folded="All differences to the linear probes",
        ),
        Section(
            "priors",
            "Other test priors",
            "Accuracy in percent on test chips drawn with a long tail in the direction of training (forward), with "
            "equal counts (uniform) and with the tail reversed (backward), over 20 draws; mean \N{PLUS-MINUS SIGN} "
            "standard deviation over seeds.",
            "No other test prior was scored.",
            table=_priors(content),
        ),
        *class_sections(content, drawn=drawn),
        Section(
            "choices",
            "What validation chose",
            "The row behind each chosen one, by seed.",
            "Nothing was chosen.",
            table=_chosen(content),
        ),
        Section(
            "trials",
            "Validation trials",
            "Settings that each head tried on validation; a head without settings has one.",
            "No trials were recorded.",
            table=_trials(content.n_trials),
            folded="Trials by row",
        ),
        Section(
            "costs",
            "Cost",
            "What the features of each row took, means over seeds: trained numbers of the extractor in millions, "
            "stored megabytes, training chips, wall and processor seconds, and the highest memory of the process. "
            "The line of deblora holds everything before its features. Probes and heads cost the same for all rows. "
            "Pre-training is cited, not measured.",
            "No costs were recorded.",
            table=costs(content.costs),
        ),
        Section(
            "cost",
            "Time",
            "Seconds per stage, mean over seeds.",
            "No times were recorded.",
            table=_seconds(content.seconds),
            folded="Seconds by stage",
        ),
        Section(
            "runs",
            "Seeds",
            "What was compared. The hash covers chips, ids and splits; its first 16 digits are shown.",
            "No runs were given.",
            table=merged_tables.runs(content.runs),
        ),
        *origin_sections("The settings that all seeds share", content.recipe_yaml, content.provenance),
    ]


def _against_strong(content: CompareContent) -> list[SpreadRow]:
    return [
        replace(row, against={content.strong: row.against[content.strong]})
        for row in content.scores
        if content.strong in row.against
    ]


def _against_others(content: CompareContent) -> list[SpreadRow]:
    return [
        replace(row, against={name: found for name, found in row.against.items() if name != content.strong})
        for row in content.scores
    ]


def _priors(content: CompareContent) -> Table:
    found: dict[tuple[str, str], dict[str, SpreadRow]] = {}
    for row in content.rows:
        if row.entry.metric in PRIOR_METRICS and row.spread.n:
            found.setdefault((row.entry.method, row.entry.probe), {})[row.entry.metric] = row
    best = {
        metric: max((rows[metric].spread.mean for rows in found.values() if metric in rows), default=0.0)
        for metric in PRIOR_METRICS
    }
    lines = [
        (
            Cell(method, style="name"),
            Cell(probe),
            *(_accuracy(rows.get(metric), best[metric]) for metric in PRIOR_METRICS),
        )
        for (method, probe), rows in found.items()
    ]
    titles = (metric.removeprefix("accuracy_").capitalize() for metric in PRIOR_METRICS)
    return Table(("Method", "Head", *titles), tuple(lines), 2)


def _accuracy(row: SpreadRow | None, best: float) -> Cell:
    if row is None:
        return Cell(MISSING)
    text = percent(row.spread.mean)
    if row.spread.n > 1:
        text += f" \N{PLUS-MINUS SIGN} {percent(row.spread.sd)}"
    return Cell(text, style="best" if row.spread.mean == best else "")


def _chosen(content: CompareContent) -> Table:
    lines = [
        (Cell(" · ".join(name), style="name"), *(Cell(row) for row in rows))
        for name, rows in content.chosen.items()
    ]
    header = ("Row", *(f"seed {seed}" for seed in content.seeds))
    return Table(header, tuple(lines), len(header))


def _trials(n_trials: Mapping[tuple[str, str], int]) -> Table:
    lines = [(Cell(method, style="name"), Cell(head), Cell(str(n))) for (method, head), n in n_trials.items()]
    return Table(("Method", "Head", "Trials"), tuple(lines), 2)


def _seconds(seconds: Mapping[str, float]) -> Table:
    lines = [(Cell(stage, style="name"), Cell(f"{value:,.1f}")) for stage, value in seconds.items()]
    return Table(("Stage", "Seconds"), tuple(lines), 1)
