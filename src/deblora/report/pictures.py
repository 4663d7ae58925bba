"""Pages of pictures: the detections of a run, and the new chips that a model has labeled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from deblora.report import figures, tables
from deblora.report.page import Cell, Page, Picture, Pictures, Section, Table, Text, present, section
from deblora.report.tables import GROUPS, MISSING, percent

MEASURES = {
    "map50": "AP50, 11-point (VOC07, headline of DOTA)",
    "map50_area": "AP50, area under the curve",
    "map50_95": "mAP 50:95, area",
}
CLASS_COLUMNS = {
    "n_train": "Train",
    "n_ground_truth": "Objects",
    "n_difficult": "Difficult",
    "n_true": "True",
    "n_false": "False",
}
N_NAMED = 50  # chips that are named on a page
FEW_OBJECTS = 20


@dataclass(frozen=True)
class Detections:
    """What the page of a detection run shows; all strings are escaped.

    Attributes:
        title: Of the page.
        summary: As :func:`deblora.detect.average_precision.summarize_detections` returns it, with ``split``.
        facts: What training counted (``n_extractor`` and others); empty for predictions of another program.
        history: Training loss by step.
        recipe_yaml: Resolved recipe.
        overlays: Whole images.
        thumbnails: Best detections by class.
        notes: Caveats.
    """

    title: str
    summary: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[tuple[int, float]] = ()
    recipe_yaml: str = ""
    overlays: Sequence[Picture] = ()
    thumbnails: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def detection_page(content: Detections) -> Page:
    """Return the page of a detection run; parts without content are left out."""
    rows = most_frequent_first(content.summary)
    history = pd.DataFrame(content.history, columns=["step", "loss"]).assign(name="detector")
    sections = [
        section(
            "scores",
            "Head, middle, tail",
            "Average precision (AP): the area under precision over recall; mean over the classes of each "
            "group, in percent, on merged full images.",
            group_table(content.summary),
        ),
        section(
            "classes",
            "Classes",
            "From the most to the least frequent in training; objects in training and in the images "
            "evaluated here.",
            figures.precision_bars(rows),
            class_table(content.summary),
        ),
        section(
            "curves",
            "Precision and recall",
            "IoU above .5, detections by falling score; classes without ground truth have no curve.",
            figures.precision_recall(rows),
        ),
        section(
            "overlays",
            "Detections on the images",
            "Labels in thin green; detections in blue (head), white (middle) and orange (tail) with class "
            "and score. Each class is drawn from the score of its best F1 on validation.",
            Pictures({"": content.overlays}, 420),
        ),
        section(
            "thumbnails",
            "Best detections by class",
            "By falling score; the number below is the score. Wrong ones are shown like right ones.",
            Pictures(content.thumbnails, 72),
        ),
        section("loss", "Training", "Loss by step.", figures.loss_curves(history)),
        section("recipe", "Recipe", "The settings in full.", Text(content.recipe_yaml, code=True)),
    ]
    said = say_detections(content.summary)
    return Page(content.title, said, _facts(content), present(sections), content.notes)


def say_detections(summary: Mapping[str, Any]) -> list[str]:
    """Return the result of a detection run in sentences."""
    scores = summary["groups"]["map50"]
    where = f"{summary['n_images']} merged {summary.get('split', '')} images".replace("  ", " ")
    lines = [
        f"Protocol {summary['protocol']} on {where}: mAP50 (VOC07) in percent {percent(_number(scores['all']))}; "
        + ", ".join(f"{name} {percent(_number(scores[name]))}" for name in GROUPS[:3])
        + "."
    ]
    if summary["missing"]:
        lines.append(f"Without ground truth here, so in no mean: {', '.join(summary['missing'])}.")
    few = [row["class"] for row in summary["classes"] if 0 < row["n_ground_truth"] < FEW_OBJECTS]
    if few:
        lines.append(f"Fewer than {FEW_OBJECTS} objects of {', '.join(few)}: these values are coarse.")
    return lines


def group_table(summary: Mapping[str, Any]) -> Table:
    """Return measures in rows, class groups in columns."""
    rows = tuple(
        (Cell(text, style="name"), *(Cell(percent(_number(summary["groups"][key][name]))) for name in GROUPS))
        for key, text in MEASURES.items()
    )
    return Table(("Measure", *(name.capitalize() for name in GROUPS)), rows, 1)


def class_table(summary: Mapping[str, Any]) -> Table:
    """Return one row per class, the most frequent first."""
    rows = tuple(
        (
            Cell(row["class"], style="name"),
            Cell(row["group"], style=f"group {row['group']}"),
            *(Cell(MISSING if row[key] is None else f"{row[key]:,}") for key in CLASS_COLUMNS),
            *(Cell(percent(_number(row[key]))) for key in ("ap50", "ap50_area", "ap50_95")),
        )
        for row in most_frequent_first(summary)
    )
    return Table(("Class", "Group", *CLASS_COLUMNS.values(), "AP50", "AP50 area", "AP 50:95"), rows, 2)


def most_frequent_first(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the classes by training objects (else by ground truth)."""
    return sorted(summary["classes"], key=lambda row: -(row["n_train"] or row["n_ground_truth"]))


def _facts(content: Detections) -> dict[str, str]:
    facts, summary = content.facts, content.summary
    if not facts:
        return {}
    adapter = facts.get("adapter")
    return {
        "Method": str(facts["method"]),
        "Backbone": str(facts["backbone"]),
        "Adapter": {None: "none", "joint": "trained with the head"}.get(adapter, str(adapter)),
        "Protocol": f"{summary['protocol']}, {summary.get('split', '')}, merged images",
        "Extractor, params (M)": f"{facts['n_extractor'] / 1e6:.2f}",
        "of these trained (M)": f"{facts['n_extractor_trained'] / 1e6:.2f}",
        "Neck and head (M)": f"{facts['n_head'] / 1e6:.2f}",
        "Seed": str(facts["seed"]),
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


@dataclass(frozen=True)
class Found:
    """What the page of a prediction shows; all strings are escaped.

    Attributes:
        title: Of the page.
        row: Method and classifier that predicted.
        n_chips: New chips.
        groups: Class -> head, middle or tail.
        n_train: Class -> training chips, rare classes first.
        n_predicted: Class -> new chips predicted as it.
        pictures: Class -> its most probable chips.
        skipped: Chips that were left out, and why.
        notes: Caveats.
    """

    title: str
    row: str
    n_chips: int
    groups: Mapping[str, str]
    n_train: Mapping[str, int]
    n_predicted: Mapping[str, int]
    pictures: Mapping[str, Sequence[Picture]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = (
        "Probabilities are the softmax of the classifier's logits. They rank chips; they are not calibrated.",
        "A classifier that is corrected for the class frequencies of training takes every class to be "
        "equally likely among the new chips; cross_entropy alone expects those frequencies. Where a rare "
        "class is rare among the new chips too, look at its chips by falling probability and expect false "
        "ones.",
    )


def found_page(content: Found) -> Page:
    """Return the page of a prediction: what was found of every class, rare classes first."""
    sections = []
    for group in ("tail", "middle", "head"):
        own = {name: row for name, row in content.pictures.items() if content.groups[name] == group}
        sections.append(
            section(
                f"found-{group}",
                f"{group.capitalize()} classes",
                "The most probable chips of each class; the number is the probability, the name of the "
                "file is shown when the pointer rests on a picture.",
                Pictures(own, 88)
                if any(own.values())
                else Text(f"No chip was predicted as a {group} class."),
            )
        )
    sections.append(section("counts", "Counts", "Rare classes first.", _counts(content)))
    rare = [name for name, group in content.groups.items() if group == "tail"]
    n_rare = sum(content.n_predicted[name] for name in rare)
    summary = [f"{n_rare} of {content.n_chips} chips were predicted as one of the {len(rare)} tail classes."]
    facts = {"New chips": str(content.n_chips), "Method and classifier": content.row}
    if content.skipped:
        n = len(content.skipped)
        summary.append(
            f"{'1 chip was' if n == 1 else f'{n} chips were'} left out, because they cannot be used."
        )
        facts["Left out"] = str(n)
        sections.append(_skipped(content.skipped))
    return Page(content.title, summary, facts, present(sections), content.notes)


def _skipped(skipped: Mapping[str, str]) -> Section | None:
    named = dict(list(skipped.items())[:N_NAMED])
    more = f" The first {N_NAMED} are named here, all of them in predictions.csv." * (len(skipped) > N_NAMED)
    table = tables.mapping_table(named, header=("Chip", "Reason"))
    return section("skipped", "Chips left out", f"They got no class and count nowhere above.{more}", table)


def _counts(content: Found) -> Table:
    rows = tuple(
        (
            Cell(name, style="name"),
            Cell(content.groups[name], style=f"group {content.groups[name]}"),
            Cell(str(n)),
            Cell(str(content.n_predicted[name])),
        )
        for name, n in content.n_train.items()
    )
    return Table(("Class", "Group", "Training chips", "Predicted"), rows, 2)
