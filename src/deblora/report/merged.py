"""The report over several runs: one self-contained page and its Markdown twin, pure functions."""

from deblora.report import merged_figures, merged_tables
from deblora.report.frame import Section, fill_template
from deblora.report.markdown import bullets, escape, sections_markdown
from deblora.report.merged_content import MergedContent, Study
from deblora.report.merged_summary import summarize_merged
from deblora.report.tables import MISSING

__all__ = ["render_merged_markdown", "render_merged_page"]


def render_merged_page(content: MergedContent) -> str:
    """Render the merged report as one HTML file that needs no other file and runs no script.

    Args:
        content: What to show; all its strings are escaped.
    """
    return fill_template(
        content, _sections(content), summary=summarize_merged(content), facts=_facts(content)
    )


def render_merged_markdown(content: MergedContent) -> str:
    """Render the same sentences and tables as GitHub-flavored Markdown; all strings are escaped."""
    opening = [f"# {escape(content.title)}", "## Summary", bullets(summarize_merged(content))]
    return sections_markdown(opening, _sections(content, drawn=False), content.notes)


def _facts(content: MergedContent) -> list[tuple[str, str]]:
    def distinct(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(values)) or MISSING

    return [
        ("Data sets", distinct([study.dataset for study in content.studies])),
        ("Backbones", distinct([study.backbone for study in content.studies])),
        ("Runs", str(len(content.runs))),
        ("Seeds", distinct([str(run.unit.seed) for run in content.runs])),
        (
            "Head / middle / tail",
            distinct([" / ".join(map(str, run.group_sizes)) for run in content.runs]),
        ),
    ]


def _sections(content: MergedContent, *, drawn: bool = True) -> list[Section]:
    sections = []
    for number, study in enumerate(content.studies, start=1):
        sections += _study_sections(content, study, number, drawn=drawn)
    if len(content.studies) > 1:
        sections.append(
            Section(
                "pooled",
                "Over all runs",
                "Paired differences over the runs of all data sets and backbones, each run counted once. Runs of one "
                "data set resemble each other, so the interval says nothing about a further data set.",
                "No method was scored beside a baseline.",
                table=merged_tables.pooled(content.pooled),
                folded="All differences",
            )
        )
    recipes = "\n".join(f"# {study.name}\n{study.recipe_yaml}" for study in content.studies)
    return [
        *sections,
        Section(
            "runs",
            "Runs",
            "What was merged, by the name of its folder. The hash covers chips, ids and splits, so it changes with "
            "the seed wherever the seed draws the split; its first 16 digits are shown.",
            "No runs were given.",
            table=merged_tables.runs(content.runs),
        ),
        Section(
            "recipes",
            "Recipes",
            "The settings that the runs of a data set and backbone share; paths are cut to their last part.",
            "No recipe was given.",
            text=recipes,
        ),
        Section(
            "provenance",
            "Provenance",
            "What merged the runs.",
            "No provenance was recorded.",
            table=merged_tables.provenance(content.provenance),
        ),
    ]


def _study_sections(content: MergedContent, study: Study, number: int, *, drawn: bool) -> list[Section]:
    several = len(study.runs) > 1
    place = f": {study.name}" if len(content.studies) > 1 else ""
    spread = (
        "Macro F1 in percent: mean \N{PLUS-MINUS SIGN} standard deviation over seeds, with the 95 % t interval of "
        "the mean below. The best mean of a column is in bold. In the figure, a circle is one seed."
        if several
        else "Macro F1 in percent. One seed: no spread can be given."
    )
    paired = (
        "Method minus baseline, run by run. A filled mark means that the 95 % t interval over seeds excludes zero; a "
        "small circle is one seed; what leaves the figure is cut. Intervals are not corrected for the number of "
        'comparisons. In the table, "Runs alone" counts what each run says by its own bootstrap over test chips.'
        if several
        else "Method minus baseline. One seed: no spread can be given, and no interval over seeds."
    )
    return [
        Section(
            f"scores-{number}",
            f"Comparison{place}",
            spread,
            "No scores were given.",
            merged_figures.bars(study.rows, key=f"bars{number}") if drawn else "",
            merged_tables.scores(study.rows),
        ),
        Section(
            f"differences-{number}",
            f"Paired differences{place}",
            paired,
            "No method was scored beside a baseline.",
            merged_figures.forest(study.rows, key=f"forest{number}") if drawn else "",
            merged_tables.differences(study.rows, study.verdicts),
            "All differences",
        ),
    ]
