"""Sensitivity curves of a study: means over seeds with the band of their t intervals."""

import math
from collections.abc import Sequence
from typing import Any

from deblora.report.seeds_content import GROUPS, StudyContent, StudyPoint
from deblora.report.svg import INK, clean, draw

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#66717F")


def curves(content: StudyContent, *, key: str) -> str:
    """Draw one panel per group and one line per row; ``""`` when there is no score.

    A band is the 95 % t interval of the mean, cut to what the panel shows; circles are the means. Positive values
    that span a factor of 8 or more stand on a logarithmic axis.

    Args:
        content: What to draw.
        key: Prefix of the ids in the drawing, unique on the page.
    """
    known = [point for point in content.points if point.spread.n]
    if not known:
        return ""
    shown = [group for group in GROUPS if any(point.group == group for point in known)]
    title, values = content.axis()
    names = list(content.variants)
    places = dict(zip(names, values or [float(i) for i in range(len(names))], strict=True))

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            for i, row in enumerate(content.rows):
                color = INK if row == content.rows[-1] else COLORS[i % len(COLORS)]
                _curve(axes, content.of(row, group), places, color, clean(" · ".join(row), longest=44))
            _scale(axes, [point for point in known if point.group == group])
            axes.set_title(group.capitalize())
            axes.grid(axis="y")
            _ticks(axes, names, values)
            axes.set_xlabel(clean(title, longest=40))
        panels[0].set_ylabel("macro F1, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)

    return draw(build, name=key, alt="Scores by variant with intervals over seeds", width=9.6, height=3.6)


def _curve(axes: Any, points: Sequence[StudyPoint], places: dict[str, float], color: str, label: str) -> None:
    own = sorted((point for point in points if point.spread.n), key=lambda point: places[point.variant])
    x = [places[point.variant] for point in own]
    axes.plot(
        x,
        [100 * point.spread.mean for point in own],
        "o-",
        color=color,
        markersize=3.5,
        linewidth=1.4,
        label=label,
    )
    banded = [point for point in own if math.isfinite(point.spread.ci_lower)]
    axes.fill_between(
        [places[point.variant] for point in banded],
        [100 * point.spread.ci_lower for point in banded],
        [100 * point.spread.ci_upper for point in banded],
        color=color,
        alpha=0.12,
        linewidth=0,
    )


def _scale(axes: Any, points: Sequence[StudyPoint]) -> None:
    """Keep the means readable: bands of two or three seeds may be wider than all differences."""
    means = [100 * point.spread.mean for point in points]
    room = max(2.0, 0.6 * (max(means) - min(means)))
    axes.set_ylim(min(means) - room, max(means) + room)


def _ticks(axes: Any, names: Sequence[str], values: Sequence[float] | None) -> None:
    if values is None:
        labels = [clean(name, longest=22) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        return
    if min(values) > 0 and max(values) / min(values) >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
