"""Chips named by a CSV or TSV list."""

import csv
from pathlib import Path

from deblora.data.chips import ChipSet
from deblora.data.decode import SPLIT_NAMES, FilePixels, class_indices
from deblora.errors import DataError


def read_list(source: Path, *, unit: str | None = None) -> ChipSet:
    """Read a table with the header ``path,label`` or ``path,label,split``; other columns are passed over.

    A column ``caption`` is kept as text, and the column named ``unit`` (a scene, an image, a flight) as what chips
    must not be parted by a split; the names of columns are compared without regard to case.

    Paths are relative to the folder of the list and must stay inside it, links included. Labels are class
    names or integers, splits as in :func:`deblora.data.readers.folder.read_folder`. Ids are paths below that
    folder.

    Raises:
        DataError: With the line, if a row is incomplete, leaves the folder, repeats a chip or has no file.
    """
    root = source.parent.resolve()
    rows = _rows(source, unit)
    files: list[Path] = []
    labels: list[str] = []
    splits: list[str] = []
    seen: dict[Path, int] = {}
    for line, cells in rows:
        path_text, label, split = cells["path"], cells["label"], cells.get("split", "")
        where = f"{source}:{line}"
        path = _inside(path_text, root, where)
        if path in seen:
            raise DataError(f"{where}: {path_text} is already on line {seen[path]}; list each chip once")
        if not label:
            raise DataError(f"{where}: the label is empty; name a class")
        if split and split.lower() not in SPLIT_NAMES:
            raise DataError(f"{where}: unknown split {split!r}; use train, val or test, or leave it empty")
        seen[path] = line
        files.append(path)
        labels.append(label)
        splits.append(SPLIT_NAMES[split.lower()] if split else "")
    if not files:
        raise DataError(f"{source}: the list has no rows")
    class_names, indices = class_indices(labels, str(source), places=[f"{source}:{line}" for line, _ in rows])
    return ChipSet(
        ids=tuple(path.relative_to(root).as_posix() for path in files),
        labels=indices,
        splits=tuple(splits),
        class_names=class_names,
        pixels=FilePixels(tuple(files)),
        units=tuple(cells[unit.lower()] for _, cells in rows) if unit else (),
        captions=tuple(cells["caption"] for _, cells in rows) if "caption" in rows[0][1] else (),
    )


def read_paths(source: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Return ids and files of a list with a column ``path``; other columns, a label too, are passed over.

    Raises:
        DataError: With the line, if a path leaves the folder of the list, is given twice or has no file.
    """
    root = source.parent.resolve()
    seen: dict[Path, int] = {}
    for line, cells in _rows(source, None, needed=("path",)):
        path = _inside(cells["path"], root, f"{source}:{line}")
        if path in seen:
            raise DataError(
                f"{source}:{line}: {cells['path']} is already on line {seen[path]}; list each chip once"
            )
        seen[path] = line
    if not seen:
        raise DataError(f"{source}: the list has no rows")
    return tuple(path.relative_to(root).as_posix() for path in seen), tuple(seen)


def _rows(
    source: Path, unit: str | None, *, needed: tuple[str, ...] = ("path", "label")
) -> list[tuple[int, dict[str, str]]]:
    """Return line number and cells of each row that is not blank."""
    rows: list[tuple[int, dict[str, str]]] = []
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
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{source}:{reader.line_num}: {len(row)} cells under a header of {len(header)}; "
                        "quote names that contain the separator"
                    )
                rows.append((reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{source}: not a readable list ({error}); save it as UTF-8 CSV or TSV") from error
    return rows


def _inside(text: str, root: Path, where: str) -> Path:
    """Return the file that ``text`` means, links resolved.

    Raises:
        DataError: If it is empty, lies outside ``root`` or is no file.
    """
    if not text:
        raise DataError(f"{where}: the path is empty")
    try:
        path = (root / text).resolve()
        is_file = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{where}: {text!r} is not a usable path ({error})") from error
    if not path.is_relative_to(root):
        raise DataError(f"{where}: {text} leaves the folder of the list; move the chip below {root}")
    if not is_file:
        raise DataError(f"{where}: {text} does not exist below {root}; restore it or delete the line")
    return path
