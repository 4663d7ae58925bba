"""Chips in tables of the Hugging Face layout, one row each: Parquet files, and data sets of the hub."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from deblora.data.chips import ChipSet
from deblora.data.decode import decode_chip
from deblora.data.sources import SPLIT_NAMES, Reading, class_indices
from deblora.errors import DataError

_SPLIT_FILE = re.compile(r"(train|val|valid|validation|test)(?:-\d+-of-(\d+))?\.parquet")
_CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class _File:
    """What is known of one file before any image is read; labels and what follows only where they were asked for."""

    path: Path
    image_column: str
    group_ends: Int[np.ndarray, " g"]
    ids: list[str]
    labels: list[str] | Int[np.ndarray, " n"]
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


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
        position, row = _place(self._ends, index)
        file = self._files[position]
        name = f"{file.path}, chip {self._ids[index]}"
        group, row = _place(file.group_ends, row)
        content = _image_bytes(self._group(position, group)[row])
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


def _place(ends: Int[np.ndarray, " k"], index: int) -> tuple[int, int]:
    """Return which of several parts a row lies in, given the ends of the parts, and its position there."""
    part = int(np.searchsorted(ends, index, side="right"))
    return part, index - (int(ends[part - 1]) if part else 0)


def read_parquet(source: Path, *, unit: str | None = None) -> ChipSet:
    """Read a Parquet file, or a folder with one (or shards) per split: ``train.parquet``, ``val.parquet`` ...

    A folder with a single Parquet file of another name stands for that file.

    Columns: ``image`` is a struct with ``bytes`` (and perhaps ``path``) or binary; ``label`` is an integer or
    a string; ``split`` is optional. Class names come from the ``huggingface`` entry of the schema metadata;
    without it from the labels. The split of a file in a folder is that of its name, of a single file "". Ids
    are ``<file stem>/<row>``, followed by the stored path where there is one. The column named ``unit`` (a scene, a
    flight) says which chips a split must not part. Other Parquet files of a folder are counted in the notes.

    Raises:
        DataError: If a file is damaged or empty, lacks a column, has null entries, a shard is missing, or files
            disagree.
    """
    parts = split_files(source) if source.is_dir() else [("", source)]
    every = sorted(source.rglob("*.parquet")) if source.is_dir() else []
    if not parts and len(alone := [path for path in every if path.parent == source]) == 1:
        parts = [("", alone[0])]
    if not parts:
        found = ", ".join(path.name for path in every if path.parent == source) or "none"
        raise DataError(
            f"{source}: no train.parquet, val.parquet or test.parquet (found: {found}); rename them, or name one file"
        )
    _refuse_missing_shards([path for _, path in parts])
    files = tuple(_open(path, split, unit) for split, path in parts)
    class_names, labels = _classes(files)
    ids = tuple(chip_id for file in files for chip_id in file.ids)
    if not ids:
        raise DataError(f"{source}: no rows")
    splits = tuple(split for file in files for split in file.splits)
    units = tuple(name for file in files for name in file.units)
    others = sorted(set(every) - {path for _, path in parts})
    notes = (f"{len(others)} Parquet files passed over, first: {others[0]}",) if others else ()
    pixels = ParquetPixels(files, ids)
    return ChipSet(ids, labels, splits, class_names, pixels, units=units, notes=notes)


def read_parquet_images(source: Path) -> tuple[tuple[str, ...], ParquetPixels]:
    """Return ids and images of a Parquet file, or of all in a folder; labels are not read.

    Raises:
        DataError: If a file is damaged or empty, or has no column of images.
    """
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    files = tuple(_open(path) for path in paths)
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


def _refuse_missing_shards(paths: Sequence[Path]) -> None:
    counts: dict[tuple[str, int], int] = {}
    for path in paths:
        match = _SPLIT_FILE.fullmatch(path.name)
        if match is not None and match[2]:
            key = (match[1], int(match[2]))
            counts[key] = counts.get(key, 0) + 1
    for (name, n_shards), found in counts.items():
        if found != n_shards:
            raise DataError(
                f"{paths[0].parent}: {found} of {n_shards} files of {name} are there; fetch the others"
            )


@contextmanager
def _parquet(path: Path, what: str = "") -> Iterator[Any]:
    """Open a Parquet file; what is wrong with it becomes one error."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Opened for each read and without threads: open handles and thread pools do not survive a fork.
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).replace("\n", " ")
        what = what or "damaged or no Parquet file"
        raise DataError(f"{path}: {what} ({reason}); fetch or write it again") from error


def _open(path: Path, split: str | None = None, unit: str | None = None) -> _File:
    """Read everything but the images of one file.

    Without a split, labels and splits are left alone; images without a content stay, and are found when they are read.
    """
    labeled = split is not None
    with _parquet(path) as file:
        schema = file.schema_arrow
        image_column = _image_column(path, schema, ("image", "label") if labeled else ("image",))
        has_path = image_column != "image" and schema.field("image").type.get_field_index("path") >= 0
        columns = ["image.path"] if has_path else []
        if labeled:
            _refuse_null_images(path, file.metadata, image_column)
            if unit and unit not in schema.names:
                raise DataError(f"{path}: no column {unit} (data.unit); found: {', '.join(schema.names)}")
            columns += ["label", *(["split"] if "split" in schema.names else []), *([unit] if unit else [])]
        table = file.read(columns=columns, use_threads=False)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    n_rows = sum(groups)
    stored = (
        [(value or {}).get("path") for value in table["image"].to_pylist()] if has_path else [None] * n_rows
    )
    opened = _File(
        path=path,
        image_column=image_column,
        group_ends=np.cumsum(np.array(groups, dtype=np.int64)),
        ids=[f"{path.stem}/{row}" + (f"/{own}" if own else "") for row, own in enumerate(stored)],
        labels=_labels(path, table["label"]) if labeled else [],
    )
    if split is None:
        return opened
    own_splits = _splits(path, table["split"].to_pylist()) if "split" in schema.names else [split] * n_rows
    return replace(
        opened,
        class_names=_class_names(path, schema.metadata or {}),
        splits=tuple(own_splits),
        units=tuple(str(value) for value in table[unit].to_pylist()) if unit else (),
    )


def _image_column(path: Path, schema: Any, needed: tuple[str, ...]) -> str:
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
        for column in (rows.column(i) for i in range(rows.num_columns)):
            known = column.path_in_schema == image_column and column.statistics is not None
            if known and column.statistics.has_null_count and column.statistics.null_count:
                values = _read_group(path, group, image_column)
                row = first + next(k for k, value in enumerate(values) if _image_bytes(value) is None)
                raise DataError(f"{path}: the image of row {row} is null; embed its bytes or delete the row")
        first += rows.num_rows


def _read_group(path: Path, group: int, image_column: str) -> Any:
    """Return the images of one row group as an Arrow column."""
    with _parquet(path, f"row group {group} is damaged") as file:
        return file.read_row_group(group, columns=[image_column], use_threads=False)["image"]


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: the schema metadata 'huggingface' is damaged; write the file again"
        ) from error
    if names is None:
        return None
    is_list = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
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
    for row, value in enumerate(values):
        if value and str(value).lower() not in SPLIT_NAMES:
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


# --- the hub ----------------------------------------------------------------------------------------------------

IMAGE_COLUMNS = ("image", "img", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label")


class HubPixels:
    """Encoded images of the splits of a data set, one after the other; decoded by deblora, not by ``datasets``.

    Args:
        parts: Data set and image column per split.
        ids: One id per chip, for messages.
    """

    def __init__(self, parts: tuple[tuple[Any, str], ...], ids: tuple[str, ...]) -> None:
        self._parts, self._ids = parts, ids
        self._ends = np.cumsum([len(part) for part, _ in parts])

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self._ids)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index``."""
        position, row = _place(self._ends, index)
        part, column = self._parts[position]
        content = part[row][column]
        if isinstance(content, Mapping):
            stored = content.get("path")
            content = content.get("bytes")
            if content is None and stored:
                try:
                    content = Path(stored).read_bytes()
                except OSError as error:
                    raise DataError(
                        f"{self._ids[index]}: cannot be read ({error}); fetch the data again"
                    ) from error
        if not isinstance(content, bytes):
            raise DataError(f"{self._ids[index]}: no encoded image; leave the chip out")
        return decode_chip(content, self._ids[index])


def read_hub(source: Path, reading: Reading) -> ChipSet:
    """Load ``owner/name`` from the hub (or its cache), or a local folder that ``datasets`` understands.

    Only this reader may use a network, and only because the recipe names ``data.format: hub``. Code that comes with a
    data set is never run. Ids are ``<split>/<row>``; a column named ``reading.unit`` keeps chips of a scene together.

    Raises:
        DataError: If ``datasets`` is not installed, the set cannot be loaded, or has no images with labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{source}: data.format hub needs the package datasets; install deblora[hub], or export the set as Parquet"
        ) from error
    try:
        found = datasets.load_dataset(str(source))
    except Exception as error:  # datasets raises errors of many packages
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source}: datasets cannot load it ({reason}); check the id and the network, or give a local folder"
        ) from error
    parts, labels, splits, ids, units = [], [], [], [], []
    names: tuple[str, ...] | None = None
    for name, part in found.items():
        columns = list(part.features)
        image = next((column for column in IMAGE_COLUMNS if column in columns), None)
        label = next((column for column in LABEL_COLUMNS if column in columns), None)
        if image is None or label is None:
            raise DataError(f"{source}: no columns image and label; found: {', '.join(columns)}")
        if reading.unit and reading.unit not in columns:
            raise DataError(f"{source}: no column {reading.unit} (data.unit); found: {', '.join(columns)}")
        names = tuple(getattr(part.features[label], "names", None) or ()) or names
        part = part.cast_column(image, datasets.Image(decode=False))
        values = part[label]
        parts.append((part, image))
        labels += [str(value) for value in values]
        splits += [SPLIT_NAMES.get(str(name).lower(), "")] * len(values)
        ids += [f"{name}/{row:07d}" for row in range(len(values))]
        units += [str(value) for value in part[reading.unit]] if reading.unit else []
    if not labels:
        raise DataError(f"{source}: no chips")
    if names:
        indices = np.array([int(value) for value in labels], dtype=np.int64)
        if not 0 <= indices.min() <= indices.max() < len(names):
            raise DataError(
                f"{source}: labels span {indices.min()} to {indices.max()} for {len(names)} names"
            )
    else:
        names, indices = class_indices(labels, str(source))
    pixels = HubPixels(tuple(parts), tuple(ids))
    return ChipSet(tuple(ids), indices, tuple(splits), names, pixels, units=tuple(units))
