"""The page of a prediction: what was found of every class, rare classes first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deblora.report.page import Section, fill_template
from deblora.report.pictures import Picture, picture_rows
from deblora.report.tables import Cell, Table

N_NAMED = 50  # chips named on the page


@dataclass(frozen=True)
class Found:
    """What the page shows, as plain values.

    Attributes:
        title: Of the page.
        row: Features and head that predicted.
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
        "Probabilities are the softmax of the head's logits. They rank chips; they are not calibrated.",
        "A head that is corrected for the class frequencies of training takes every class to be equally likely among "
        "the new chips; cross_entropy alone expects those frequencies. Where a rare class is rare among the new chips "
        "too, look at its chips by falling probability and expect false ones.",
    )


def render_found_page(content: Found) -> str:
    """Render one HTML file that needs no other file and runs no script."""
    rare = [name for name, group in content.groups.items() if group == "tail"]
    n_rare = sum(content.n_predicted[name] for name in rare)
    sections = [
        Section(
            f"found-{group}",
            f"{group.capitalize()} classes",
            "The most probable chips of each class; the number is the probability, the name of the file is shown when "
            "the pointer rests on a picture.",
            f"No chip was predicted as a {group} class.",
            picture_rows(
                {name: own for name, own in content.pictures.items() if content.groups[name] == group},
                side=88,
            ),
        )
        for group in ("tail", "middle", "head")
    ]
    sections.append(Section("counts", "Counts", "Rare classes first.", "No chip.", table=_counts(content)))
    summary = [
        f"{n_rare} of {content.n_chips} chips were predicted as one of the {len(rare)} tail classes.",
    ]
    facts = [("New chips", str(content.n_chips)), ("Row and head", content.row)]
    if content.skipped:
        summary.append(f"{_n_chips(content.skipped)} left out, because they cannot be used.")
        sections.append(_skipped(content.skipped))
        facts.append(("Left out", str(len(content.skipped))))
    return fill_template(content, sections, summary=summary, facts=facts)


def _n_chips(skipped: Mapping[str, str]) -> str:
    return "1 chip was" if len(skipped) == 1 else f"{len(skipped)} chips were"


def _skipped(skipped: Mapping[str, str]) -> Section:
    named = list(skipped.items())[:N_NAMED]
    more = f" The first {N_NAMED} are named here, all of them in predictions.csv." * (len(skipped) > N_NAMED)
    rows = tuple((Cell(chip, style="name"), Cell(reason)) for chip, reason in named)
    return Section(
        "skipped",
        "Chips left out",
        f"They got no class and count nowhere above.{more}",
        "None.",
        table=Table(("Chip", "Reason"), rows, 2),
    )


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
