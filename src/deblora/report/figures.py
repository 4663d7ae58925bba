"""Figures of scores, differences and training; each function returns None when there is nothing to show."""

import base64
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deblora.report.page import GROUP_COLORS, Figure, clean
from deblora.report.tables import GROUPS, NAME, PAIR, label, verdict

INK, MUTED, GRID = "#1F2933", "#66717F", "#E4E8ED"
LINE_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#66717F")
LINE_DASHES = ("-", "--", "-.", ":")
_FAN = 0.5  # share of a line's height over which the circles of the seeds are spread
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # class names may hold dollars
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#C4CBD4",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw(build: Callable[[Any], None], *, alt: str, height: float, width: float = 9.6) -> Figure:
    """Let ``build`` fill an empty ``matplotlib.figure.Figure`` and return it as an SVG image.

    Args:
        build: Receives the figure.
        alt: What a screen reader says.
        height: Inches.
        width: Inches.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    buffer = io.BytesIO()
    # A fixed salt makes the same figure the same bytes.
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": "deblora"}), warnings.catch_warnings():
        # The reader's browser picks the font, so glyphs that the measuring font lacks do not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = Canvas(figsize=(width, height), layout="constrained")
        build(canvas)
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        canvas.savefig(buffer, format="svg", metadata=nothing, dpi=200, bbox_inches="tight")
    text = base64.b64encode(buffer.getvalue()).decode()
    return Figure(f"data:image/svg+xml;base64,{text}", clean(alt), round(width * 104))


def dots(scores: pd.DataFrame) -> Figure | None:
    """Draw scores with their intervals, one panel per class group.

    Args:
        scores: Macro F1; a column ``values`` holds the scores of the seeds, one small circle each.
    """
    known = scores[scores["value"].notna() & scores["group"].isin(GROUPS)]
    names = list(known[NAME].drop_duplicates().itertuples(index=False, name=None))
    shown = [group for group in GROUPS if (known["group"] == group).any()]
    if not names:
        return None
    top = min(104.0, max(5.0, 110 * float(np.nanmax(known[["value", "ci_upper"]].to_numpy(dtype=float)))))

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            for _, row in known[known["group"] == group].iterrows():
                _mark(axes, row, names.index((row["method"], row["classifier"])), filled=True)
            axes.set_title(group.capitalize(), color=GROUP_COLORS[group])
            axes.set_xlim(0, top)
            axes.set_xticks([tick for tick in (0, 25, 50, 75, 100) if tick <= top])
            axes.grid(True)
        _label_lines(panels[0], [label(*name) for name in names])
        figure.supxlabel("macro F1, %", fontsize=8, color=MUTED)

    return draw(
        build, alt="Macro F1 by method and class group, with intervals", height=0.9 + 0.23 * len(names)
    )


def forest(differences: pd.DataFrame) -> Figure | None:
    """Draw paired differences, one panel per class group; a mark is filled where the interval excludes zero.

    Args:
        differences: Paired differences; a column ``values`` holds those of the seeds, one small circle each.
    """
    known = differences[differences["value"].notna() & differences["group"].isin(GROUPS)]
    shown = [group for group in GROUPS if (known["group"] == group).any()]
    if not shown:
        return None
    lines: list[tuple[str, ...]] = []  # a heading per baseline, then the methods compared with it
    for baseline, own in known.groupby(PAIR[2:], sort=False):
        lines += [baseline, *own[PAIR].drop_duplicates().itertuples(index=False, name=None)]
    span = _span(known)

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            for _, row in known[known["group"] == group].iterrows():
                filled = verdict(row) in ("gain", "loss")
                _mark(axes, row, lines.index(tuple(row[PAIR])), filled=filled)
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.set_xlim(-span, span)
            axes.set_title(group.capitalize(), color=GROUP_COLORS[group])
            axes.grid(axis="x")
            axes.spines["left"].set_visible(False)
        _label_lines(
            panels[0], [f"against {label(*line)}" if len(line) == 2 else label(*line[:2]) for line in lines]
        )
        for tick, line in zip(panels[0].get_yticklabels(), lines, strict=True):
            if len(line) == 2:
                tick.set(fontweight="bold", color=MUTED)
        figure.supxlabel("difference of macro F1, percentage points", fontsize=8, color=MUTED)

    return draw(build, alt="Paired differences with intervals", height=0.9 + 0.23 * len(lines))


def _span(differences: pd.DataFrame) -> float:
    """Return a half width that holds all values and most intervals; wide ones would crush the others."""
    values = differences["value"].abs()
    if "values" in differences:
        values = pd.concat([values, differences["values"].explode().astype(float).abs()])
    ends = differences[["ci_lower", "ci_upper"]].abs().max(axis=1).dropna()
    widest = max(1.0, 100 * float(values.max()))
    inner = min(3 * widest, 100 * float(np.percentile(ends, 80))) if len(ends) else 0.0
    return 1.08 * max(widest, inner)


def _mark(axes: Any, row: Any, y: int, *, filled: bool) -> None:
    color = GROUP_COLORS[row["group"]]
    if math.isfinite(row["ci_lower"]) and math.isfinite(row["ci_upper"]):
        ends = [100 * row["ci_lower"], 100 * row["ci_upper"]]
        axes.plot(ends, [y, y], color=color, linewidth=1.6, solid_capstyle="round", alpha=0.75)
    seeds = [value for value in row.get("values", ()) if math.isfinite(value)]
    if len(seeds) > 1:
        places = y + np.linspace(-_FAN / 2, _FAN / 2, len(seeds))
        style = {"color": color, "markerfacecolor": "white", "markersize": 2.8, "markeredgewidth": 0.8}
        axes.plot([100 * value for value in seeds], places, "o", linewidth=0, zorder=3, **style)
    style = {"color": color, "markerfacecolor": color if filled else "white", "markersize": 5.0}
    axes.plot([100 * row["value"]], [y], "o", zorder=4, markeredgewidth=1.2, **style)


def _label_lines(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [clean(text, longest=44) for text in labels], color=INK, fontsize=7)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def study_curves(
    scores: pd.DataFrame, axis: str, places: Mapping[str, float], *, numeric: bool
) -> Figure | None:
    """Draw one panel per class group and one line per method: means over seeds, their t intervals as bands.

    Positive values that span a factor of 8 or more stand on a logarithmic axis. The last method is drawn in
    black.

    Args:
        scores: With the column ``variant``.
        axis: Name of what varies.
        places: Variant -> place on the axis.
        numeric: Whether the places are the values of the setting.
    """
    known = scores[scores["value"].notna()]
    shown = [group for group in GROUPS if (known["group"] == group).any()]
    if not shown:
        return None
    names = list(scores[NAME].drop_duplicates().itertuples(index=False, name=None))

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            own = known[known["group"] == group]
            for i, name in enumerate(names):
                color = INK if i == len(names) - 1 else LINE_COLORS[i % len(LINE_COLORS)]
                line = own[(own["method"] == name[0]) & (own["classifier"] == name[1])]
                _band(axes, line.assign(x=line["variant"].map(places)).sort_values("x"), color, label(*name))
            # Bands of two or three seeds may be wider than all differences: the means set the scale.
            low, high = 100 * own["value"].min(), 100 * own["value"].max()
            room = max(2.0, 0.6 * (high - low))
            axes.set_ylim(low - room, high + room)
            axes.set_title(group.capitalize())
            axes.grid(axis="y")
            _ticks(axes, places, numeric=numeric)
            axes.set_xlabel(clean(axis, longest=40))
        panels[0].set_ylabel("macro F1, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)

    return draw(build, alt="Scores by variant with intervals over seeds", height=3.6)


def _band(axes: Any, line: pd.DataFrame, color: str, text: str) -> None:
    style = {"color": color, "markersize": 3.5, "linewidth": 1.4, "label": clean(text, longest=44)}
    axes.plot(line["x"], 100 * line["value"], "o-", **style)
    known = line.dropna(subset=["ci_lower", "ci_upper"])
    lower, upper = 100 * known["ci_lower"], 100 * known["ci_upper"]
    axes.fill_between(known["x"], lower, upper, color=color, alpha=0.12, linewidth=0)


def _ticks(axes: Any, places: Mapping[str, float], *, numeric: bool) -> None:
    values = list(places.values())
    if not numeric:
        axes.set_xticks(values, [clean(name, longest=22) for name in places], rotation=35, ha="right")
        return
    if min(values) > 0 and max(values) / min(values) >= 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{value:g}" for value in values])


def loss_curves(history: pd.DataFrame) -> Figure | None:
    """Draw the training loss by step; logarithmic when the losses span more than a factor of 30.

    Args:
        history: Columns ``name`` (of what was trained), ``step`` and ``loss``.
    """
    if history.empty:
        return None
    losses = history["loss"][np.isfinite(history["loss"])]

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        for i, (name, line) in enumerate(history.groupby("name", sort=False)):
            style = {
                "color": LINE_COLORS[i % len(LINE_COLORS)],
                "marker": "o" if len(line) < 4 else "",
                "label": clean(str(name), longest=40),
            }
            dash = LINE_DASHES[i // len(LINE_COLORS) % len(LINE_DASHES)]
            axes.plot(line["step"], line["loss"], dash, linewidth=1.4, **style)
        if len(losses) and losses.min() > 0 and losses.max() > 30 * losses.min():
            log_axis(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.grid(axis="y")
        axes.legend(loc="upper right")

    return draw(build, alt="Training loss by step", height=3.0)


def log_axis(axes: Any) -> None:
    """Make the y axis logarithmic, with plain numbers: the stock labels are math text, which is switched off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)


def precision_bars(classes: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw AP50 of detection by class, in the color of the group.

    Args:
        classes: ``class``, ``group`` and ``ap50`` (fraction or None) of each.
    """
    rows = [row for row in classes if row["ap50"] is not None]
    if not rows:
        return None

    def build(figure: Any) -> None:
        axes = figure.subplots()
        places = range(len(rows))
        colors = [GROUP_COLORS[row["group"]] for row in rows]
        axes.bar(places, [100 * row["ap50"] for row in rows], color=colors)
        names = [clean(row["class"], longest=22) for row in rows]
        axes.set_xticks(places, names, rotation=35, ha="right")
        axes.set_ylabel("AP50, %")
        axes.set_ylim(0, 100)
        axes.grid(axis="y")

    width = min(9.0, 2.0 + 0.5 * len(rows))
    return draw(build, alt="Average precision by class", width=width, height=2.9)


def precision_recall(classes: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw precision over recall of detection, one panel per group.

    Args:
        classes: ``class``, ``group`` and ``curve`` with ``recall`` and ``precision`` of each.
    """
    rows = [row for row in classes if row["curve"]["recall"]]
    present = [name for name in GROUPS[:3] if any(row["group"] == name for row in rows)]
    if not present:
        return None

    def build(figure: Any) -> None:
        panels = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, present, strict=True):
            for row in (row for row in rows if row["group"] == name):
                text = clean(row["class"], longest=22)
                axes.plot(row["curve"]["recall"], row["curve"]["precision"], lw=1.2, label=text)
            axes.set_title(name.capitalize())
            axes.set_xlabel("recall")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.grid(True)
            axes.legend(loc="upper right")
        panels[0].set_ylabel("precision")

    return draw(build, alt="Precision over recall by class", width=8.6, height=3.2)
