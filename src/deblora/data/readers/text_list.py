"""Text lists without a header, ``relative/path label`` per line: Places365-LT, iNaturalist 2018 and their like."""

import os
import re
import stat
from pathlib import Path

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.decode import SPLIT_NAMES, FilePixels, class_indices
from deblora.data.readers.reading import Reading
from deblora.data.splits import val_as_test
from deblora.errors import DataError

_SPLIT_FILE = re.compile(r"(?:.*[_\-.])?(train|val|valid|validation|test)\.txt", re.IGNORECASE)
CLASS_NAME_FILES = ("classes.txt", "class_names.txt")


def read_text_lists(source: Path, reading: Reading) -> ChipSet:
    """Read a list, or a folder with one list per split (``train.txt``, ``Places_LT_train.txt`` ...).

    A line is a path, white space and a label; the last word is the label, so paths may hold spaces. Paths start in
    ``reading.images``, or in the folder of the lists. Class names come from ``reading.class_names`` or a
    ``classes.txt`` beside the lists, one per line; "name 7" gives the name a number, else the line does, from 0.
    Without a test list validation becomes the test, as is usual for iNaturalist 2018. Ids are the paths.

    Raises:
        DataError: With file and line, if a line is incomplete, leaves the folder, repeats a chip, has no file or a
            label without a name.
    """
    lists = _lists(source)
    root = Path(reading.images) if reading.images else lists[0][1].parent
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; set data.images to where the paths of the lists start")
    names_file = _names_file(lists[0][1].parent, reading)
    names = read_class_names(names_file) if names_file else None
    inside = _Inside(root)
    files: list[Path] = []
    labels: list[str] = []
    splits: list[str] = []
    seen: dict[str, str] = {}
    for split, path in lists:
        for where, text, label in _lines(path):
            if text in seen:
                raise DataError(f"{where}: {text} is already in {seen[text]}; list each chip once")
            if names is not None and label not in names:
                raise DataError(
                    f"{where}: the label {label} has no name in {names_file}; correct one of them"
                )
            seen[text] = where
            files.append(inside.file(text, where))
            labels.append(label)
            splits.append(split)
    if names is None:
        class_names, indices = class_indices(labels, str(source), places=list(seen.values()))
    else:
        class_names = tuple(names[number] for number in names)
        position = {number: i for i, number in enumerate(names)}
        indices = np.array([position[label] for label in labels], dtype=np.int64)
    return val_as_test(ChipSet(tuple(seen), indices, tuple(splits), class_names, FilePixels(tuple(files))))


def read_text_paths(source: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Return ids and files of a text list with one path per line; a label behind it is passed over.

    A line that as a whole names a file is that file; else the last word is taken for a label. Paths start in the folder
    of the list.

    Raises:
        DataError: With the line, if a path leaves the folder of the list, is given twice or has no file.
    """
    inside = _Inside(source.parent)
    found: dict[str, Path] = {}
    for number, line in enumerate(_text(source).splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        if not (source.parent / text).is_file() and len(text.split()) > 1:
            text = text.rsplit(None, 1)[0]
        if text in found:
            raise DataError(f"{source}:{number}: {text} is listed twice; list each chip once")
        found[text] = inside.file(text, f"{source}:{number}")
    if not found:
        raise DataError(f"{source}: the list has no rows")
    return tuple(found), tuple(found.values())


def has_split_lists(folder: Path) -> bool:
    """Tell whether a folder has a list of training chips."""
    matches = (_SPLIT_FILE.fullmatch(path.name) for path in folder.iterdir())
    return any(match is not None and match[1].lower() == "train" for match in matches)


def read_class_names(path: Path) -> dict[str, str]:
    """Return label to name, in the order of the labels.

    Raises:
        DataError: If a name or a label is given twice, or there is none; names file and line.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        numbered = len(words) > 1 and words[-1].isascii() and words[-1].isdigit()
        label = str(int(words[-1])) if numbered else str(len(names))
        name = " ".join(words[:-1] if numbered else words)
        if label in names or name in names.values():
            raise DataError(f"{path}:{number}: {name!r} or its number {label} is given twice; give each once")
        names[label] = name
    if not names:
        raise DataError(f"{path}: no class name; write one per line")
    return {label: names[label] for label in sorted(names, key=int)}


def _lists(source: Path) -> list[tuple[str, Path]]:
    if source.is_file():
        return [("", source)]
    found: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        match = _SPLIT_FILE.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        split = SPLIT_NAMES[match[1].lower()]
        if split in found:
            raise DataError(f"{found[split]} and {path} both list the split {split}; keep one of them")
        found[split] = path
    if "train" not in found:
        raise DataError(f"{source}: no list of training chips; expected train.txt, or NAME_train.txt")
    return [(split, found[split]) for split in ("train", "val", "test") if split in found]


def _names_file(folder: Path, reading: Reading) -> Path | None:
    if reading.class_names:
        return Path(reading.class_names)
    return next((folder / name for name in CLASS_NAME_FILES if (folder / name).is_file()), None)


def _lines(path: Path) -> list[tuple[str, str, str]]:
    """Return where, path and label of each line that is not blank."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.strip().rsplit(None, 1)
        if len(parts) != 2:
            raise DataError(f"{path}:{number}: {line.strip()!r} is no 'path label'; a line needs both")
        label = str(int(parts[1])) if parts[1].isascii() and parts[1].isdigit() else parts[1]
        rows.append((f"{path}:{number}", parts[0], label))
    if not rows:
        raise DataError(f"{path}: the list has no rows")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); it must be a UTF-8 text file") from error


class _Inside:
    """Finds files below a folder; each folder is resolved once, because lists have half a million lines."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._home = os.path.realpath(root)
        self._folders: dict[str, bool] = {}

    def file(self, text: str, where: str) -> Path:
        """Return the file that a line means; raises a DataError if it is none or lies outside."""
        path = self._root / text
        folder = str(path.parent)
        if folder not in self._folders:
            self._folders[folder] = self._is_home(folder)
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            status = None
        is_link = status is not None and stat.S_ISLNK(status.st_mode)
        if not self._folders[folder] or (is_link and not self._is_home(str(path))):
            raise DataError(f"{where}: {text} leaves {self._root}; list chips below it, or set data.images")
        if status is None or not (is_link or stat.S_ISREG(status.st_mode)):
            raise DataError(
                f"{where}: {text} does not exist below {self._root}; restore it or set data.images"
            )
        return path

    def _is_home(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._home or real.startswith(self._home.rstrip(os.sep) + os.sep)
