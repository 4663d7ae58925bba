"""Planar layouts of features: faint training marks, crisp test marks, tail classes highlighted."""

from typing import Any

import numpy as np

from deblora.report.content import Projection, ReportContent
from deblora.report.svg import GROUP_COLORS, INK, clean, draw

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
