"""One self-contained HTML page (no script, nothing fetched) and its Markdown twin: pure functions."""

from deblora.report import figures, tables
from deblora.report import figures as scatter
from deblora.report.content import ReportContent
from deblora.report.markdown import render_markdown
from deblora.report.page import Section, fill_template
from deblora.report.summary import summarize

__all__ = ["render_markdown", "render_page"]


def render_page(content: ReportContent) -> str:
    """Render the report as one HTML file that needs no other file and runs no script.

    Args:
        content: What to show; all its strings are escaped.

    Returns:
        The page. Parts without data are replaced by one sentence each.
    """
    sections = [*_score_sections(content), *_feature_sections(content), *_run_sections(content)]
    return fill_template(content, sections, summary=summarize(content), facts=_facts(content))


def _facts(content: ReportContent) -> list[tuple[str, str]]:
    counts = content.train_counts
    present = counts[counts > 0]
    ratio = f"{present.max() / present.min():,.0f} : 1" if len(present) else tables.MISSING
    sizes = " / ".join(str(len(members)) for members in content.groups.named().values())
    return [
        ("Dataset", content.dataset),
        ("Backbone", content.backbone),
        ("Classes", str(len(content.class_names))),
        ("Head / middle / tail", sizes),
        ("Training chips", f"{int(counts.sum()):,}"),
        ("Most : least frequent", ratio),
        ("Seeds", ", ".join(map(str, content.seeds)) or tables.MISSING),
    ]


def _score_sections(content: ReportContent) -> list[Section]:
    return [
        Section(
            "classes",
            "Long tail",
            "Training chips per class. Alpha is the share of the original feature that calibration keeps: "
            "1 leaves a class where it is, small values lean on its center.",
            "No class counts were given.",
            figures.long_tail(content),
            tables.classes(content),
            "Chips per class and split",
        ),
        Section(
            "scores",
            "Comparison",
            "Macro F1 in percent with its 95 % interval below; the best value of a column is in bold.",
            "No scores were given.",
            table=tables.scores(content),
        ),
        Section(
            "differences",
            "Paired differences",
            "Method minus baseline on the same bootstrap draws of the test chips. A filled mark means that "
            "the 95 % interval excludes zero. Intervals are not corrected for the number of comparisons.",
            "No paired differences were given.",
            figures.forest(content),
            tables.differences(content),
            "All differences",
        ),
        Section(
            "f1",
            "F1 per class",
            "Classes from the most to the least frequent; the dark tick marks the baseline.",
            "No F1 per class was given.",
            figures.per_class_f1(content),
        ),
        Section(
            "confusion",
            "Confusion",
            "Rows are true classes, columns predictions; color is the share of the row.",
            "No confusion matrix was given.",
            figures.confusion(content),
        ),
    ]


def _feature_sections(content: ReportContent) -> list[Section]:
    return [
        Section(
            "tsne",
            "Feature space",
            "t-SNE layout: neighborhoods are meaningful, distances, sizes and empty space are not. Arrows "
            "start at the first kind of class mean and lead to the others.",
            "No projection was given.",
            scatter.projections(content),
        ),
        Section(
            "composition",
            "Cluster composition",
            "Where the training chips of each class went.",
            "No clusters were given.",
            figures.composition(content),
        ),
        Section(
            "separation",
            "Separation",
            "Mean cosine distances, averaged per class first: larger between and smaller within classes is easier.",
            "No separation was measured.",
            table=tables.separation(content),
        ),
        Section(
            "curves",
            "Training",
            "Loss of each adapter by step.",
            "Nothing was trained.",
            figures.curves(content),
        ),
    ]


def _run_sections(content: ReportContent) -> list[Section]:
    return [
        Section(
            "recipe", "Recipe", "The settings in full.", "No recipe was given.", text=content.recipe_yaml
        ),
        Section(
            "provenance",
            "Provenance",
            "What made these numbers.",
            "No provenance was recorded.",
            table=tables.provenance(content),
        ),
        Section(
            "timings",
            "Timings",
            "Wall-clock time of each stage.",
            "No timings were recorded.",
            table=tables.timings(content),
        ),
    ]
