"""Figures over several runs: each returns an ``<svg>`` element, ``""`` when there is nothing to show."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deblora.evaluate.seeds import PairedSpread, SpreadRow
from deblora.report.content import GROUP_NAMES
from deblora.report.merged_tables import pairs
from deblora.report.svg import GROUP_COLORS, INK, MUTED, clean, draw

_FAN = 0.5  # share of a line's height over which the circles of the seeds are spread


def bars(rows: Sequence[SpreadRow], *, key: str) -> str:
    """Mean scores as bars, one panel per group, with the t interval of the mean and one circle per seed.

    Args:
        rows: Scores over seeds.
        key: Prefix of the ids in the drawing, unique on the page.
    """
    known = [row for row in rows if row.spread.n and row.entry.group in GROUP_NAMES]
    names = list(dict.fromkeys((row.entry.method, row.entry.probe) for row in known))
    shown = [group for group in GROUP_NAMES if any(row.entry.group == group for row in known)]
    if not names:
        return ""
    top = min(104.0, max(5.0, 112 * max(value for row in known for value in _defined(row))))

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            own = [row for row in known if row.entry.group == group]
            for row in own:
                _bar(axes, row, names.index((row.entry.method, row.entry.probe)))
            axes.set_title(group.capitalize(), color=GROUP_COLORS[group])
            axes.set_xlim(0, top)
            axes.set_xticks([tick for tick in (0, 25, 50, 75, 100) if tick <= top])
            axes.grid(axis="x")
        _label_lines(panels[0], [_label(*name) for name in names])
        figure.supxlabel("macro F1, %", fontsize=8, color=MUTED)

    height = 0.9 + 0.25 * len(names)
    return draw(build, name=key, alt="Mean scores over seeds with intervals", width=9.6, height=height)


def _bar(axes: Any, row: SpreadRow, y: int) -> None:
    color, spread = GROUP_COLORS[row.entry.group], row.spread
    axes.barh([y], [100 * spread.mean], color=_pale(color), height=0.72, linewidth=0)
    axes.plot([100 * spread.mean] * 2, [y - 0.36, y + 0.36], color=color, linewidth=1.6)
    if math.isfinite(spread.ci_lower):
        axes.plot([100 * spread.ci_lower, 100 * spread.ci_upper], [y, y], color=INK, linewidth=1.1)
    _circles(axes, _defined(row), y, color)


def _pale(color: str) -> tuple[float, ...]:
    """Mix a color with white, so that the grid does not shine through as it would with transparency."""
    from matplotlib.colors import to_rgb

    return tuple(0.4 * part + 0.6 for part in to_rgb(color))


def _defined(row: SpreadRow) -> list[float]:
    return [value for value in row.values.values() if not math.isnan(value)]


def forest(rows: Sequence[SpreadRow], *, key: str) -> str:
    """Paired differences over seeds, one panel per group, filled where the t interval excludes zero.

    Args:
        rows: Scores over seeds with their paired differences.
        key: Prefix of the ids in the drawing, unique on the page.
    """
    found = pairs(rows)
    baselines = list(dict.fromkeys(baseline for _, baseline, _ in found))
    shown = [group for group in GROUP_NAMES if any(row.entry.group == group for row, _, _ in found)]
    if not found:
        return ""
    lines: list[
        tuple[tuple[str, str], tuple[str, str] | None]
    ] = []  # a heading per baseline, then its methods
    for baseline in baselines:
        own = [(row.entry.method, row.entry.probe) for row, other, _ in found if other == baseline]
        lines += [(baseline, None), *((baseline, name) for name in dict.fromkeys(own))]
    span = _span([paired for _, _, paired in found])

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            for row, baseline, paired in found:
                if row.entry.group == group:
                    line = lines.index((baseline, (row.entry.method, row.entry.probe)))
                    _whisker(axes, paired, line, GROUP_COLORS[group])
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.set_xlim(-span, span)
            axes.set_title(group.capitalize(), color=GROUP_COLORS[group])
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
        labels = [
            f"against {_label(*baseline)}" if name is None else _label(*name) for baseline, name in lines
        ]
        _label_lines(panels[0], labels)
        for tick, (_, name) in zip(panels[0].get_yticklabels(), lines, strict=True):
            if name is None:
                tick.set(fontweight="bold", color=MUTED)
        figure.supxlabel("difference of macro F1, percentage points", fontsize=8, color=MUTED)

    height = 0.9 + 0.23 * len(lines)
    return draw(build, name=key, alt="Paired differences over seeds", width=9.6, height=height)


def _span(found: Sequence[PairedSpread]) -> float:
    """Half width that holds every seed and most intervals; those of two seeds alone would crush all circles."""
    seeds = [100 * abs(value) for paired in found for value in paired.differences.values()]
    ends = [
        100 * max(abs(paired.spread.ci_lower), abs(paired.spread.ci_upper))
        for paired in found
        if math.isfinite(paired.spread.ci_lower)
    ]
    widest = max(1.0, *seeds)
    return 1.08 * max(widest, min(3 * widest, float(np.percentile(ends, 80)))) if ends else 1.08 * widest


def _whisker(axes: Any, paired: PairedSpread, y: int, color: str) -> None:
    spread = paired.spread
    if math.isfinite(spread.ci_lower):
        ends = [100 * spread.ci_lower, 100 * spread.ci_upper]
        axes.plot(ends, [y, y], color=color, linewidth=1.6, solid_capstyle="round")
    _circles(axes, list(paired.differences.values()), y, color)
    face = "white" if paired.verdict == "open" else color
    style = {"color": color, "markerfacecolor": face, "markersize": 5.5, "markeredgewidth": 1.3}
    axes.plot([100 * spread.mean], [y], "o", zorder=4, **style)


def _circles(axes: Any, values: Sequence[float], y: int, color: str) -> None:
    offsets = np.linspace(-_FAN / 2, _FAN / 2, len(values)) if len(values) > 1 else np.zeros(len(values))
    style = {"color": color, "markerfacecolor": "white", "markersize": 2.8, "markeredgewidth": 0.8}
    axes.plot([100 * value for value in values], y + offsets, "o", linewidth=0, zorder=3, **style)


def _label(method: str, probe: str) -> str:
    return clean(f"{method} · {probe}", longest=44)


def _label_lines(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, color=INK, fontsize=7)
    axes.set_ylim(len(labels) - 0.4, -0.6)
