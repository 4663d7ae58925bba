"""Chips in Parquet files, one row each, in the layout of Hugging Face image data sets."""

import json
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from deblora.data.chips import ChipSet
from deblora.data.decode import SPLIT_NAMES, class_indices, decode_chip
from deblora.errors import DataError

_SPLIT_FILE = re.compile(r"(train|val|valid|validation|test)(-\d+-of-\d+)?\.parquet")
_CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class _File:
    """What is known of one file before any image is read."""

    path: Path
    split: str
    image_column: str
    group_ends: Int[np.ndarray, " g"]
    class_names: tuple[str, ...] | None
    labels: list[str] | Int[np.ndarray, " n"]
    splits: list[str]
    ids: list[str]
    units: list[str]


class ParquetPixels:
    """Encoded images by row; recently used row groups are kept, still encoded, up to 512 MiB.

    Args:
        files: The files, rows concatenated in this order.
        ids: One id per row, for messages.
    """

    def __init__(self, files: tuple[_File, ...], ids: tuple[str, ...]) -> None:
        self._files = files
        self._ids = ids
        self._ends = np.cumsum([len(file.ids) for file in files])
        self._forget()

    def _forget(self) -> None:
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()  # several threads read ahead of the model

    def __getstate__(self) -> dict[str, Any]:
        """Leave cache and lock behind when a worker process gets a copy."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with an empty cache."""
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._ids)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return the chip of row ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        position = int(np.searchsorted(self._ends, index, side="right"))
        file = self._files[position]
        row = index - (int(self._ends[position]) - len(file.ids))
        name = f"{file.path}, chip {self._ids[index]}"
        group = int(np.searchsorted(file.group_ends, row, side="right"))
        first = int(file.group_ends[group - 1]) if group else 0
        content = _image_bytes(self._group(position, group)[row - first])
        if content is None:
            raise DataError(f"{name}: the image is null; embed its bytes or delete the row")
        return decode_chip(content, name)

    def _group(self, position: int, group: int) -> Any:
        """Return the image column of a row group, from the cache if it is there."""
        key = (position, group)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            column = _read_group(self._files[position].path, group, self._files[position].image_column)
            self._cache[key] = column
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            return column


def read_parquet(source: Path, *, unit: str | None = None) -> ChipSet:
    """Read a Parquet file, or a folder with one (or shards) per split: ``train.parquet``, ``val.parquet`` ...

    A folder with a single Parquet file of another name stands for that file.

    Columns: ``image`` is a struct with ``bytes`` (and perhaps ``path``) or binary; ``label`` is an integer or
    a string; ``split`` is optional. Class names come from the ``huggingface`` entry of the schema metadata;
    without it from the labels. The split of a file in a folder is that of its name, of a single file "". Ids
    are ``<file stem>/<row>``, followed by the stored path where there is one. The column named ``unit`` (a scene, a
    flight) says which chips a split must not part.

    Raises:
        DataError: If a file is damaged or empty, lacks a column, has null entries, or files disagree.
    """
    parts = split_files(source) if source.is_dir() else [("", source)]
    if not parts and len(alone := list(source.glob("*.parquet"))) == 1:
        parts = [("", alone[0])]
    if not parts:
        found = ", ".join(sorted(path.name for path in source.glob("*.parquet"))) or "none"
        raise DataError(
            f"{source}: no train.parquet, val.parquet or test.parquet (found: {found}); rename them, or name one file"
        )
    files = tuple(_open(path, split, unit) for split, path in parts)
    class_names, labels = _classes(files)
    ids = tuple(chip_id for file in files for chip_id in file.ids)
    if not ids:
        raise DataError(f"{source}: no rows")
    splits = tuple(split for file in files for split in file.splits)
    units = tuple(name for file in files for name in file.units)
    return ChipSet(ids, labels, splits, class_names, ParquetPixels(files, ids), units=units)


def read_parquet_images(source: Path) -> tuple[tuple[str, ...], ParquetPixels]:
    """Return ids and images of a Parquet file, or of all in a folder; labels are not read.

    Raises:
        DataError: If a file is damaged or empty, or has no column of images.
    """
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    files = tuple(_open_images(path) for path in paths)
    ids = tuple(chip_id for file in files for chip_id in file.ids)
    if not ids:
        raise DataError(f"{source}: no rows")
    return ids, ParquetPixels(files, ids)


def split_files(folder: Path) -> list[tuple[str, Path]]:
    """Return split and path of the Parquet files in ``folder`` that are named after a split, train first."""
    found = [(match[1], path) for path in folder.iterdir() if (match := _SPLIT_FILE.fullmatch(path.name))]
    order = list(SPLIT_NAMES)
    found.sort(key=lambda part: (order.index(part[0]), part[1].name))
    return [(SPLIT_NAMES[name], path) for name, path in found]


def _open(path: Path, split: str, unit: str | None) -> _File:
    """Read everything but the images of one file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            image_column = _image_column(path, schema)
            _refuse_null_images(path, file.metadata, image_column)
            has_path = image_column != "image" and schema.field("image").type.get_field_index("path") >= 0
            columns = ["label", *(["image.path"] if has_path else [])]
            columns += ["split"] if "split" in schema.names else []
            if unit and unit not in schema.names:
                raise DataError(f"{path}: no column {unit} (data.unit); found: {', '.join(schema.names)}")
            columns += [unit] if unit else []
            table = file.read(columns=columns, use_threads=False)
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path}: damaged or no Parquet file ({reason}); fetch or write it again") from error
    paths = [(value or {}).get("path") for value in table["image"].to_pylist()] if has_path else []
    rows = range(table.num_rows)
    return _File(
        path=path,
        split=split,
        image_column=image_column,
        group_ends=np.cumsum(np.array(groups, dtype=np.int64)),
        class_names=_class_names(path, schema.metadata or {}),
        labels=_labels(path, table["label"]),
        splits=_splits(path, table["split"].to_pylist()) if "split" in schema.names else [split] * len(rows),
        ids=_ids(path, len(rows), paths),
        units=[str(value) for value in table[unit].to_pylist()] if unit else [],
    )


def _open_images(path: Path) -> _File:
    """Read ids, and nothing of labels and splits; images without a content stay, and are found when they are read."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            image_column = _image_column(path, schema, needed=("image",))
            has_path = image_column != "image" and schema.field("image").type.get_field_index("path") >= 0
            column = file.read(columns=["image.path"], use_threads=False)["image"] if has_path else None
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path}: damaged or no Parquet file ({reason}); fetch or write it again") from error
    stored = [(value or {}).get("path") for value in column.to_pylist()] if column is not None else []
    return _File(
        path=path,
        split="",
        image_column=image_column,
        group_ends=np.cumsum(np.array(groups, dtype=np.int64)),
        class_names=None,
        labels=[],
        splits=[],
        ids=_ids(path, sum(groups), stored),
        units=[],
    )


def _ids(path: Path, n_rows: int, stored: list[str | None]) -> list[str]:
    """Return ``<file stem>/<row>``, followed by the stored path where there is one."""
    return [
        f"{path.stem}/{row}" + (f"/{stored[row]}" if stored and stored[row] else "") for row in range(n_rows)
    ]


def _image_column(path: Path, schema: Any, *, needed: tuple[str, ...] = ("image", "label")) -> str:
    """Return the leaf that holds the encoded images."""
    from pyarrow import types

    missing = [name for name in needed if name not in schema.names]
    if missing:
        raise DataError(f"{path}: no column {' and '.join(missing)} (found: {', '.join(schema.names)})")
    kind = schema.field("image").type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image.bytes"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    raise DataError(
        f"{path}: the column image is {kind}; store encoded images as struct<bytes, path> or binary"
    )


def _refuse_null_images(path: Path, metadata: Any, image_column: str) -> None:
    """Find null images from the statistics of the file, without reading images that are whole."""
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for i in range(rows.num_columns):
            column = rows.column(i)
            known = column.path_in_schema == image_column and column.statistics is not None
            if known and column.statistics.has_null_count and column.statistics.null_count:
                values = _read_group(path, group, image_column)
                row = first + next(k for k, value in enumerate(values) if _image_bytes(value) is None)
                raise DataError(f"{path}: the image of row {row} is null; embed its bytes or delete the row")
        first += rows.num_rows


def _read_group(path: Path, group: int, image_column: str) -> Any:
    """Return the images of one row group as an Arrow column."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Opened for each read and without threads: open handles and thread pools do not survive a fork.
        with parquet.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[image_column], use_threads=False)["image"]
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path}: row group {group} is damaged ({reason}); fetch the file again") from error


def _image_bytes(value: Any) -> bytes | None:
    """Return the encoded image of one Arrow scalar."""
    content = value.as_py()
    if isinstance(content, dict):
        content = content["bytes"]
    return content if isinstance(content, bytes) else None


def _class_names(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    """Return the class names in the schema metadata, if it has any."""
    if b"huggingface" not in metadata:
        return None
    try:
        label = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]
        names = label.get("names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: the schema metadata 'huggingface' is damaged; write the file again"
        ) from error
    if names is None:
        return None
    is_list = (
        isinstance(names, list) and bool(names) and all(isinstance(name, str) and name for name in names)
    )
    if not is_list or len(set(names)) < len(names):
        raise DataError(
            f"{path}: the class names in the schema metadata are not distinct texts; correct them"
        )
    return tuple(names)


def _labels(path: Path, column: Any) -> list[str] | Int[np.ndarray, " n"]:
    """Return the labels of a file as texts or integers."""
    from pyarrow import types

    values = column.to_pylist()
    empty = [row for row, value in enumerate(values) if value is None or value == ""]
    if empty:
        raise DataError(
            f"{path}: the label of row {empty[0]} is missing ({len(empty)} in all); label or delete it"
        )
    if types.is_integer(column.type):
        largest = max(values, default=0)
        if largest > np.iinfo(np.int64).max:
            raise DataError(f"{path}: the label {largest} is no class index; number the classes from 0")
        return np.array(values, dtype=np.int64)
    if types.is_string(column.type) or types.is_large_string(column.type) or types.is_dictionary(column.type):
        return [str(value) for value in values]
    raise DataError(f"{path}: the column label is {column.type}; store integers or class names")


def _splits(path: Path, values: list[str | None]) -> list[str]:
    """Return the splits of the optional column."""
    unknown = [
        (row, value) for row, value in enumerate(values) if value and str(value).lower() not in SPLIT_NAMES
    ]
    if unknown:
        row, value = unknown[0]
        raise DataError(f"{path}: unknown split {value!r} in row {row}; use train, val or test")
    return [SPLIT_NAMES[str(value).lower()] if value else "" for value in values]


def _classes(files: tuple[_File, ...]) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
    """Agree on class names over all files and return the class index of each row."""
    names = files[0].class_names
    for file in files:
        if file.class_names != names:
            raise DataError(
                f"{file.path} and {files[0].path} name different classes; write them with the same names"
            )
        if isinstance(file.labels, list) != isinstance(files[0].labels, list):
            raise DataError(f"{file.path} and {files[0].path} have labels of different types; use one type")
    if names is None:
        return class_indices([str(label) for file in files for label in file.labels], str(files[0].path))
    position = {name: i for i, name in enumerate(names)}
    labels = []
    for file in files:
        for row, label in enumerate(file.labels):
            index = position.get(label, -1) if isinstance(label, str) else int(label)
            if not 0 <= index < len(names):
                raise DataError(
                    f"{file.path}: label {label} of row {row} is none of the {len(names)} classes; correct it"
                )
            labels.append(index)
    return names, np.array(labels, dtype=np.int64)
