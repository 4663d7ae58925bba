"""Figures over several runs: each returns an ``<svg>`` element, ``""`` when there is nothing to show."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deblora.evaluate.seeds import PairedSpread, SpreadRow
from deblora.report.content import GROUP_NAMES
from deblora.report.seeds_content import ClassGain, ClassGap
from deblora.report.seeds_tables import pairs
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


N_NAMES_SHOWN = 60
METHODS = ("zero-shot", "lora", "deblora")
COLORS = {"zero-shot": "#8A94A3", "lora": "#0072B2", "deblora": "#D55E00"}


def mismatch(gaps: Sequence[ClassGap]) -> str:
    """Gap between training and test mean, and scatter of both, class by class, before and after debLoRA.

    Args:
        gaps: Means over seeds; methods other than zero-shot, lora and deblora are left out.
    """
    shown = [method for method in METHODS if any(gap.method == method for gap in gaps)]
    if not shown:
        return ""
    own = {method: [gap for gap in gaps if gap.method == method] for method in shown}
    labels = own[shown[0]]

    def build(figure: Any) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        for method in shown:
            color, x = COLORS[method], np.arange(len(own[method]))
            style = {"color": color, "linewidth": 1.1, "markersize": 4}
            panels[0].plot(x, [gap.gap for gap in own[method]], "o-", label=method, **style)
            panels[0].plot(x, [gap.chance for gap in own[method]], ":", color=color, linewidth=1.0)
            panels[1].plot(
                x, [gap.train_scatter for gap in own[method]], "o-", label=f"{method}, train", **style
            )
            open_marks = {**style, "markerfacecolor": "white"}
            panels[1].plot(
                x, [gap.test_scatter for gap in own[method]], "o--", label=f"{method}, test", **open_marks
            )
        panels[0].set_ylabel("gap of the means")
        panels[1].set_ylabel("scatter")
        for axes in panels:
            axes.set_ylim(bottom=0)
            axes.grid(axis="y")
        panels[0].legend(ncols=len(shown), loc="upper left")
        panels[1].legend(ncols=len(shown), loc="lower left")
        _class_axis(panels[1], [(gap.label, gap.group) for gap in labels])

    return draw(build, name="mismatch", alt="Train-test gap and scatter by class", width=9.6, height=5.2)


def gains(found: Sequence[ClassGain]) -> str:
    """Gain of F1 per class as bars, one panel per row, with one circle per seed."""
    pairs = list(dict.fromkeys((gain.row, gain.baseline) for gain in found))
    if not pairs:
        return ""

    def build(figure: Any) -> None:
        panels = figure.subplots(len(pairs), 1, sharex=True, squeeze=False)[:, 0]
        for axes, pair in zip(panels, pairs, strict=True):
            own = [gain for gain in found if (gain.row, gain.baseline) == pair]
            for i, gain in enumerate(own):
                known = [100 * value for value in gain.gains if not math.isnan(value)]
                if known:
                    color = GROUP_COLORS.get(gain.group, MUTED)
                    axes.bar([i], [float(np.mean(known))], color=color, width=0.74, alpha=0.75)
                    axes.plot([i] * len(known), known, "o", color=INK, markersize=2, linewidth=0)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.grid(axis="y")
            axes.set_ylabel("points of F1")
            axes.set_title(clean(f"{' · '.join(pair[0])} less {' · '.join(pair[1])}", longest=90))
            _class_axis(axes, [(gain.label, gain.group) for gain in own])

    height = 1.2 + 2.1 * len(pairs)
    return draw(build, name="gains", alt="Gain of F1 by class", width=9.6, height=height)


def _class_axis(axes: Any, classes: Sequence[tuple[str, str]]) -> None:
    axes.set_xlim(-0.6, len(classes) - 0.4)
    if len(classes) > N_NAMES_SHOWN:
        axes.set_xticks([])
        axes.set_xlabel("classes, from the most to the least frequent")
        return
    names = [clean(name, longest=22) for name, _ in classes]
    axes.set_xticks(range(len(classes)), names, rotation=60, ha="right", fontsize=6.5)
    # Panels above the last one hide their labels, and get_xticklabels returns shown ones only.
    for tick, (_, group) in zip(axes.xaxis.get_major_ticks(), classes, strict=True):
        tick.label1.set_color(GROUP_COLORS.get(group, MUTED))
