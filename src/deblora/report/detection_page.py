"""The page of a detection run: mAP of head, middle and tail, classes, curves, overlays, thumbnails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deblora.report.page import Section, fill_template
from deblora.report.pictures import Picture, gallery, picture_rows
from deblora.report.svg import GROUP_COLORS, draw
from deblora.report.tables import MISSING, Cell, Table, percent

GROUPS = ("head", "middle", "tail", "all")
MEASURES = {
    "map50": "AP50, 11-point (VOC07, headline of DOTA)",
    "map50_area": "AP50, area under the curve",
    "map50_95": "mAP 50:95, area",
}


@dataclass(frozen=True)
class DetectionContent:
    """What the page shows, as plain values.

    Attributes:
        title: Of the page.
        summary: As :func:`deblora.detect.evaluate.summary.summarize_detections` returns it, with ``split``.
        facts: What training counted (``n_extractor`` and others).
        history: Training loss by step.
        recipe_yaml: Resolved recipe.
        overlays: Whole images.
        thumbnails: Best detections by class.
        notes: Caveats.
    """

    title: str
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]
    history: Sequence[tuple[int, float]]
    recipe_yaml: str
    overlays: Sequence[Picture] = ()
    thumbnails: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def render_detection_page(content: DetectionContent) -> str:
    """Render one HTML file that needs no other file and runs no script."""
    sections = [
        Section(
            "scores",
            "Head, middle, tail",
            "Mean over the classes of each group, in percent, on merged full images.",
            "Nothing was evaluated.",
            table=groups_table(content.summary),
        ),
        Section(
            "classes",
            "Classes",
            "From the most to the least frequent in training; objects in training and in the images judged here, "
            "average precision in percent.",
            "No class was evaluated.",
            ap_figure(content.summary),
            classes_table(content.summary),
        ),
        Section(
            "curves",
            "Precision and recall",
            "IoU above .5, detections by falling score; classes without ground truth have no curve.",
            "No class has a curve.",
            curves_figure(content.summary),
        ),
        Section(
            "overlays",
            "Detections on the images",
            "Labels in thin green; detections in blue (head), white (middle) and orange (tail) with class and score. "
            "Each class is drawn from the score of its best F1 on validation.",
            "No image was drawn.",
            gallery(content.overlays, 26),
        ),
        Section(
            "thumbnails",
            "Best detections by class",
            "By falling score; the number below is the score. Wrong ones are shown like right ones.",
            "There is no detection.",
            picture_rows(content.thumbnails),
        ),
        Section("loss", "Training", "Loss by step.", "Nothing was trained.", loss_figure(content.history)),
        Section("recipe", "Recipe", "The settings in full.", "No recipe.", text=content.recipe_yaml),
    ]
    return fill_template(content, sections, summary=sentences(content.summary), facts=_facts(content))


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Say the result in words."""
    scores = summary["groups"]["map50"]
    where = f"{summary['n_images']} merged {summary.get('split', '')} images".replace("  ", " ")
    lines = [
        f"Protocol {summary['protocol']} on {where}: mAP50 (VOC07) {percent(_number(scores['all']))}; "
        + ", ".join(f"{name} {percent(_number(scores[name]))}" for name in GROUPS[:3])
        + "."
    ]
    if summary["missing"]:
        lines.append(f"Without ground truth here, so in no mean: {', '.join(summary['missing'])}.")
    few = [row["class"] for row in summary["classes"] if 0 < row["n_ground_truth"] < 20]
    if few:
        lines.append(f"Fewer than 20 objects judge {', '.join(few)}: these values are coarse.")
    return lines


def groups_table(summary: Mapping[str, Any]) -> Table:
    """Measures in rows, groups in columns."""
    rows = tuple(
        (Cell(text, style="name"), *(Cell(percent(_number(summary["groups"][key][name]))) for name in GROUPS))
        for key, text in MEASURES.items()
    )
    return Table(("measure", *GROUPS), rows, 1)


def classes_table(summary: Mapping[str, Any]) -> Table:
    """One row per class, most frequent first."""
    rows = tuple(
        (
            Cell(row["class"], style="name"),
            Cell(row["group"], style=f"group {row['group']}"),
            Cell(MISSING if row["n_train"] is None else f"{row['n_train']:,}"),
            Cell(f"{row['n_ground_truth']:,}"),
            Cell(f"{row['n_difficult']:,}"),
            Cell(f"{row['n_true']:,}"),
            Cell(f"{row['n_false']:,}"),
            *(Cell(percent(_number(row[key]))) for key in ("ap50", "ap50_area", "ap50_95")),
        )
        for row in ordered(summary)
    )
    header = (
        "class",
        "group",
        "train",
        "objects",
        "difficult",
        "true",
        "false",
        "AP50",
        "AP50 area",
        "AP 50:95",
    )
    return Table(header, rows, 2)


def ordered(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the classes by training objects (else by ground truth), most first."""
    return sorted(summary["classes"], key=lambda row: -(row["n_train"] or row["n_ground_truth"]))


def ap_figure(summary: Mapping[str, Any]) -> str:
    """Bars of AP50 by class in the color of the group."""
    rows = [row for row in ordered(summary) if row["ap50"] is not None]
    if not rows:
        return ""

    def build(figure: Any) -> None:
        axes = figure.subplots()
        places = range(len(rows))
        axes.bar(
            places, [100 * row["ap50"] for row in rows], color=[GROUP_COLORS[row["group"]] for row in rows]
        )
        axes.set_xticks(places, [row["class"] for row in rows], rotation=35, ha="right")
        axes.set_ylabel("AP50, percent")
        axes.set_ylim(0, 100)
        axes.grid(axis="y")

    width = min(9.0, 2.0 + 0.5 * len(rows))
    return draw(build, name="ap", alt="Average precision by class", width=width, height=2.9)


def curves_figure(summary: Mapping[str, Any]) -> str:
    """Precision over recall, one panel per group."""
    rows = [row for row in ordered(summary) if row["curve"]["recall"]]
    present = [name for name in GROUPS[:3] if any(row["group"] == name for row in rows)]
    if not present:
        return ""

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, present, strict=True):
            for row in (row for row in rows if row["group"] == name):
                axes.plot(row["curve"]["recall"], row["curve"]["precision"], lw=1.2, label=row["class"])
            axes.set_title(name)
            axes.set_xlabel("recall")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.grid(True)
            axes.legend(loc="upper right")
        panels[0].set_ylabel("precision")

    return draw(build, name="pr", alt="Precision over recall by class", width=8.6, height=3.2)


def loss_figure(history: Sequence[tuple[int, float]]) -> str:
    """Training loss by step."""
    if not history:
        return ""

    def build(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(*zip(*history, strict=True), color=GROUP_COLORS["head"], lw=1.2)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        axes.grid(True)

    return draw(build, name="loss", alt="Training loss by step", width=6.0, height=2.4)


def _facts(content: DetectionContent) -> list[tuple[str, str]]:
    facts, summary = content.facts, content.summary
    adapter = facts.get("adapter")
    return [
        ("Method", str(facts["method"])),
        ("Backbone", str(facts["backbone"])),
        ("Adapter", {None: "none", "joint": "trained with the head"}.get(adapter, str(adapter))),
        ("Protocol", f"{summary['protocol']}, {summary.get('split', '')}, merged images"),
        ("Extractor, params (M)", f"{facts['n_extractor'] / 1e6:.2f}"),
        ("of these trained (M)", f"{facts['n_extractor_trained'] / 1e6:.2f}"),
        ("Neck and head (M)", f"{facts['n_head'] / 1e6:.2f}"),
        ("Seed", str(facts["seed"])),
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def render_detection_markdown(title: str, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return title, finding, groups and classes; ``facts`` may be empty (foreign predictions)."""
    lines = [f"# {title}", "", *(f"- {line}" for line in sentences(summary))]
    if facts:
        lines.append(
            f"- {facts['method']} on {facts['backbone']}, seed {facts['seed']}: extractor "
            f"{facts['n_extractor'] / 1e6:.2f} M parameters, {facts['n_extractor_trained'] / 1e6:.2f} M of them "
            f"trained; neck and head {facts['n_head'] / 1e6:.2f} M"
        )
    return "\n".join(
        [*lines, "", *table_lines(groups_table(summary)), "", *table_lines(classes_table(summary)), ""]
    )


def table_lines(table: Table) -> list[str]:
    """Return a table in Markdown."""
    rule = ["---"] * table.n_text + ["---:"] * (len(table.header) - table.n_text)
    cells: Sequence[Sequence[str]] = [
        [cell.text + (f" [{cell.interval}]" if cell.interval else "") for cell in row] for row in table.rows
    ]
    return [f"| {' | '.join(row)} |" for row in (table.header, rule, *cells)]
