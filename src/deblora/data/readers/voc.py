"""Object chips from Pascal VOC annotations: ShipRSImageNet, DOSRS and other sets of boxes in XML."""

import json
import math
import xml.sax
import xml.sax.handler
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.decode import IMAGE_SUFFIXES, SPLIT_NAMES
from deblora.data.readers.object_chips import Part, object_chip_set
from deblora.data.readers.reading import Reading
from deblora.data.scenes.dota import Labels
from deblora.data.scenes.labeled_images import SceneFiles
from deblora.data.splits import val_as_test
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


IMAGE_FOLDERS = ("JPEGImages", "images")
CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")


def read_voc_chips(source: Path, reading: Reading) -> ChipSet:
    """Read ``Annotations/NAME.xml`` and ``JPEGImages/NAME.*``, one chip per object.

    They lie in ``source`` or its ``VOC_Format``. Splits come from ``ImageSets/Main/train.txt``, ``val.txt`` and
    ``test.txt``; without them the splits are drawn, by whole images. Where the test has no annotations, validation
    becomes the test. Captions of images, one JSON object per line in ``captions.jsonl`` with ``file_name`` (or
    ``image``) and ``caption`` (or ``text``), are kept per chip.

    Raises:
        DataError: If something is missing or malformed; names file and line.
    """
    root = source / "VOC_Format" if (source / "VOC_Format").is_dir() else source
    annotations = {path.stem: path for path in sorted((root / "Annotations").glob("*.xml"))}
    if not annotations:
        raise DataError(
            f"{root}: no Annotations/NAME.xml; name the folder that holds Annotations and JPEGImages"
        )
    files = _images(root)
    notes: list[str] = []
    parts = []
    for split, where, names in _splits(root, tuple(annotations)):
        absent = [name for name in names if name not in annotations]
        if absent and split == "test" and len(absent) == len(names):
            notes.append(f"{where}: no annotations for it, passed over")
            continue
        if absent:
            raise DataError(
                f"{where}: the image {absent[0]} has no {root / 'Annotations'}/{absent[0]}.xml; add it"
            )
        labels: dict[str, Labels] = {}
        for name in names:
            if name not in files.members:
                raise DataError(
                    f"{annotations[name]}: no image {name} in {root}/{' or '.join(IMAGE_FOLDERS)}"
                )
            labels[name] = read_voc(annotations[name])
        parts.append(Part(split, files, labels))
    chips = val_as_test(object_chip_set(parts, reading, source=str(source)))
    captions = _captions(root)
    texts = tuple(captions.get(unit.rpartition("/")[2], "") for unit in chips.units) if captions else ()
    return replace(chips, notes=(*chips.notes, *notes), captions=texts)


def _images(root: Path) -> SceneFiles:
    for name in IMAGE_FOLDERS:
        if (root / name).is_dir():
            found = {
                path.stem: f"{name}/{path.name}"
                for path in sorted((root / name).iterdir())
                if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
            }
            return SceneFiles(found, root)
    raise DataError(f"{root}: no folder {' or '.join(IMAGE_FOLDERS)} with the images")


def _splits(root: Path, every: tuple[str, ...]) -> list[tuple[str, Path, tuple[str, ...]]]:
    """Return split, file and image names; one part without a split where no lists are there."""
    folder = root / "ImageSets" / "Main"
    if not folder.is_dir():
        folder = root / "ImageSets"
    found = []
    for name, split in SPLIT_NAMES.items():
        path = folder / f"{name}.txt"
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} cannot be read ({error})") from error
            # Lists per class have a second column of flags; the name is the first word.
            found.append((split, path, tuple(Path(line.split()[0]).stem for line in lines if line.strip())))
    return found if any(split == "train" for split, _, _ in found) else [("", root, every)]


def _captions(root: Path) -> dict[str, str]:
    path = next((root / name for name in CAPTION_FILES if (root / name).is_file()), None)
    if path is None:
        return {}
    captions: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = str(entry.get("file_name") or entry["image"])
            captions[Path(name).stem] = str(entry["caption"] if "caption" in entry else entry["text"])
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: no caption ({error!r}); a line is a JSON object with file_name and caption"
            ) from error
    return captions
