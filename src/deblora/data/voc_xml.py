"""Pascal VOC annotation files as oriented labels, with the line of everything that is wrong."""

import math
import xml.sax
import xml.sax.handler
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deblora.data.dota import Labels
from deblora.errors import DataError

_UPRIGHT = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")


@dataclass
class _Object:
    """One ``<object>``: its line and the texts of its tags."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)


class _Collector(xml.sax.handler.ContentHandler):
    """Collects the objects of one file; parts of objects (``<part>``) are passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: list[_Object] = []
        self.root = ""
        self._stack: list[str] = []
        self._text: list[str] = []
        self._locator: Any = None

    def setDocumentLocator(self, locator: Any) -> None:
        """Keep what knows the line."""
        self._locator = locator

    def startElement(self, name: str, attrs: Any) -> None:  # noqa: ARG002
        """Open a tag."""
        self.root = self.root or name
        if name == "object":
            self.objects.append(_Object(self._locator.getLineNumber()))
        self._stack.append(name)
        self._text = []

    def characters(self, content: str) -> None:
        """Collect text."""
        self._text.append(content)

    def endElement(self, name: str) -> None:
        """Close a tag and keep its text if it belongs to an object."""
        self._stack.pop()
        if "object" in self._stack and "part" not in self._stack and self.objects:
            self.objects[-1].texts.setdefault(name, "".join(self._text).strip())
        self._text = []


def read_voc(path: Path) -> Labels:
    """Read one annotation file.

    Boxes are ``bndbox`` (pixels counted from 1, both ends included, as in VOC) or ``robndbox`` (cx, cy, w, h, angle in
    radians, as roLabelImg writes them); where both are there the turned one counts. ``difficult`` defaults to 0.

    Raises:
        DataError: If the file is no such XML, or an object lacks its name or box; names file and line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        # Entities can expand to gigabytes, and no annotation needs them.
        raise DataError(f"{path}: declares a document type or entities; remove the declaration")
    collector = _Collector()
    try:
        xml.sax.parseString(content, collector)
    except xml.sax.SAXParseException as error:
        raise DataError(
            f"{path}:{error.getLineNumber()}: not well-formed XML ({error.getMessage()}); get the file again"
        ) from error
    except (UnicodeError, ValueError, LookupError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); save it as UTF-8") from error
    if collector.root.lower() != "annotation":
        raise DataError(f"{path}: the root is <{collector.root}>, expected <annotation> (Pascal VOC)")
    quads = [_quad(entry, f"{path}:{entry.line}") for entry in collector.objects]
    return Labels(
        np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2),
        tuple(_name(entry, f"{path}:{entry.line}") for entry in collector.objects),
        np.array([entry.texts.get("difficult", "0") == "1" for entry in collector.objects], dtype=np.int64),
        file=str(path),
        lines=np.array([entry.line for entry in collector.objects], dtype=np.int64),
    )


def _name(entry: _Object, where: str) -> str:
    name = " ".join(entry.texts.get("name", "").split())
    if not name:
        raise DataError(f"{where}: the object has no <name>; name its class")
    return name


def _quad(entry: _Object, where: str) -> list[tuple[float, float]]:
    if all(tag in entry.texts for tag in _TURNED):
        cx, cy, width, height, angle = _numbers(entry, _TURNED, where)
        c, s = math.cos(angle), math.sin(angle)
        corners = ((-width, -height), (width, -height), (width, height), (-width, height))
        return [(cx + (c * x - s * y) / 2, cy + (s * x + c * y) / 2) for x, y in corners]
    x1, y1, x2, y2 = _numbers(entry, _UPRIGHT, where)
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: the box ends before it starts ({x1:g} {y1:g} {x2:g} {y2:g}); correct it")
    return [(x1 - 1, y1 - 1), (x2, y1 - 1), (x2, y2), (x1 - 1, y2)]


def _numbers(entry: _Object, tags: tuple[str, ...], where: str) -> list[float]:
    numbers = []
    for tag in tags:
        text = entry.texts.get(tag, "")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{where}: <{tag}> of the object is {text!r}, not a finite number; give it a box")
        numbers.append(value)
    return numbers
