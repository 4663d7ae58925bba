"""Figures over classes and scores: each returns an ``<svg>`` element, ``""`` when there is nothing to show."""

import math
from typing import Any

import numpy as np

from deblora.report.content import GROUP_NAMES, DifferenceRow, Projection, ReportContent
from deblora.report.svg import GROUP_COLORS, INK, MUTED, clean, draw

ALPHA_COLOR = "#5B3A8E"
LINE_COLORS = ("#5B3A8E", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#1F2933")
LINE_DASHES = ("-", "--", "-.", ":")
N_NAMES_SHOWN = 80
N_NAMES_IN_MATRIX = 36
N_CELLS_WITH_NUMBERS = 14


def long_tail(content: ReportContent) -> str:
    """Training chips per class on a log axis, colored by group, with alpha on the second axis."""
    order, colors = content.by_count(), _bar_colors(content)
    if not len(order) or not content.train_counts.any():
        return ""

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        counts = content.train_counts[order]
        axes.bar(np.arange(len(order)), counts, color=colors, width=0.78)
        floor = 0.45 * counts[counts > 0].min()
        _log_axis(axes)
        axes.set_ylim(floor, counts.max() * 1.5)
        axes.set_ylabel("training chips (log)")
        axes.grid(axis="y")
        if len(order) <= 40:
            for i, count in enumerate(counts):
                if count:
                    style = {"ha": "center", "fontsize": 6.5, "color": "white", "fontweight": "bold"}
                    axes.annotate(f"{int(count):,}", (i, floor), (0, 3), textcoords="offset points", **style)
        _class_axis(axes, content, order)
        handles = _group_handles(content)
        if content.alpha_per_class:
            handles += _alpha_axis(axes.twinx(), content, order)
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))

    return draw(build, name="longtail", alt="Training chips per class and alpha", width=9.6, height=3.9)


def _alpha_axis(axes: Any, content: ReportContent, order: np.ndarray) -> list[Any]:
    handles = []
    for i, (name, alpha) in enumerate(content.alpha_per_class.items()):
        color, dash = LINE_COLORS[i % len(LINE_COLORS)], LINE_DASHES[i % len(LINE_DASHES)]
        handles += axes.plot(
            alpha[order],
            dash,
            color=color,
            marker="o",
            markersize=5,
            linewidth=1.1,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=clean(f"alpha, {name}", longest=40),
        )
    axes.set_ylim(-0.03, 1.08)
    axes.set_ylabel("alpha (share of the original feature)")
    axes.spines["right"].set_visible(False)
    return handles


def forest(content: ReportContent) -> str:
    """Paired differences with intervals: one panel per group, filled where the interval excludes zero."""
    rows = [row for row in content.differences if math.isfinite(row.value)]
    shown = [group for group in GROUP_NAMES if any(row.group == group for row in rows)]
    pairs = list(dict.fromkeys(_pair(row) for row in rows if row.group in shown))
    if not pairs:
        return ""
    ends = [
        100 * end for row in rows for end in (row.value, row.ci_lower, row.ci_upper) if math.isfinite(end)
    ]
    span = max(1.0, max(abs(end) for end in ends)) * 1.08
    decade = 10.0 ** math.floor(math.log10(0.75 * span))
    tick = max(step * decade for step in (1, 2, 5) if step * decade <= 0.75 * span)

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            for row in rows:
                if row.group == group:
                    _whisker(axes, row, pairs.index(_pair(row)))
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.set_xlim(-span, span)
            axes.set_xticks([-tick, 0, tick])
            axes.set_title(group.capitalize(), color=GROUP_COLORS[group])
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
        panels[0].set_yticks(
            range(len(pairs)), [f"{a}\nagainst {b}" for a, b in pairs], color=INK, fontsize=7
        )
        panels[0].set_ylim(len(pairs) - 0.4, -0.6)
        figure.supxlabel("difference of macro F1, percentage points", fontsize=8, color=MUTED)

    height = 1.1 + 0.4 * len(pairs)
    return draw(build, name="forest", alt="Paired differences with intervals", width=9.6, height=height)


def _pair(row: DifferenceRow) -> tuple[str, str]:
    against = clean(f"{row.baseline} · {row.baseline_probe}", longest=40)
    return clean(f"{row.method} · {row.probe}", longest=44), against


def _whisker(axes: Any, row: DifferenceRow, y: int) -> None:
    color = GROUP_COLORS[row.group]
    if math.isfinite(row.ci_lower) and math.isfinite(row.ci_upper):
        axes.plot(
            [100 * row.ci_lower, 100 * row.ci_upper],
            [y, y],
            color=color,
            linewidth=1.8,
            solid_capstyle="round",
        )
    face = "white" if row.verdict == "open" else color
    axes.plot(
        [100 * row.value], [y], "o", color=color, markerfacecolor=face, markersize=5.5, markeredgewidth=1.3
    )


def per_class_f1(content: ReportContent) -> str:
    """F1 per class, one panel per label; from the second on, a tick marks the first label (the baseline)."""
    order, colors, panels = content.by_count(), _bar_colors(content), list(content.per_class_f1.items())
    if not panels or not len(order):
        return ""
    baseline = 100 * np.asarray(panels[0][1])[order]
    positions = np.arange(len(order))

    def build(figure: Any) -> None:
        from matplotlib.lines import Line2D

        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, (label, values)) in enumerate(zip(grid, panels, strict=True)):
            axes.bar(positions, np.nan_to_num(100 * np.asarray(values)[order]), color=colors, width=0.78)
            if i:
                axes.hlines(baseline, positions - 0.46, positions + 0.46, color=INK, linewidth=1.4)
            axes.set_ylim(0, 104)
            axes.set_yticks([0, 50, 100])
            axes.grid(axis="y")
            axes.set_title(clean(label, longest=80))
        _class_axis(grid[-1], content, order)
        handles = _group_handles(content)
        if len(panels) > 1:
            name = clean(panels[0][0], longest=40)
            handles.append(Line2D([], [], color=INK, linewidth=1.4, label=f"baseline: {name}"))
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        figure.supylabel("F1, %", fontsize=8, color=MUTED)

    height = 1.3 + 1.15 * len(panels)
    return draw(build, name="f1", alt="F1 per class and method", width=9.6, height=height)


def confusion(content: ReportContent) -> str:
    """Confusion matrices, two side by side, each row divided by its true class; classes sorted by count."""
    order, panels = content.by_count(), list(content.confusion.items())
    if not panels or not len(order):
        return ""
    n_rows = -(-len(panels) // 2)
    few = len(order) <= N_CELLS_WITH_NUMBERS

    def build(figure: Any) -> None:
        grid = figure.subplots(n_rows, 2, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for i, (axes, (label, counts)) in enumerate(zip(grid, panels, strict=False)):
            counts = np.asarray(counts)[np.ix_(order, order)]
            totals = counts.sum(axis=1, keepdims=True)
            image = axes.imshow(
                100 * counts / np.maximum(totals, 1), cmap="Blues", vmin=0, vmax=100, aspect="equal"
            )
            for row, column in np.argwhere(counts > 0) if few else ():
                dark = counts[row, column] > 0.55 * totals[row, 0]
                color, text = ("white" if dark else INK), str(counts[row, column])
                axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
            axes.set_title(clean(label, longest=44))
            named = len(order) <= N_NAMES_IN_MATRIX
            _class_axis(axes, content, order, names=named)
            _class_axis(axes, content, order, vertical=True, names=named and i % 2 == 0)
            axes.set_xlabel("predicted")
            if i % 2 == 0:
                axes.set_ylabel("true")
            _frame(axes)
        bar = figure.colorbar(image, ax=list(grid), shrink=0.6, aspect=30, pad=0.01)
        bar.set_label("% of the true class")
        bar.outline.set_visible(False)

    return draw(build, name="confusion", alt="Confusion matrices", width=9.6, height=5.3 * n_rows)


def composition(content: ReportContent) -> str:
    """Heat map of the share of each class in each cluster, classes sorted by count."""
    if content.composition is None or not content.composition.size:
        return ""
    order = content.by_count()
    shares = 100 * np.asarray(content.composition)[order]

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        top = max(float(np.nanmax(shares)) if np.isfinite(shares).any() else 0.0, 1.0)
        image = axes.imshow(shares, cmap="BuPu", vmin=0, vmax=top, aspect="auto")
        if shares.size <= 400:
            for row, column in np.argwhere(shares >= 0.5):
                color = "white" if shares[row, column] > 0.55 * top else INK
                text = f"{shares[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)
        _class_axis(axes, content, order, vertical=True)
        step = max(1, shares.shape[1] // 30)
        axes.set_xticks(range(0, shares.shape[1], step))
        axes.set_xlabel("cluster")
        _frame(axes)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=24, pad=0.015)
        bar.set_label("% of the class")
        bar.outline.set_visible(False)

    height = 1.0 + min(9.0, 0.22 * len(order) + 0.4)
    return draw(build, name="composition", alt="Cluster composition", width=9.6, height=height)


def curves(content: ReportContent) -> str:
    """Training loss by step; logarithmic when the losses span more than a factor of 30."""
    lines = {name: np.array(pairs, dtype=float) for name, pairs in content.curves.items() if pairs}
    if not lines:
        return ""
    losses = np.concatenate([line[:, 1] for line in lines.values()])
    losses = losses[np.isfinite(losses)]

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        for i, (name, line) in enumerate(lines.items()):
            color, dash = (
                LINE_COLORS[i % len(LINE_COLORS)],
                LINE_DASHES[i // len(LINE_COLORS) % len(LINE_DASHES)],
            )
            label, marker = clean(name, longest=40), "o" if len(line) < 4 else ""
            axes.plot(line[:, 0], line[:, 1], dash, color=color, marker=marker, linewidth=1.4, label=label)
        if losses.size and losses.min() > 0 and losses.max() > 30 * losses.min():
            _log_axis(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.grid(axis="y")
        axes.legend(loc="upper right")

    return draw(build, name="curves", alt="Training loss by step", width=9.6, height=3.0)


def _bar_colors(content: ReportContent) -> list[str]:
    group_of = content.group_of()
    return [GROUP_COLORS[group_of[index]] for index in content.by_count()]


def _group_handles(content: ReportContent) -> list[Any]:
    from matplotlib.patches import Patch

    named = content.groups.named()
    return [Patch(color=GROUP_COLORS[name], label=name) for name, members in named.items() if members]


def _log_axis(axes: Any) -> None:
    # The stock labels of a log axis are math text, which is switched off because class names may hold dollars.
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)


def _frame(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)


def _class_axis(
    axes: Any, content: ReportContent, order: np.ndarray, *, vertical: bool = False, names: bool = True
) -> None:
    group_of = content.group_of()
    shown = order if names and len(order) <= N_NAMES_SHOWN else order[:0]
    labels = [clean(content.class_names[index], longest=22) for index in shown]
    size = 7.5 if len(order) <= 45 else 5.5
    if vertical:
        axes.set_yticks(range(len(shown)), labels, fontsize=size)
        ticks = axes.get_yticklabels()
    else:
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set_xticks(range(len(shown)), labels, rotation=90 if len(order) > 12 else 40, fontsize=size)
        ticks = axes.get_xticklabels()
        if len(order) <= 12:
            for tick in ticks:
                tick.set(ha="right", rotation_mode="anchor")
    for tick, index in zip(ticks, shown, strict=True):
        group = group_of[index]
        tick.set_color(GROUP_COLORS[group] if group in ("head", "tail") else MUTED)


TAIL_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
TAIL_COLORS = ("#D55E00", "#8C2D04", "#F2A541", "#B5446E", "#E8743B", "#6B3A1E", "#D99A00", "#A63D2F")
MEAN_MARKERS = ("o", "*", "D", "^", "s")


def projections(content: ReportContent) -> str:
    """Draw all projections, two per row; marks are an embedded picture, words stay text."""
    panels = [panel for panel in content.projections if len(panel.points)]
    if not panels:
        return ""
    n_rows = -(-len(panels) // 2)

    def build(figure: Any) -> None:
        grid = figure.subplots(n_rows, 2, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid, panels, strict=False):
            _panel(axes, panel, content)
        handles = _handles(content, panels)
        figure.legend(handles=handles, loc="outside lower left", ncols=min(5, len(handles)))

    return draw(build, name="tsne", alt="t-SNE of features", width=9.6, height=5.0 * n_rows + 0.6)


def _panel(axes: Any, panel: Projection, content: ReportContent) -> None:
    group_of = content.group_of()
    groups = np.array([group_of[label] for label in panel.labels])
    for group in ("", "middle", "head"):
        for is_test in (False, True):
            rows = (groups == group) & (panel.is_test == is_test)
            _marks(axes, panel.points[rows], GROUP_COLORS[group], "o", is_test=is_test, size=9)
    for is_test in (False, True):
        for i, index in enumerate(content.groups.tail):
            rows = (panel.labels == index) & (panel.is_test == is_test)
            color, marker = _tail_style(i, len(content.groups.tail))
            _marks(axes, panel.points[rows], color, marker, is_test=is_test, size=20)
    _arrows(axes, panel, content.groups.tail)
    axes.set_title(clean(panel.title, longest=60))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.04)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#E4E8ED")


def _marks(axes: Any, points: np.ndarray, color: str, marker: str, *, is_test: bool, size: float) -> None:
    opacity, edge = (0.9, "white") if is_test else (0.2, "none")
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=size,
        c=color,
        marker=marker,
        alpha=opacity,
        edgecolors=edge,
        linewidths=0.4,
        rasterized=True,
    )


def _tail_style(place: int, n_tail: int) -> tuple[str, str]:
    # More classes than marks would make two classes look alike, so then the group shares one look.
    return (
        (TAIL_COLORS[place], TAIL_MARKERS[place])
        if n_tail <= len(TAIL_MARKERS)
        else (GROUP_COLORS["tail"], "^")
    )


def _arrows(axes: Any, panel: Projection, tail: tuple[int, ...]) -> None:
    named = [np.asarray(points) for points in panel.means.values()]
    for index in tail:
        start = named[0][index] if named else np.full(2, np.nan)
        for i, points in enumerate(named):
            end = points[index]
            if not np.isfinite(end).all():
                continue
            if i and np.isfinite(start).all():
                arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 3, "shrinkB": 4}
                axes.annotate("", end, start, arrowprops=arrow, zorder=5)
            size = 110 if MEAN_MARKERS[i % 5] == "*" else 38
            style = {"marker": MEAN_MARKERS[i % 5], "s": size, "edgecolors": "white", "linewidths": 0.8}
            axes.scatter(*end, c=INK, zorder=6, **style)


def _handles(content: ReportContent, panels: list[Projection]) -> list[Any]:
    from matplotlib.lines import Line2D

    def mark(label: str, color: str, marker: str, **style: Any) -> Any:
        options = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.4, **style}
        return Line2D([], [], linestyle="", color=color, marker=marker, label=label, **options)

    named = content.groups.named()
    handles = [mark(name, GROUP_COLORS[name], "o") for name in ("head", "middle") if named[name]]
    tail = content.groups.tail
    if len(tail) > len(TAIL_MARKERS):
        handles.append(mark("tail", *_tail_style(0, len(tail))))
    else:
        for i, index in enumerate(tail):
            name = clean(f"tail: {content.class_names[index]}", longest=26)
            handles.append(mark(name, *_tail_style(i, len(tail))))
    handles.append(mark("training chip (faint)", INK, "o", alpha=0.25))
    handles.append(mark("test chip (crisp)", INK, "o"))
    names = list(dict.fromkeys(name for panel in panels for name in panel.means))
    for name in names:
        place = next(list(panel.means).index(name) for panel in panels if name in panel.means)
        size = 9 if MEAN_MARKERS[place % 5] == "*" else 6.5
        handles.append(mark(clean(name, longest=30), INK, MEAN_MARKERS[place % 5], markersize=size))
    return handles
