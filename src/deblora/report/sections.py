"""The sections of the pages on runs, seeds and studies: plain functions from a report's tables to a section.

A section is left out (None) when the tables it shows are absent. To add one, write a function here and name
it in the lists at the end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from deblora.report import class_figures, figures, tables
from deblora.report.page import Block, Details, Page, Section, Text, present, section
from deblora.report.summary import say_choice, say_tested, summarize, summarize_study
from deblora.report.tables import NAME, PAIR, label

PLAIN, BALANCED = "cross_entropy", "balanced_softmax"
N_CANDIDATES = 5  # that are shown at once
FOCUS = ("guarded", "strong")
"""Methods that validation derives from others, the one that the pages lead with first."""
N_LINES = 30  # of a figure; with more methods and classifiers, only the main classifiers are drawn
EMPTY = {
    "scores": [*NAME, "dataset", "backbone", "metric", "group", "value", "ci_lower", "ci_upper"],
    "differences": [*PAIR, "group", "value", "ci_lower", "ci_upper"],
    "classes": ["class", "group"],
}


@dataclass(frozen=True)
class Varied:
    """What a study varies: the name of the setting, and the place of each variant on the axis."""

    axis: str
    places: Mapping[str, float]
    numeric: bool


@dataclass(frozen=True)
class Report:
    """What a page on runs shows; all strings are untrusted and escaped.

    Attributes:
        title: Headline.
        facts: Name and value of what is shown on top.
        tables: Tidy tables by name. ``scores`` and ``differences`` are described in
            :mod:`deblora.report.tables`, the others at the sections that show them.
        recipe_yaml: The settings.
        provenance: Versions, hashes, machine.
        says: Method -> what it is, in one sentence.
        choice: Content of ``choice.json``, None when nothing was chosen.
        varied: What a study varies, None for other pages.
        findings: Further sentences of the summary.
        notes: Caveats, one sentence each.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    recipe_yaml: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    choice: Mapping[str, Any] | None = None
    varied: Varied | None = None
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()

    def table(self, name: str) -> pd.DataFrame:
        """Return a table, without rows when it is absent."""
        return self.tables.get(name, pd.DataFrame(columns=EMPTY.get(name, [])))

    def scores(self) -> pd.DataFrame:
        """Return the scores of macro F1."""
        scores = self.table("scores")
        return scores[scores["metric"] == "macro_f1"]

    def parts(self, table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """Split a table by data set and backbone; the name is empty when there is one part only."""
        if "dataset" not in table:
            yield "", table
            return
        parts = list(table.groupby(["dataset", "backbone"], sort=False))
        for (dataset, backbone), own in parts:
            yield (f"{dataset} on {backbone}" if len(parts) > 1 else ""), own


def report_page(report: Report, sections: Sequence[Callable[[Report], Section | None]]) -> Page:
    """Return the page of a report with those of the sections that have something to show."""
    shown = present([show(report) for show in sections])
    return Page(report.title, _summary(report), report.facts, shown, report.notes)


def _summary(report: Report) -> list[str]:
    """Return what a reader needs first: the model of a run, or else what the comparison of methods says."""
    scores = report.scores()
    if report.choice:
        return [*say_choice(report.choice), *say_tested(scores, report.choice), *report.findings]
    if report.varied is not None:
        n_seeds = int(scores["n_seeds"].max()) if len(scores) else 0
        first = report.table("to_first")
        said = summarize_study(scores, first, report.varied.axis, list(report.varied.places), n_seeds)
        return [*said, *report.findings]
    return [*(_in_words(report) or ["There are no scores."]), *report.findings]


def _in_words(report: Report) -> list[str]:
    """Return what the paired differences say, as sentences."""
    sentences: list[str] = []
    pieces = dict(report.parts(report.table("differences")))
    for name, own in report.parts(report.scores()):
        prefix = f"{name}: " if name else ""
        paired = pieces.get(name, report.table("differences").iloc[:0])
        sentences += [prefix + text for text in summarize(own, paired, focus=FOCUS, derived=FOCUS)]
    return sentences


def short_list(frame: pd.DataFrame, *, kept: Sequence[str] = FOCUS) -> pd.DataFrame:
    """Return the lines that a figure shows: all, or if they are many those of the main classifiers.

    Kept are the plain probe, balanced softmax, the methods ``kept``, and classifiers that only one or two
    methods have.
    """
    names = frame[NAME].drop_duplicates()
    if len(names) <= N_LINES:
        return frame
    n_methods = names.groupby("classifier")["method"].nunique()
    main = {PLAIN, BALANCED, *n_methods.index[n_methods <= 2]}
    return frame[frame["classifier"].isin(main) | frame["method"].isin(kept)]


def chosen(report: Report) -> Section | None:
    """Show the model that validation chose and its expected gain, with all candidates."""
    if not report.choice:
        return None
    candidates = pd.DataFrame(report.choice["candidates"])
    shown = pd.DataFrame(
        {
            "Method": candidates["method"],
            "Classifier": candidates["classifier"],
            "Macro F1 on validation, %": 100 * candidates["macro_f1"],
        }
    )
    every = tables.frame_table(shown, n_text=2, digits=1)
    return section(
        "chosen",
        "Chosen model",
        "The model for new chips (shipped) on the test, beside what is simple: the plain classifier on LoRA features, "
        "and the floors, whose settings need no validation chip. Below, macro F1 on the validation chips of what could "
        "be chosen, the best first; the test chips had no part in the choice.",
        figures.dots(_beside_the_simple(report)),
        tables.frame_table(shown.head(N_CANDIDATES), n_text=2, digits=1),
        *([Details("All candidates", (every,))] if len(shown) > N_CANDIDATES else []),
    )


def _beside_the_simple(report: Report) -> pd.DataFrame:
    """Return the scores of the plain classifier, of the floors, and of the model for new chips."""
    scores, choice = report.scores(), report.choice or {}
    shown = [("lora", PLAIN), *((method, choice["floor"][1]) for method in choice["floor_scores"])]
    names = zip(scores["method"], scores["classifier"], strict=True)
    kept = [name in shown or name[0] == "shipped" for name in names]
    return scores[np.array(kept, dtype=bool)]


def look(report: Report) -> Section | None:
    """Show the first look; table ``look``: image_size, views, group, value, interval, brier_score, seconds_per_chip."""
    found = report.table("look")
    if found.empty:
        return None
    best = found.loc[found["brier_score"].idxmin()]
    named = found.assign(
        method=[f"{size:.0f} px" for size in found["image_size"]],
        classifier=[f"{n:.0f} view{'s' * (n > 1)}" for n in found["views"]],
    )
    shown = named[named["group"] == "all"]
    numbers = pd.DataFrame(
        {
            "Size": shown["method"],
            "Views": shown["classifier"],
            "Macro F1, %": 100 * shown["value"],
            "Brier score": shown["brier_score"],
            "ms per chip": 1000 * shown["seconds_per_chip"],
        }
    )
    return section(
        "look",
        "First look",
        f"Input size and views on frozen features, by cross-validation on training and validation chips: macro F1 of "
        f"chips that were held out. Taken, by the Brier score: {best['image_size']:.0f} px, {best['views']:.0f} views.",
        figures.dots(named),
        Details("Numbers", (tables.frame_table(numbers, n_text=2, digits=2),)),
    )


def scores(report: Report) -> Section | None:
    """Show macro F1 of all methods: the dots first, then the numbers, then what the methods are."""
    blocks: list[Block | None] = []
    found = report.scores()
    for name, own in report.parts(found):
        short = short_list(own)
        blocks += [Text(name) if name else None, figures.dots(short), tables.score_table(short)]
        if len(short) < len(own):
            blocks.append(Details("All methods and classifiers", (tables.score_table(own),)))
    said = {name: report.says[name] for name in found["method"].unique() if name in report.says}
    blocks.append(
        Details("What the methods are", (tables.mapping_table(said, header=("Method", "What it is")),))
    )
    interval = (
        f"Mean {tables.PLUS_MINUS} standard deviation over seeds, with the 95 % t interval of the mean; a "
        "small circle is one seed."
        if "n_seeds" in found
        else "Lines are 95 % bootstrap intervals over test chips."
    )
    return section(
        "scores",
        "Comparison",
        "Macro F1 in percent: the mean of the F1 of each class of a group, so that rare classes count like "
        f"frequent ones. {interval} The best value of a column is in bold.",
        *blocks,
    )


def differences(report: Report) -> Section | None:
    """Show paired differences to the baselines; the figure shows the strongest baseline."""
    blocks: list[Block | None] = []
    found = report.table("differences")
    for name, own in report.parts(found):
        strong = own[own["baseline"] == "strong"] if (own["baseline"] == "strong").any() else own
        blocks += [Text(name) if name else None, figures.forest(short_list(strong))]
        blocks.append(Details("All differences", (tables.difference_table(own),)))
    if report.choice and len(found):
        blocks.append(Details("In words", tuple(map(Text, _in_words(report)))))
    seeds = "n_wins" in found
    how = "seed by seed" if seeds else "on the same bootstrap draws of the test chips"
    return section(
        "differences",
        "Paired differences",
        f"Method less baseline, {how}. A filled mark means that the 95 % "
        f"{'t interval over seeds' if seeds else 'interval'} excludes zero; what leaves the figure is cut. "
        "Intervals are not corrected for the number of comparisons.",
        *[block for block in blocks if len(found)],
    )


def pooled(report: Report) -> Section | None:
    """Show paired differences over the runs of all data sets; table ``pooled``."""
    found = report.table("pooled")
    return section(
        "pooled",
        "Over all runs",
        "Paired differences over the runs of all data sets and backbones, each run counted once. Runs of "
        "one data set resemble each other, so the interval says nothing about a further data set.",
        Details("All differences", (tables.difference_table(found),)) if len(found) else None,
    )


def priors(report: Report) -> Section | None:
    """Show the accuracy on test chips with another class prior."""
    return section(
        "priors",
        "Other class priors",
        "Accuracy in percent on test chips drawn with a long tail in the direction of training (forward), "
        "with equal counts (uniform) and with the tail reversed (backward); mean over 20 draws.",
        tables.prior_table(report.table("scores")),
    )


def classes(report: Report) -> Section | None:
    """Show chips per class; table ``classes``: ``class``, ``group``, a column per split, and ``alpha, <method>``."""
    found = report.table("classes")
    if found.empty:
        return None
    shown = found.rename(columns={"class": "Class", "group": "Group"})
    return section(
        "classes",
        "Long tail",
        "Training chips per class. Head, middle and tail are the frequent, the middle and the rare "
        "classes. Alpha is the share of the original feature that calibration keeps: 1 leaves a class "
        "where it is, small values lean on its center.",
        class_figures.long_tail(found),
        Details("Chips per class and split", (tables.frame_table(shown, n_text=2),)),
    )


def class_f1(report: Report) -> Section | None:
    """Show F1 per class; table ``class_f1``: method, classifier, class, value."""
    found = report.table("class_f1")
    figure = class_figures.class_f1(found, report.table("classes")) if len(found) else None
    lead = "Classes from the most to the least frequent; the dark tick marks the baseline."
    return section("f1", "F1 per class", lead, figure)


def confusion(report: Report) -> Section | None:
    """Show confusion matrices; table ``confusion``: method, classifier, true, predicted, n."""
    found, order = report.table("confusion"), report.table("classes")
    matrices: dict[str, np.ndarray] = {}
    for name, own in found.groupby(NAME, sort=False) if len(found) else ():
        wide = own.pivot_table(index="true", columns="predicted", values="n", aggfunc="sum")
        wide = wide.reindex(index=order["class"], columns=order["class"]).fillna(0)
        matrices[label(*name)] = wide.to_numpy()
    lead = "Rows are true classes, columns predictions; color is the share of the row."
    return section("confusion", "Confusion", lead, class_figures.confusion(matrices, order))


def gains(report: Report) -> Section | None:
    """Show the gain of F1 by class; table ``gains``, see :func:`~deblora.report.class_figures.gains`."""
    found = report.table("gains")
    if found.empty:
        return None
    return section(
        "gains",
        "Gain by class",
        "F1 less that of the same classifier on LoRA features, in points, classes by falling count; a bar "
        "is the mean, a dot a seed.",
        class_figures.gains(found),
        tables.gain_table(found),
    )


def features(report: Report) -> Section | None:
    """Show features in the plane; table ``projection``, see :func:`~deblora.report.class_figures.projections`."""
    found = report.table("projection")
    return section(
        "tsne",
        "Feature space",
        "t-SNE layout: neighborhoods are meaningful, distances, sizes and empty space are not. Arrows "
        "start at the mean of the training chips of a tail class.",
        class_figures.projections(found, report.table("classes")) if len(found) else None,
    )


def mismatch(report: Report) -> Section | None:
    """Show how far training and test features lie apart; table ``mismatch``."""
    found = report.table("mismatch")
    if found.empty:
        return None
    return section(
        "mismatch",
        "Training against test, class by class",
        "Distance between the mean of the training and of the test features of a class, and the scatter of "
        "both, for features of unit length, classes by falling count; dotted: the gap that chance alone "
        "gives. A class whose scatter is far smaller in training than in test has shrunk in training only.",
        class_figures.mismatch(found),
        tables.mismatch_table(found),
    )


def composition(report: Report) -> Section | None:
    """Show where the classes went in the clusters; table ``composition``: index classes, columns clusters, shares."""
    found = report.table("composition")
    figure = class_figures.composition(found, report.table("classes")) if len(found) else None
    return section(
        "composition", "Cluster composition", "Where the training chips of each class went.", figure
    )


def separation(report: Report) -> Section | None:
    """Show distances between and within classes; table ``separation``: method, split, metric, value."""
    found = report.table("separation")
    return section(
        "separation",
        "Separation",
        "Mean cosine distances between the centers of head and tail classes, between those of tail "
        "classes, and of tail chips to their center: larger between and smaller within classes is easier.",
        tables.separation_table(found) if len(found) else None,
    )


def training(report: Report) -> Section | None:
    """Show the training loss; table ``history``: name, step, loss."""
    found = report.table("history")
    figure = figures.loss_curves(found) if len(found) else None
    return section("curves", "Training", "Loss of each adapter by step.", figure)


def study_curves(report: Report) -> Section | None:
    """Show the scores of a study over what it varies."""
    found, varied = report.scores(), report.varied
    if varied is None or found.empty:
        return None
    return section(
        "curves",
        "Sensitivity",
        "Macro F1 in percent by variant: mean over seeds, with the 95 % t interval of the mean as a band. "
        "The black line is LoRA with balanced softmax in the same runs.",
        figures.study_curves(found, varied.axis, varied.places, numeric=varied.numeric),
        tables.study_table(found, list(varied.places)),
    )


def study_differences(report: Report) -> Section | None:
    """Show paired differences of a study; tables ``to_first`` (first variant) and ``to_lora`` (same variant)."""
    blocks = []
    for key, title in (
        ("to_first", "To the first variant"),
        ("to_lora", "To LoRA with balanced softmax, same variant"),
    ):
        found = report.table(key)
        if len(found):
            named = found.assign(classifier=found["classifier"] + ", " + found["variant"])
            blocks.append(Details(title, (tables.difference_table(named),)))
    lead = "Seed by seed: to the same method in the first variant, and to LoRA in the same variant."
    return section("differences", "Paired differences", lead, *blocks)


def choices(report: Report) -> Section | None:
    """Show what validation chose; table ``choices``: method, classifier, choice and value, or a column per seed."""
    found = report.table("choices")
    if found.empty:
        return None
    titled = found.rename(columns={name: str(name).capitalize() for name in found.columns})
    return section(
        "choices",
        "What validation chose",
        "Settings of each classifier, and the method behind each derived one. Every classifier may try the "
        "same number of settings.",
        Details("All choices", (tables.frame_table(titled, n_text=len(titled.columns)),)),
    )


def costs(report: Report) -> Section | None:
    """Show what the methods cost; table ``costs``, see :data:`~deblora.report.tables.COSTS`."""
    found = report.table("costs")
    if found.empty:
        return None
    table = tables.cost_table(found, cited="variant" not in found)
    return section(
        "costs",
        "Cost",
        "What the features of each method took: trained numbers of the extractor in millions, stored "
        "megabytes, training chips, wall and processor seconds, and the highest memory of the process; "
        "means over seeds. The line of deblora holds everything before its features. Pre-training is "
        "cited, not measured.",
        Details("Cost by variant", (table,)) if "variant" in found else table,
    )


def timings(report: Report) -> Section | None:
    """Show seconds per stage and their sum; table ``timings``: stage, seconds."""
    found = report.table("timings")
    if len(found) > 1:
        found = pd.concat([found, pd.DataFrame([{"stage": "total", "seconds": found["seconds"].sum()}])])
    titled = found.rename(columns={"stage": "Stage", "seconds": "Seconds"})
    return section(
        "timings",
        "Time",
        "Wall-clock seconds of each stage; means over seeds.",
        Details("Seconds by stage", (tables.frame_table(titled, digits=1),)) if len(found) else None,
    )


def runs(report: Report) -> Section | None:
    """Show what was merged; table ``runs`` as it stands."""
    return section(
        "runs",
        "Runs",
        "What was compared, by the name of its folder. The hash covers chips, ids and splits, so it "
        "changes with the seed wherever the seed draws the split; its first 16 digits are shown.",
        tables.frame_table(report.table("runs"), n_text=4) if "runs" in report.tables else None,
    )


def recipe(report: Report) -> Section | None:
    """Show the settings."""
    return section("recipe", "Recipe", "The settings in full.", Text(report.recipe_yaml, code=True))


def provenance(report: Report) -> Section | None:
    """Show versions, hashes and machine."""
    table = tables.mapping_table(report.provenance)
    return section("provenance", "Provenance", "What made these numbers.", table)


RUN = (
    chosen, scores, look, differences, priors, classes, class_f1, confusion, features, mismatch, composition,
    separation, training, choices, costs, timings, recipe, provenance,
)  # fmt: skip
SEEDS = (
    scores, differences, pooled, priors, gains, mismatch, separation, choices, costs, timings, runs,
    recipe, provenance,
)  # fmt: skip
STUDY = (study_curves, study_differences, costs, recipe, provenance)
