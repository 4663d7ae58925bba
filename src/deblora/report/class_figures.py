"""Figures over classes, from the most to the least frequent: train-test gap, scatter, gain per class."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deblora.report.compare_content import ClassGain, ClassGap
from deblora.report.svg import GROUP_COLORS, INK, MUTED, clean, draw

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
