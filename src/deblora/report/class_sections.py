"""Sections of a comparison that look at single classes: mismatch of training and test, gains, separation."""

import math
from collections.abc import Sequence

from deblora.report import class_figures
from deblora.report.compare_content import ClassGap, CompareContent
from deblora.report.frame import Section
from deblora.report.tables import MISSING, Cell, Table, points


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
