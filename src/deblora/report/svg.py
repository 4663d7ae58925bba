"""Draw with matplotlib into SVG text that can be placed inside a page beside other drawings."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

GROUP_COLORS = {"head": "#0072B2", "middle": "#8A94A3", "tail": "#D55E00", "all": "#1F2933", "": "#C4CBD4"}
INK, MUTED, GRID = "#1F2933", "#66717F", "#E4E8ED"

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
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


def clean(text: str, *, longest: int | None = None, keep: str = "") -> str:
    """Replace what cannot be printed (XML forbids control characters), except ``keep``; shorten with an ellipsis."""
    printable = "".join(
        char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text
    )
    if longest is None or len(printable) <= longest:
        return printable
    return printable[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def draw(build: Callable[[Any], None], *, name: str, alt: str, width: float, height: float) -> str:
    """Let ``build`` fill a matplotlib figure and return it as an ``<svg>`` element.

    Args:
        build: Receives an empty ``matplotlib.figure.Figure``.
        name: Prefix of all ids in the drawing, unique on the page.
        alt: What a screen reader says.
        width: Inches.
        height: Inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser picks the font, so glyphs that the measuring font lacks do not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        build(figure)
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, dpi=200, bbox_inches="tight")
    return inline(buffer.getvalue(), name=name, alt=alt, max_width=round(width * 104))


def inline(document: str, *, name: str, alt: str, max_width: int) -> str:
    """Turn an SVG document into an element for HTML: own ids, no metadata, no global style, fluid width."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(document[document.index("<svg") :])
    _drop(root, {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"})
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
            elif key == "style" and "DejaVu Sans" in value:
                # Double quotes inside would end the attribute, hence the plain stack.
                element.set(key, re.sub(r"'DejaVu Sans'[^;]*", "system-ui, 'Segoe UI', sans-serif", value))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", clean(alt))
    root.set("style", f"max-width:{max_width}px;stroke-linejoin:round;stroke-linecap:butt")
    return ElementTree.tostring(root, encoding="unicode")


def _drop(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _drop(child, tags)
