"""Object chips from Pascal VOC annotations: ShipRSImageNet, DOSRS and other sets of boxes in XML."""

import json
from dataclasses import replace
from pathlib import Path

from deblora.data.chips import ChipSet
from deblora.data.decode import IMAGE_SUFFIXES, SPLIT_NAMES
from deblora.data.detection_set import SceneFiles
from deblora.data.dota import Labels
from deblora.data.object_chips import Part, object_chip_set
from deblora.data.reading import Reading
from deblora.data.splits import val_as_test
from deblora.data.voc_xml import read_voc
from deblora.errors import DataError

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
