"""Chips cut out of labeled images while they are read, one per object: DOTA folders and zips, and Pascal VOC."""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from jaxtyping import Float, Shaped

from deblora.data.chips import ChipSet, as_chip
from deblora.data.scenes.dota import CLASSES_V1_0, CLASSES_V1_5, CLASSES_V2_0, Labels
from deblora.data.scenes.labeled_images import LABEL_FOLDERS, SceneFiles, has_labels, read_detection_set
from deblora.data.scenes.rasters import Scene, crop, crop_window, visible
from deblora.data.sources import IMAGE_SUFFIXES, SPLIT_NAMES, Reading, read_text
from deblora.data.splits import val_as_test
from deblora.errors import DataError

SCENE_BYTES = 256 * 2**20  # decoded images kept: five of 4000 x 4000 x 3
CROP_BYTES = 512 * 2**20  # cut chips kept: training reads them in random order
MAX_SCENES = 64  # windowed files hold a handle each


@dataclass(frozen=True)
class Part:
    """Images of one split ("" for none) and the objects in each, by image name."""

    split: str
    files: SceneFiles
    labels: Mapping[str, Labels]


@dataclass
class _Entry:
    """An image that is being read or was read, or why it cannot be; the lock keeps two threads from decoding twice."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    scene: Scene | None = None
    problem: str = ""


class SceneCache:
    """The images used last, decoded, up to a number of bytes (at least one image); safe for several threads."""

    def __init__(self, files: Sequence[SceneFiles], *, max_bytes: int = SCENE_BYTES) -> None:
        self._files, self._max_bytes = tuple(files), max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[int, str], _Entry] = OrderedDict()
        self.n_decoded = 0

    def cut(self, part: int, name: str, quad: np.ndarray, reading: Reading) -> Shaped[np.ndarray, "h w b"]:
        """Return one object of an image."""
        with self._lock:
            entry = self._entries.setdefault((part, name), _Entry())
            self._entries.move_to_end((part, name))
        with entry.lock:
            if entry.problem:
                raise DataError(entry.problem)  # not once more for each of its objects
            if entry.scene is None:
                entry.scene = self._opened(entry, part, name)
                self._shrink()
            # A copy: a view would keep the whole image alive.
            return np.array(crop(entry.scene, quad, context=reading.context, shape=reading.crop))

    def _opened(self, entry: _Entry, part: int, name: str) -> Scene:
        self.n_decoded += 1
        try:
            return self._files[part].open(name)
        except DataError as error:
            entry.problem = str(error)
            raise

    def _shrink(self) -> None:
        with self._lock:
            while len(self._entries) > 1 and (
                len(self._entries) > MAX_SCENES or self._n_bytes() > self._max_bytes
            ):
                self._entries.popitem(last=False)

    def _n_bytes(self) -> int:
        return sum(getattr(getattr(e.scene, "pixels", None), "nbytes", 0) for e in self._entries.values())


class ObjectPixels:
    """Object ``i`` of a list of images. An image is decoded once for objects that are read one after the other.

    Beside the images used last, chips that were cut are kept up to 512 MiB in all, because training reads them in
    random order. Beyond that (all of DOTA), cut them to files once: ``deblora detect chips``.

    Args:
        parts: The images.
        images: Part and image name per object.
        quads: Vertices per object in pixels of its image.
        ids: One id per object, for messages.
        reading: How to cut.
        crop_bytes: Chips kept, in bytes.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        images: Sequence[tuple[int, str]],
        quads: Float[np.ndarray, "n 4 2"],
        ids: tuple[str, ...],
        reading: Reading,
        *,
        crop_bytes: int = CROP_BYTES,
    ) -> None:
        self._files = tuple(part.files for part in parts)
        self._images, self._quads, self._ids, self._reading = tuple(images), quads, ids, reading
        self._room = self._crop_bytes = crop_bytes
        self._crops: dict[int, np.ndarray] = {}
        self.scenes = SceneCache(self._files)

    def __getstate__(self) -> dict[str, Any]:
        """Leave images, chips and locks behind when a worker process gets a copy."""
        return {**self.__dict__, "scenes": None, "_crops": {}, "_room": self._crop_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing decoded."""
        self.__dict__.update(state)
        self.scenes = SceneCache(self._files)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self._ids)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return the chip of object ``index``."""
        kept = self._crops.get(index)
        if kept is not None:
            return kept
        part, name = self._images[index]
        chip = as_chip(self.scenes.cut(part, name, self._quads[index], self._reading), self._ids[index])
        chip.flags.writeable = False  # shared by all who read it
        if chip.nbytes <= self._room:
            self._room -= chip.nbytes
            self._crops[index] = chip
        return chip


def object_chip_set(parts: Sequence[Part], reading: Reading, *, source: str) -> ChipSet:
    """Return one chip per object; its unit is its image.

    Left out and counted in the notes: objects marked difficult if asked, those of which no pixel lies in the image
    (degenerate), and those with a shorter side below ``reading.min_side``. Classes are sorted by name. Only the headers
    of images are read; one that cannot be read is left to the decoder, so that ``data.on_error`` decides.

    Raises:
        DataError: If two splits share an image, or no object is left.
    """
    _refuse_shared_images(parts, source)
    rows: list[tuple[int, str, int]] = []
    left_out = {"degenerate": 0, "small": 0, "difficult": 0}
    for position, part in enumerate(parts):
        sizes = part.files.sizes(name for name, entry in part.labels.items() if len(entry.quads))
        for name, entry in part.labels.items():
            size = sizes.get(name)
            for row, quad in enumerate(entry.quads):
                reason = _reason(quad, int(entry.difficult[row]), size, reading)
                if reason:
                    left_out[reason] += 1
                else:
                    rows.append((position, name, row))
    if not rows:
        raise DataError(
            f"{source}: no object to cut ({_counted(left_out)}); check the labels and data.min_side"
        )
    names = [parts[p].labels[name].class_names[row] for p, name, row in rows]
    classes = tuple(sorted(set(names)))
    index = {name: i for i, name in enumerate(classes)}
    units = tuple(f"{parts[p].split}/{name}".lstrip("/") for p, name, _ in rows)
    ids = tuple(f"{unit}/{row:05d}" for unit, (_, _, row) in zip(units, rows, strict=True))
    quads = np.array([parts[p].labels[name].quads[row] for p, name, row in rows], dtype=np.float64)
    notes = (f"objects left out: {_counted(left_out)}",) if any(left_out.values()) else ()
    return ChipSet(
        ids=ids,
        labels=np.array([index[name] for name in names], dtype=np.int64),
        splits=tuple(parts[p].split for p, _, _ in rows),
        class_names=classes,
        pixels=ObjectPixels(parts, [(p, name) for p, name, _ in rows], quads, ids, reading),
        units=units,
        notes=notes,
    )


def _reason(quad: np.ndarray, difficult: int, size: tuple[int, int] | None, reading: Reading) -> str:
    """Return why an object is left out, or nothing."""
    if difficult and reading.difficult == "drop":
        return "difficult"
    window = crop_window(quad, context=1.0, shape="hull")
    sides = visible(window, *size)[2:] if size else window[2:]
    if min(sides) < 1:
        return "degenerate"
    return "small" if min(sides) < reading.min_side else ""


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())


def _refuse_shared_images(parts: Sequence[Part], source: str) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        for name in part.labels:
            if name in seen:
                raise DataError(
                    f"{source}: the image {name} is in {seen[name]} and in {part.split}; its objects would be trained "
                    "and tested on: keep it in one split"
                )
            seen[name] = part.split


CLASSES: Mapping[str, tuple[str, ...]] = {
    "v1.0": CLASSES_V1_0,
    "v1.5": CLASSES_V1_5,
    "v2.0": CLASSES_V2_0,
}


def read_dota(source: Path, reading: Reading) -> ChipSet:
    """Read ``<split>/images`` and ``<split>/labelTxt``, or ``<split>.zip`` of these, or a single such folder or zip.

    Without labeled test images the validation split becomes the test, as in the paper (test labels of DOTA are not
    public), and validation is drawn from the training images later. Ids are ``split/image/row of the label file``.

    Raises:
        DataError: If labels or images are missing or malformed (file and line are named), or a class is not one of
            ``reading.version``.
    """
    folders: tuple[str, ...] = LABEL_FOLDERS
    if reading.version != "any":
        folders = (f"labelTxt-{reading.version}", *(name for name in LABEL_FOLDERS if "-v" not in name))
    parts, notes = [], []
    for split, path in split_sources(source):
        if split == "test" and not has_labels(path):
            notes.append(f"{path}: no labels, passed over")
            continue
        found = read_detection_set(path, folders=folders)
        labels, n_foreign = _of_version(found.labels, reading.version, path)
        if n_foreign:
            notes.append(
                f"{path}: {n_foreign} objects of classes that {reading.version} does not have left out"
            )
        parts.append(Part(split, found.files, labels))
    chips = val_as_test(object_chip_set(parts, reading, source=str(source)))
    return replace(chips, notes=(*chips.notes, *notes))


def split_sources(source: Path) -> list[tuple[str, Path]]:
    """Return split and path of the folders or zips named after splits, train first; else ("", source).

    Raises:
        DataError: If two of them mean the same split.
    """
    found: dict[str, Path] = {}
    entries = sorted(source.iterdir()) if source.is_dir() else []
    for path in entries:
        is_part = path.is_dir() or path.suffix.lower() == ".zip"
        name = path.stem if path.suffix.lower() == ".zip" else path.name
        split = SPLIT_NAMES.get(name.lower(), "") if is_part else ""
        if not split:
            continue
        if split in found:
            raise DataError(f"{found[split]} and {path} both mean the split {split}; keep one of them")
        found[split] = path
    if "train" not in found:
        return [("", source)]
    return [(split, found[split]) for split in ("train", "val", "test") if split in found]


def _of_version(labels: Mapping[str, Labels], version: str, path: Path) -> tuple[dict[str, Labels], int]:
    """Return the objects whose class belongs to a version, and how many of later versions were left out."""
    if version == "any":
        return dict(labels), 0
    known, kept, n_foreign = set(CLASSES[version]), {}, 0
    for image, entry in labels.items():
        unknown = [i for i, name in enumerate(entry.class_names) if name not in CLASSES_V2_0]
        if unknown:
            raise DataError(
                f"{entry.place(unknown[0]) or path}: the image {image} has an object of the class "
                f"{entry.class_names[unknown[0]]!r}, which no version of DOTA has; correct the label, or set "
                "data.version to any"
            )
        kept[image] = entry.of_classes(known.__contains__)
        n_foreign += len(entry.class_names) - len(kept[image].class_names)
    return kept, n_foreign


# --- Pascal VOC -------------------------------------------------------------------------------------------------

_UPRIGHT = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")
IMAGE_FOLDERS = ("JPEGImages", "images")
CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")


@dataclass
class _Object:
    """One ``<object>``: its line and the texts of its tags."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)


def _parse_voc(content: bytes, path: Path) -> tuple[str, list[_Object]]:
    """Return the root and the objects of a file; parts of objects (``<part>``) are passed over."""
    parser = expat.ParserCreate()
    roots: list[str] = []
    objects: list[_Object] = []
    inside = {"object": 0, "part": 0}  # how many of these are open
    text: list[str] = []

    def start(name: str, attributes: object) -> None:  # noqa: ARG001
        roots.append(name) if not roots else None
        if name == "object":
            objects.append(_Object(parser.CurrentLineNumber))
        if name in inside:
            inside[name] += 1
        text.clear()

    def end(name: str) -> None:
        if name in inside:
            inside[name] -= 1
        if inside["object"] and not inside["part"]:
            objects[-1].texts.setdefault(name, "".join(text).strip())
        text.clear()

    def refuse(*declared: object) -> None:  # noqa: ARG001
        # Entities can expand to gigabytes, and no annotation needs them.
        raise DataError(f"{path}: declares a document type or entities; remove the declaration")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text.append, refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise DataError(
            f"{path}:{error.lineno}: not well-formed XML ({reason}); get the file again"
        ) from error
    except (UnicodeError, ValueError, LookupError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); save it as UTF-8") from error
    return roots[0], objects


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
    root, objects = _parse_voc(content, path)
    if root.lower() != "annotation":
        raise DataError(f"{path}: the root is <{root}>, expected <annotation> (Pascal VOC)")
    quads = [_quad(entry, f"{path}:{entry.line}") for entry in objects]
    return Labels(
        np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2),
        tuple(_name(entry, f"{path}:{entry.line}") for entry in objects),
        np.array([entry.texts.get("difficult", "0") == "1" for entry in objects], dtype=np.int64),
        file=str(path),
        lines=np.array([entry.line for entry in objects], dtype=np.int64),
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
    for split, where, names in _splits_of(root, tuple(annotations)):
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
            deeper = [path for path in (root / name).glob("*/**/*") if path.suffix.lower() in IMAGE_SUFFIXES]
            if deeper:
                raise DataError(
                    f"{min(deeper)}: in a folder inside {name}, which is not read; move it and its annotation up"
                )
            found = {
                path.stem: f"{name}/{path.name}"
                for path in sorted((root / name).iterdir())
                if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
            }
            return SceneFiles(found, root)
    raise DataError(f"{root}: no folder {' or '.join(IMAGE_FOLDERS)} with the images")


def _splits_of(root: Path, every: tuple[str, ...]) -> list[tuple[str, Path, tuple[str, ...]]]:
    """Return split, file and image names; one part without a split where no lists are there."""
    folder = root / "ImageSets" / "Main"
    if not folder.is_dir():
        folder = root / "ImageSets"
    found = []
    for name, split in SPLIT_NAMES.items():
        path = folder / f"{name}.txt"
        if path.is_file():
            lines = read_text(path).split("\n")
            # Lists per class have a second column of flags; the name is the first word.
            found.append((split, path, tuple(Path(line.split()[0]).stem for line in lines if line.strip())))
    return found if any(split == "train" for split, _, _ in found) else [("", root, every)]


def _captions(root: Path) -> dict[str, str]:
    path = next((root / name for name in CAPTION_FILES if (root / name).is_file()), None)
    if path is None:
        return {}
    captions: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
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
