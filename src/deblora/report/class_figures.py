"""Figures over classes: counts, F1, confusion, clusters, features; each returns None when there is nothing to show.

``classes`` is a table with the columns ``class`` and ``group`` and one row per class, from the most to the
least frequent in training; names of classes are untrusted text.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from deblora.report.figures import INK, LINE_DASHES, MUTED, draw, log_axis
from deblora.report.page import GROUP_COLORS, Figure, clean
from deblora.report.tables import PAIR, label

ALPHA_COLORS = ("#5B3A8E", "#009E73", "#E69F00", "#56B4E9")
METHOD_COLORS = {"zero-shot": "#8A94A3", "lora": "#0072B2", "deblora": "#D55E00"}
TAIL_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
TAIL_COLORS = ("#D55E00", "#8C2D04", "#F2A541", "#B5446E", "#E8743B", "#6B3A1E", "#D99A00", "#A63D2F")
MEAN_MARKERS = ("o", "*", "D", "^", "s")
N_NAMES = 80  # more class names than these cannot be read along an axis
N_NAMES_IN_MATRIX = 36
N_CELLS_WITH_NUMBERS = 14


def long_tail(classes: pd.DataFrame) -> Figure | None:
    """Draw training chips per class on a log axis, colored by group, with alpha on the second axis.

    Args:
        classes: Also ``train`` (chips) and any columns ``alpha, <name>`` in 0..1.
    """
    if "train" not in classes or not classes["train"].any():
        return None
    counts = classes["train"].to_numpy()
    alphas = [name for name in classes.columns if name.startswith("alpha, ")]

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.bar(np.arange(len(counts)), counts, color=_colors(classes), width=0.78)
        floor = 0.45 * counts[counts > 0].min()
        log_axis(axes)
        axes.set_ylim(floor, counts.max() * 1.5)
        axes.set_ylabel("training chips (log)")
        axes.grid(axis="y")
        if len(counts) <= 40:
            style = {"ha": "center", "fontsize": 6.5, "color": "white", "fontweight": "bold"}
            for i in np.flatnonzero(counts):
                text = f"{int(counts[i]):,}"
                axes.annotate(text, (i, floor), (0, 3), textcoords="offset points", **style)
        class_axis(axes, classes)
        handles = _group_handles(classes)
        if alphas:
            handles += _alpha_axis(axes.twinx(), classes[alphas])
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))

    return draw(build, alt="Training chips per class and alpha", height=3.9)


def _alpha_axis(axes: Any, alphas: pd.DataFrame) -> list[Any]:
    handles = []
    for i, name in enumerate(alphas):
        style = {"markersize": 5, "linewidth": 1.1, "markeredgecolor": "white", "markeredgewidth": 0.5}
        color, dash = ALPHA_COLORS[i % len(ALPHA_COLORS)], LINE_DASHES[i % len(LINE_DASHES)]
        text = clean(str(name), longest=40)
        values = alphas[name].to_numpy()
        handles += axes.plot(values, dash, color=color, marker="o", label=text, **style)
    axes.set_ylim(-0.03, 1.08)
    axes.set_ylabel("alpha (share of the original feature)")
    axes.spines["right"].set_visible(False)
    return handles


def class_f1(f1: pd.DataFrame, classes: pd.DataFrame) -> Figure | None:
    """Draw F1 per class, one panel per method; from the second on, a tick marks the first one (the baseline).

    Args:
        f1: Columns ``method``, ``classifier``, ``class`` and ``value`` (fraction).
        classes: Their order and groups.
    """
    panels = [
        (label(*name), 100 * own.set_index("class")["value"].reindex(classes["class"]).to_numpy())
        for name, own in f1.groupby(["method", "classifier"], sort=False)
    ]
    if not panels or classes.empty:
        return None
    places = np.arange(len(classes))

    def build(figure: Any) -> None:
        from matplotlib.lines import Line2D

        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, values)) in enumerate(zip(grid, panels, strict=True)):
            axes.bar(places, np.nan_to_num(values), color=_colors(classes), width=0.78)
            if i:
                axes.hlines(panels[0][1], places - 0.46, places + 0.46, color=INK, linewidth=1.4)
            axes.set_ylim(0, 104)
            axes.set_yticks([0, 50, 100])
            axes.grid(axis="y")
            axes.set_title(clean(name, longest=80))
        class_axis(grid[-1], classes)
        handles = _group_handles(classes)
        if len(panels) > 1:
            text = f"baseline: {clean(panels[0][0], longest=40)}"
            handles.append(Line2D([], [], color=INK, linewidth=1.4, label=text))
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        figure.supylabel("F1, %", fontsize=8, color=MUTED)

    return draw(build, alt="F1 per class and method", height=1.3 + 1.15 * len(panels))


def confusion(counts: Mapping[str, np.ndarray], classes: pd.DataFrame) -> Figure | None:
    """Draw confusion matrices, two side by side; color is the share of the true class.

    Args:
        counts: Name -> chips by true (rows) and predicted class (columns), in the order of ``classes``.
        classes: Names and groups.
    """
    if not counts or classes.empty:
        return None
    n_rows = -(-len(counts) // 2)

    def build(figure: Any) -> None:
        grid = figure.subplots(n_rows, 2, squeeze=False).ravel()
        for axes in grid[len(counts) :]:
            axes.set_axis_off()
        for i, (axes, (name, matrix)) in enumerate(zip(grid, counts.items(), strict=False)):
            totals = matrix.sum(axis=1, keepdims=True)
            shares = 100 * matrix / np.maximum(totals, 1)
            image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="equal")
            if len(classes) <= N_CELLS_WITH_NUMBERS:
                _numbers(axes, matrix, dark=shares > 55)
            axes.set_title(clean(name, longest=44))
            named = len(classes) <= N_NAMES_IN_MATRIX
            class_axis(axes, classes, names=named)
            class_axis(axes, classes, vertical=True, names=named and i % 2 == 0)
            axes.set_xlabel("predicted")
            if i % 2 == 0:
                axes.set_ylabel("true")
            _without_frame(axes)
        _color_bar(figure, image, list(grid), "% of the true class")

    return draw(build, alt="Confusion matrices", height=5.3 * n_rows)


def composition(shares: pd.DataFrame, classes: pd.DataFrame) -> Figure | None:
    """Draw the share of each class in each cluster.

    Args:
        shares: Index classes, columns clusters; a row sums to 1.
        classes: Order and groups of the classes.
    """
    if shares.empty or classes.empty:
        return None
    values = 100 * shares.reindex(classes["class"]).to_numpy()

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        top = max(float(np.nanmax(values)) if np.isfinite(values).any() else 0.0, 1.0)
        image = axes.imshow(values, cmap="BuPu", vmin=0, vmax=top, aspect="auto")
        if values.size <= 400:
            _numbers(axes, np.where(values >= 0.5, np.nan_to_num(values), 0), dark=values > 0.55 * top)
        class_axis(axes, classes, vertical=True)
        axes.set_xticks(range(0, values.shape[1], max(1, values.shape[1] // 30)))
        axes.set_xlabel("cluster")
        _without_frame(axes)
        _color_bar(figure, image, [axes], "% of the class")

    return draw(build, alt="Cluster composition", height=1.0 + min(9.0, 0.22 * len(classes) + 0.4))


def _numbers(axes: Any, matrix: np.ndarray, *, dark: np.ndarray) -> None:
    for row, column in np.argwhere(matrix > 0):
        color = "white" if dark[row, column] else INK
        text = f"{matrix[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)


def _color_bar(figure: Any, image: Any, axes: list[Any], text: str) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=26, pad=0.012)
    bar.set_label(text)
    bar.outline.set_visible(False)


def mismatch(found: pd.DataFrame) -> Figure | None:
    """Draw the gap between training and test mean, and the scatter of both, class by class.

    Args:
        found: Columns ``method``, ``class``, ``group``, ``gap``, ``chance``, ``train_scatter`` and
            ``test_scatter``, classes by falling count; methods other than zero-shot, lora and deblora are
            left out.
    """
    own = {name: found[found["method"] == name] for name in METHOD_COLORS if (found["method"] == name).any()}
    if not own:
        return None

    def build(figure: Any) -> None:
        gaps, scatters = figure.subplots(2, 1, sharex=True)
        for method, rows in own.items():
            color, x = METHOD_COLORS[method], np.arange(len(rows))
            style = {"color": color, "linewidth": 1.1, "markersize": 4}
            gaps.plot(x, rows["gap"], "o-", label=method, **style)
            gaps.plot(x, rows["chance"], ":", color=color, linewidth=1.0)
            scatters.plot(x, rows["train_scatter"], "o-", label=f"{method}, train", **style)
            style["markerfacecolor"] = "white"
            scatters.plot(x, rows["test_scatter"], "o--", label=f"{method}, test", **style)
        gaps.set_ylabel("gap of the means")
        scatters.set_ylabel("scatter")
        for axes, place in ((gaps, "upper left"), (scatters, "lower left")):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y")
            axes.legend(ncols=len(own), loc=place)
        class_axis(scatters, next(iter(own.values())))

    return draw(build, alt="Train-test gap and scatter by class", height=5.2)


def gains(found: pd.DataFrame) -> Figure | None:
    """Draw the gain of F1 per class as bars, one panel per method, with one dot per seed.

    Args:
        found: Columns of a difference, ``class``, ``group``, ``rank`` (of the class by count) and ``gain``
            (fraction), one line per class and seed.
    """
    pairs = list(found.groupby(PAIR, sort=False))
    if not pairs:
        return None

    def build(figure: Any) -> None:
        panels = figure.subplots(len(pairs), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (pair, own) in zip(panels, pairs, strict=True):
            classes = own.drop_duplicates("rank").sort_values("rank")
            means = own.groupby("rank")["gain"].mean()
            axes.bar(means.index, 100 * means, color=_colors(classes), width=0.74, alpha=0.75)
            axes.plot(own["rank"], 100 * own["gain"], "o", color=INK, markersize=2, linewidth=0)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.grid(axis="y")
            axes.set_ylabel("points of F1")
            axes.set_title(clean(f"{label(*pair[:2])} less {label(*pair[2:])}", longest=90))
            class_axis(axes, classes)

    return draw(build, alt="Gain of F1 by class", height=1.2 + 2.1 * len(pairs))


def projections(found: pd.DataFrame, classes: pd.DataFrame) -> Figure | None:
    """Draw layouts of features in the plane, two per row; marks are an embedded picture, words stay text.

    Arrows lead from the first kind of class mean to each other kind, for tail classes.

    Args:
        found: Columns ``panel`` (title), ``kind`` (``train`` or ``test`` chip, or the name of a class mean),
            ``class``, ``x`` and ``y``.
        classes: Order and groups of the classes.
    """
    found = found.dropna(subset=["x", "y"])
    panels = list(found[found["kind"].isin(["train", "test"])]["panel"].unique())
    if not panels or classes.empty:
        return None
    group_of = dict(zip(classes["class"], classes["group"], strict=True))
    found = found.assign(group=found["class"].map(group_of))
    tail = list(classes["class"][classes["group"] == "tail"])
    kinds = [kind for kind in found["kind"].unique() if kind not in ("train", "test")]
    n_rows = -(-len(panels) // 2)

    def build(figure: Any) -> None:
        grid = figure.subplots(n_rows, 2, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid, panels, strict=False):
            _panel(axes, found[found["panel"] == panel], tail, kinds)
            axes.set_title(clean(panel, longest=60))
        handles = _plane_handles(classes, tail, kinds)
        figure.legend(handles=handles, loc="outside lower left", ncols=min(5, len(handles)))

    return draw(build, alt="t-SNE of features", height=5.0 * n_rows + 0.6)


def _panel(axes: Any, found: pd.DataFrame, tail: list[str], kinds: list[str]) -> None:
    for kind in ("train", "test"):
        chips = found[found["kind"] == kind]
        for group in ("", "middle", "head"):
            own = chips[chips["group"] == group]
            _marks(axes, own, GROUP_COLORS[group], "o", is_test=kind == "test", size=9)
        for i, name in enumerate(tail):
            own = chips[chips["class"] == name]
            _marks(axes, own, *_tail_style(i, len(tail)), is_test=kind == "test", size=20)
    for name in tail:
        _arrows(axes, found[found["class"] == name].set_index("kind")[["x", "y"]], kinds)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.04)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#E4E8ED")


def _marks(axes: Any, chips: pd.DataFrame, color: str, marker: str, *, is_test: bool, size: float) -> None:
    opacity, edge = (0.9, "white") if is_test else (0.2, "none")
    style = {"c": color, "marker": marker, "alpha": opacity, "edgecolors": edge, "linewidths": 0.4}
    axes.scatter(chips["x"], chips["y"], s=size, rasterized=True, **style)


def _tail_style(place: int, n_tail: int) -> tuple[str, str]:
    # More classes than marks would make two classes look alike, so then the group shares one look.
    few = n_tail <= len(TAIL_MARKERS)
    return (TAIL_COLORS[place], TAIL_MARKERS[place]) if few else (GROUP_COLORS["tail"], "^")


def _arrows(axes: Any, places: pd.DataFrame, kinds: list[str]) -> None:
    for i, kind in enumerate(kinds):
        if kind not in places.index:
            continue
        end = places.loc[kind].to_numpy()
        if i and kinds[0] in places.index:
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0, "shrinkA": 3, "shrinkB": 4}
            axes.annotate("", end, places.loc[kinds[0]].to_numpy(), arrowprops=arrow, zorder=5)
        marker = MEAN_MARKERS[i % len(MEAN_MARKERS)]
        style = {
            "marker": marker,
            "s": 110 if marker == "*" else 38,
            "edgecolors": "white",
            "linewidths": 0.8,
        }
        axes.scatter(*end, c=INK, zorder=6, **style)


def _plane_handles(classes: pd.DataFrame, tail: list[str], kinds: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    def mark(text: str, color: str, marker: str, **style: Any) -> Any:
        options = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.4, **style}
        return Line2D([], [], linestyle="", color=color, marker=marker, label=text, **options)

    present = set(classes["group"])
    handles = [mark(name, GROUP_COLORS[name], "o") for name in ("head", "middle") if name in present]
    if len(tail) > len(TAIL_MARKERS):
        handles.append(mark("tail", *_tail_style(0, len(tail))))
    else:
        for i, name in enumerate(tail):
            handles.append(mark(clean(f"tail: {name}", longest=26), *_tail_style(i, len(tail))))
    handles.append(mark("training chip (faint)", INK, "o", alpha=0.25))
    handles.append(mark("test chip (crisp)", INK, "o"))
    for i, kind in enumerate(kinds):
        marker = MEAN_MARKERS[i % len(MEAN_MARKERS)]
        handles.append(mark(clean(kind, longest=30), INK, marker, markersize=9 if marker == "*" else 6.5))
    return handles


def class_axis(axes: Any, classes: pd.DataFrame, *, vertical: bool = False, names: bool = True) -> None:
    """Write class names along an axis in the color of their group; too many are left out."""
    shown = classes if names and len(classes) <= N_NAMES else classes.iloc[:0]
    labels = [clean(name, longest=22) for name in shown["class"]]
    size = 7.5 if len(classes) <= 45 else 5.5
    if vertical:
        axes.set_yticks(range(len(shown)), labels, fontsize=size)
    else:
        axes.set_xlim(-0.6, len(classes) - 0.4)
        axes.set_xticks(range(len(shown)), labels, fontsize=size, rotation=90 if len(classes) > 12 else 40)
    # Panels above the last one hide their labels, and get_xticklabels returns shown ones only.
    ticks = (axes.yaxis if vertical else axes.xaxis).get_major_ticks()
    for tick, group in zip(ticks, shown["group"], strict=False):
        tick.label1.set_color(GROUP_COLORS[group] if group in ("head", "tail") else MUTED)
        if not vertical and len(classes) <= 12:
            tick.label1.set(ha="right", rotation_mode="anchor")


def _colors(classes: pd.DataFrame) -> list[str]:
    return [GROUP_COLORS.get(group, MUTED) for group in classes["group"]]


def _group_handles(classes: pd.DataFrame) -> list[Any]:
    from matplotlib.patches import Patch

    present = set(classes["group"])
    return [
        Patch(color=GROUP_COLORS[name], label=name) for name in ("head", "middle", "tail") if name in present
    ]


def _without_frame(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
