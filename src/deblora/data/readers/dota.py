"""Object chips straight from DOTA: images and ``labelTxt``, in folders or zips, one chip per object."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.decode import SPLIT_NAMES
from deblora.data.readers.object_chips import Part, object_chip_set
from deblora.data.readers.reading import Reading
from deblora.data.scenes.dota import CLASSES_V1_0, CLASSES_V1_5, CLASSES_V2_0, Labels
from deblora.data.scenes.labeled_images import LABEL_FOLDERS, has_labels, read_detection_set
from deblora.data.splits import val_as_test
from deblora.errors import DataError

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
        rows = np.array([i for i, name in enumerate(entry.class_names) if name in known], dtype=np.int64)
        n_foreign += len(entry.class_names) - len(rows)
        kept[image] = entry.select(rows)
    return kept, n_foreign
