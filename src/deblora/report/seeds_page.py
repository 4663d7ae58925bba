"""The report over several runs: one self-contained page and its Markdown twin, pure functions."""

import math
from collections.abc import Mapping, Sequence

from deblora.report import seeds_figures as class_figures
from deblora.report import seeds_figures as merged_figures
from deblora.report import seeds_tables as merged_tables
from deblora.report.markdown import bullets, escape, sections_markdown
from deblora.report.page import Section, fill_template
from deblora.report.seeds_content import ClassGap, CompareContent, MergedContent, Study
from deblora.report.seeds_summary import summarize_merged
from deblora.report.tables import MISSING, Cell, Table, points

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


def class_sections(content: CompareContent, *, drawn: bool) -> list[Section]:
    """Return the sections on train-test mismatch, gain by class and separation.

    Args:
        content: What to show.
        drawn: With figures, which Markdown cannot hold.
    """
    return [
        Section(
            "mismatch",
            "Training against test, class by class",
            "Distance between the mean of the training and of the test features of a class, and the scatter of both, "
            "for features of unit length, classes by falling count; dotted: the gap that chance alone gives. "
            "A class whose scatter is far smaller in training than in test has shrunk in training only.",
            "No features were compared.",
            figure=class_figures.mismatch(content.gaps) if drawn else "",
            table=_gaps(content),
        ),
        Section(
            "gains",
            "Gain by class",
            "F1 less that of the same probe on the first adapter, in points, classes by falling count; a bar is the "
            "mean, a dot a seed.",
            "No pair of rows to compare class by class.",
            figure=class_figures.gains(content.gains) if drawn else "",
            table=_gains(content),
        ),
        Section(
            "separation",
            "Separation",
            "Mean cosine distance between the centers of head and tail classes, between those of tail classes, and of "
            "tail chips to their center; means over seeds.",
            "No distances were computed.",
            table=_separation(content),
        ),
    ]


def _gaps(content: CompareContent) -> Table:
    """Return means over the classes of each group."""
    keys = ("gap", "chance", "train_scatter", "test_scatter")
    found: dict[tuple[str, str], list[ClassGap]] = {}
    for gap in content.gaps:
        found.setdefault((gap.method, gap.group), []).append(gap)
    lines = [
        (
            Cell(method, style="name"),
            Cell(group),
            *(_decimal([getattr(gap, key) for gap in own]) for key in keys),
        )
        for (method, group), own in found.items()
    ]
    header = ("Method", "Group", "Gap", "Gap by chance", "Scatter, train", "Scatter, test")
    return Table(header, tuple(lines), 2)


def _gains(content: CompareContent) -> Table:
    """Return how many classes of each group gain and lose, by the mean over seeds."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for gain in content.gains:
        known = [value for value in gain.gains if math.isfinite(value)]
        if known:
            key = " · ".join(gain.row), " · ".join(gain.baseline), gain.group
            found.setdefault(key, []).append(sum(known) / len(known))
    lines = [
        (
            Cell(row, style="name"),
            Cell(baseline),
            Cell(group),
            Cell(str(sum(value > 0 for value in own))),
            Cell(str(sum(value < 0 for value in own))),
            Cell(points(sum(own) / len(own))),
        )
        for (row, baseline, group), own in found.items()
    ]
    return Table(("Row", "Baseline", "Group", "Classes up", "Classes down", "Mean gain"), tuple(lines), 3)


def _separation(content: CompareContent) -> Table:
    metrics = list(dict.fromkeys(key for values in content.separation.values() for key in values))
    lines = [
        (Cell(method, style="name"), Cell(split), *(_decimal([values.get(key, math.nan)]) for key in metrics))
        for (method, split), values in content.separation.items()
    ]
    return Table(("Method", "Split", *(key.replace("_", " ") for key in metrics)), tuple(lines), 2)


def _decimal(values: Sequence[float]) -> Cell:
    known = [value for value in values if math.isfinite(value)]
    return Cell(f"{sum(known) / len(known):.3f}" if known else MISSING)


def origin_sections(of: str, recipe_yaml: str, provenance: Mapping[str, str]) -> list[Section]:
    """Return the sections ``recipe`` and ``provenance``.

    Args:
        of: Whose settings are shown, as the start of a sentence.
        recipe_yaml: The settings, without paths.
        provenance: Versions and machine.
    """
    return [
        Section(
            "recipe",
            "Recipe",
            f"{of}; paths are cut to their last part.",
            "No recipe was given.",
            text=recipe_yaml,
        ),
        Section(
            "provenance",
            "Provenance",
            "Versions and machine.",
            "No provenance was recorded.",
            table=merged_tables.provenance(provenance),
        ),
    ]
