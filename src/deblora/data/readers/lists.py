"""Chips in folders and lists of files: a folder per class, CSV and TSV, text lists without a header, and FUSRS."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import ChipSet, Pixels, relabel
from deblora.data.decode import FilePixels
from deblora.data.sources import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    Home,
    Reading,
    class_indices,
    read_text,
    refuse_unused,
)
from deblora.data.splits import val_as_test
from deblora.errors import DataError

CLASS_NAME_FILES = ("classes.txt", "class_names.txt")
NOT_READ = frozenset(
    {".ppm", ".pgm", ".jp2", ".j2k", ".jxl", ".heic", ".avif", ".img", ".h5", ".hdf5", ".mat"}
)
"""Pictures of formats that are not read; a folder that holds some says so."""

_SPLIT_LIST = re.compile(r"(?:.*[_\-.])?(train|val|valid|validation|test)\.txt", re.IGNORECASE)


# --- folders ----------------------------------------------------------------------------------------------------


def read_folder(root: Path) -> ChipSet:
    """Read ``root/<class>/<chip>`` or ``root/<split>/<class>/<chip>``.

    Splits are train, val (also valid, validation) and test; without them the split is "". Classes are sorted
    by name; an empty class folder is a class without chips. Files without the suffix of an image and hidden
    entries are passed over; pictures among them are counted in the notes. Ids are paths below ``root``.

    Raises:
        DataError: If there is no class folder or no chip, or the layout is ambiguous.
    """
    folders = _folders(root)
    if not folders:
        raise DataError(
            f"{root}: no class folders; store chips as <class>/<chip> or name a list or Parquet file"
        )
    as_splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if as_splits and len(as_splits) < len(folders):
        other = next(folder.name for folder in folders if folder not in as_splits)
        raise DataError(
            f"{root}: {as_splits[0].name} is a split and {other} is not; keep splits or classes at the top"
        )
    parts = [(SPLIT_NAMES[folder.name.lower()], folder) for folder in as_splits] or [("", root)]
    split, times = Counter(split for split, _ in parts).most_common(1)[0]
    if times > 1:
        raise DataError(f"{root}: several folders mean the split {split}; merge them")
    chips: list[tuple[str, str, Path]] = []
    classes: set[str] = set()
    passed_over = {path for _, folder in parts for path in _files(folder) if _is_image(path)}
    for split, folder in parts:
        for class_folder in _folders(folder):
            nested = _folders(class_folder)
            if nested:
                raise DataError(
                    f"{nested[0]}: a folder inside a class folder; move its chips up or use a list file"
                )
            classes.add(class_folder.name)
            files = _files(class_folder)
            chips += [(split, class_folder.name, path) for path in files if _is_image(path)]
            passed_over.update(path for path in files if path.suffix.lower() in NOT_READ)
    if not chips:
        raise DataError(
            f"{root}: no images in its class folders; expected {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    names = tuple(sorted(classes))
    position = {name: i for i, name in enumerate(names)}
    ids, pixels = _below(root, [path for _, _, path in chips])
    return ChipSet(
        ids=ids,
        labels=np.array([position[name] for _, name, _ in chips], dtype=np.int64),
        splits=tuple(split for split, _, _ in chips),
        class_names=names,
        pixels=pixels,
        notes=_passed_over(passed_over),
    )


def read_image_folder(root: Path) -> tuple[tuple[str, ...], FilePixels]:
    """Return ids and images of a folder, at any depth and sorted by path; names of folders mean nothing.

    Raises:
        DataError: If there is none, or a link leads out of the folder.
    """
    found = [
        path
        for path in sorted(root.rglob("*"))
        if _is_image(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.is_dir()
    ]
    if not found:
        raise DataError(f"{root}: no images; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    return _below(root, found)


def _below(root: Path, paths: Sequence[Path]) -> tuple[tuple[str, ...], FilePixels]:
    """Return ids and pixels of files in a folder; an unpacked archive could hold links that point anywhere."""
    home = Home(root)
    for path in paths:
        try:
            str(path).encode()
            real = home.resolve(str(path))
        except UnicodeEncodeError as error:
            shown = path.as_posix().encode(errors="replace").decode()
            raise DataError(f"{shown}: the name is not UTF-8; rename the file or its folder") from error
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{path}: a link that leads nowhere ({error}); restore the chip or delete it"
            ) from error
        if not home.holds(real):
            raise DataError(
                f"{path}: a link that leads out of {root}; copy the chip into the folder or name it in a list"
            )
    return tuple(path.relative_to(root).as_posix() for path in paths), FilePixels(tuple(paths))


def _folders(root: Path) -> list[Path]:
    """Return the visible folders in ``root``, sorted by name."""
    return sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _passed_over(paths: set[Path]) -> tuple[str, ...]:
    if not paths:
        return ()
    kinds = ", ".join(sorted({path.suffix.lower() for path in paths}))
    return (f"{len(paths)} pictures passed over ({kinds}), first: {min(paths)}",)


# --- lists ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A line of a list: file and line, what it says, and the cells of other columns."""

    where: str
    path: str
    label: str = ""
    split: str = ""
    unit: str = ""
    caption: str = ""


def read_list(source: Path, *, unit: str | None = None) -> ChipSet:
    """Read a table with the header ``path,label`` or ``path,label,split``; other columns are passed over.

    A column ``caption`` is kept as text, and the column named ``unit`` (a scene, an image, a flight) as what chips
    must not be parted by a split; the names of columns are compared without regard to case.

    Paths are relative to the folder of the list and must stay inside it, links included. Labels are class
    names or integers, splits as in :func:`read_folder`. Ids are paths below that folder.

    Raises:
        DataError: With the line, if a row is incomplete, leaves the folder, repeats a chip or has no file.
    """
    header, rows = _table(source, unit, ("path", "label"))
    for row in rows:
        if not row.label:
            raise DataError(f"{row.where}: the label is empty; name a class")
        if row.split and row.split.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{row.where}: unknown split {row.split!r}; use train, val or test, or leave it empty"
            )
    files = _found(rows, Home(source.parent.resolve()))
    names, labels = class_indices([row.label for row in rows], str(source), places=[r.where for r in rows])
    return ChipSet(
        ids=_ids_below(files, source.parent),
        labels=labels,
        splits=tuple(SPLIT_NAMES.get(row.split.lower(), "") for row in rows),
        class_names=names,
        pixels=FilePixels(files),
        units=tuple(row.unit for row in rows) if unit else (),
        captions=tuple(row.caption for row in rows) if "caption" in header else (),
    )


def read_list_images(source: Path) -> tuple[tuple[str, ...], FilePixels]:
    """Return ids and images of a list with a column ``path``; other columns, a label too, are passed over.

    Raises:
        DataError: With the line, if a path leaves the folder of the list, is given twice or has no file.
    """
    files = _found(_table(source, None, ("path",))[1], Home(source.parent.resolve()))
    return _ids_below(files, source.parent), FilePixels(files)


def _ids_below(files: Sequence[Path], folder: Path) -> tuple[str, ...]:
    root = folder.resolve()
    return tuple(path.relative_to(root).as_posix() for path in files)


def _table(source: Path, unit: str | None, needed: tuple[str, ...]) -> tuple[list[str], list[_Row]]:
    """Return the header, in small letters, and each row that is not blank."""
    rows: list[_Row] = []
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter="\t" if "\t" in first else ",", strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            for name in needed:
                if header.count(name) != 1:
                    wanted = "path,label[,split]" if "label" in needed else "path, or path,label"
                    raise DataError(f"{source}:1: the header must be {wanted}; got {','.join(header)}")
            if unit and unit.lower() not in header:
                raise DataError(f"{source}:1: no column {unit} (data.unit); the list has {', '.join(header)}")
            for values in reader:
                where = f"{source}:{reader.line_num}"
                if not any(cell.strip() for cell in values):
                    continue
                if len(values) != len(header):
                    raise DataError(
                        f"{where}: {len(values)} cells under a header of {len(header)}; "
                        "quote names that contain the separator"
                    )
                cells = dict(zip(header, (cell.strip() for cell in values), strict=True))
                others = {key: cells.get(key, "") for key in ("path", "label", "split", "caption")}
                rows.append(_Row(where, unit=cells[unit.lower()] if unit else "", **others))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{source}: not a readable list ({error}); save it as UTF-8 CSV or TSV") from error
    if not rows:
        raise DataError(f"{source}: the list has no rows")
    return header, rows


def _found(rows: Iterable[_Row], home: Home) -> tuple[Path, ...]:
    """Return the file of every row.

    Raises:
        DataError: If a path leaves the folder, has no file or is given twice.
    """
    seen: dict[Path, str] = {}
    for row in rows:
        path = home.file(row.path, row.where)
        if path in seen:
            raise DataError(f"{row.where}: {row.path} is already in {seen[path]}; list each chip once")
        seen[path] = row.where
    return tuple(seen)


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
    lists = _lists_of_splits(source)
    root = Path(reading.images) if reading.images else lists[0][1].parent
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; set data.images to where the paths of the lists start")
    rows = [row for split, path in lists for row in _lines(path, split)]
    candidates = [lists[0][1].parent / name for name in CLASS_NAME_FILES]
    named = next((path for path in candidates if path.is_file()), None)
    named = Path(reading.class_names) if reading.class_names else named
    if named is None:
        names, labels = class_indices(
            [row.label for row in rows], str(source), places=[r.where for r in rows]
        )
    else:
        known = read_class_names(named)
        names, position = tuple(known.values()), {label: i for i, label in enumerate(known)}
        for row in rows:
            if row.label not in position:
                raise DataError(
                    f"{row.where}: the label {row.label} has no name in {named}; correct one of them"
                )
        labels = np.array([position[row.label] for row in rows], dtype=np.int64)
    files = _found(rows, Home(root, advice=", or set data.images"))
    ids, splits = tuple(row.path for row in rows), tuple(row.split for row in rows)
    return val_as_test(ChipSet(ids, labels, splits, names, FilePixels(files)))


def read_text_images(source: Path) -> tuple[tuple[str, ...], FilePixels]:
    """Return ids and images of a text list with one path per line; a label behind it is passed over.

    A line that as a whole names a file is that file; else the last word is taken for a label. Paths start in the folder
    of the list.

    Raises:
        DataError: With the line, if a path leaves the folder of the list, is given twice or has no file.
    """
    rows = []
    for where, text in _numbered(source):
        if len(text.split()) > 1 and not (source.parent / text).is_file():
            text = text.rsplit(None, 1)[0]
        rows.append(_Row(where, text))
    return tuple(row.path for row in rows), FilePixels(_found(rows, Home(source.parent)))


def has_split_lists(folder: Path) -> bool:
    """Tell whether a folder has a list of training chips."""
    matches = (_SPLIT_LIST.fullmatch(path.name) for path in folder.iterdir())
    return any(match is not None and match[1].lower() == "train" for match in matches)


def read_class_names(path: Path) -> dict[str, str]:
    """Return label to name, in the order of the labels.

    Raises:
        DataError: If a name or a label is given twice, or there is none; names file and line.
    """
    names: dict[str, str] = {}
    for where, line in _numbered(path, empty="no class name; write one per line"):
        words = line.split()
        number = _plain_number(words[-1]) if len(words) > 1 else ""
        label, name = number or str(len(names)), " ".join(words[:-1] if number else words)
        if label in names or name in names.values():
            raise DataError(f"{where}: {name!r} or its number {label} is given twice; give each once")
        names[label] = name
    return {label: names[label] for label in sorted(names, key=int)}


def _lists_of_splits(source: Path) -> list[tuple[str, Path]]:
    if source.is_file():
        return [("", source)]
    found: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        match = _SPLIT_LIST.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        split = SPLIT_NAMES[match[1].lower()]
        if split in found:
            raise DataError(f"{found[split]} and {path} both list the split {split}; keep one of them")
        found[split] = path
    if "train" not in found:
        raise DataError(f"{source}: no list of training chips; expected train.txt, or NAME_train.txt")
    return [(split, found[split]) for split in ("train", "val", "test") if split in found]


def _lines(path: Path, split: str) -> list[_Row]:
    rows = []
    for where, line in _numbered(path):
        parts = line.rsplit(None, 1)
        if len(parts) != 2:
            raise DataError(f"{where}: {line!r} is no 'path label'; a line needs both")
        rows.append(_Row(where, parts[0], _plain_number(parts[1]) or parts[1], split))
    return rows


def _numbered(path: Path, *, empty: str = "the list has no rows") -> list[tuple[str, str]]:
    """Return file and line, and the text, of each line that is not blank."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    found = [(f"{path}:{number}", line.strip()) for number, line in lines if line.strip()]
    if not found:
        raise DataError(f"{path}: {empty}")
    return found


def _plain_number(word: str) -> str:
    """Return a number without leading zeros; nothing where a word is none."""
    is_number = word.isascii() and word.isdigit() and len(word) < 19
    return (word.lstrip("0") or "0") if is_number else ""


# --- FUSRS ------------------------------------------------------------------------------------------------------

FUSRS_CLASSES = ("cargo", "other", "fishing", "tanker", "dredger")
"""Label order 0 to 4 of the authors' lists."""

FUSRS_MEAN, FUSRS_STD = 11.21, 20.24
"""Of v2.0 on the scale 0 to 255 (authors). ``data.offset = MEAN - STD`` and ``data.scale = MEAN + STD`` give a
backbone that expects (x / 255 - 0.5) / 0.5 exactly ``(x - MEAN) / STD``."""


@dataclass(frozen=True)
class SingleBand:
    """Chips of one band; gray stored as three equal bands becomes one."""

    base: Pixels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.base)

    def read(self, index: int) -> Shaped[np.ndarray, "h w 1"]:
        """Return chip ``index``; raises a DataError if its bands differ."""
        chip = self.base.read(index)
        if (chip != chip[:, :, :1]).any():
            raise DataError(
                f"{self.ids[index]}: a color image, but FUSRS has one channel; restore the chip or leave it out"
            )
        return chip[:, :, :1]


def read_fusrs(source: Path, reading: Reading) -> ChipSet:
    """Read fine-grained ships in SAR chips, built by the authors from FUSAR-Ship and SRSDD.

    They lie in ``<split>/<class>/<chip>``, or lists ``train.txt``, ``val.txt``, ``test.txt`` of ``path label``. Labels
    of lists are 0 to 4 or names, in the order cargo, other, fishing, tanker, dredger; case does not matter. Of a class
    without chips ("other" in v2.5) nothing is said.

    Raises:
        DataError: If a class is none of the five, or as the readers of folders and text lists.
    """
    is_list = source.is_file() or has_split_lists(source)
    if not is_list:
        refuse_unused(reading, (), source, "a folder per class")
    chips = read_text_lists(source, reading) if is_list else read_folder(source)
    numbers = {str(i): name for i, name in enumerate(FUSRS_CLASSES)}
    wanted = [numbers.get(name, name.strip().lower()) for name in chips.class_names]
    for name, meant in zip(chips.class_names, wanted, strict=True):
        if meant not in FUSRS_CLASSES:
            raise DataError(
                f"{source}: {name!r} is no class of FUSRS ({', '.join(FUSRS_CLASSES)}); correct the folder or list, or "
                "read it with data.format folder or textlist"
            )
    chips = relabel(chips, wanted, tuple(name for name in FUSRS_CLASSES if name in wanted))
    return replace(chips, pixels=SingleBand(chips.pixels, chips.ids))
