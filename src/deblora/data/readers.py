"""Read chips from folders, lists and Parquet files, and check that they can be trained on."""

from pathlib import Path
from typing import Literal

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.folder_reader import read_folder
from deblora.data.list_reader import read_list
from deblora.data.parquet_reader import read_parquet, split_files
from deblora.errors import DataError

Format = Literal["auto", "folder", "list", "parquet"]

_READERS = {"folder": read_folder, "list": read_list, "parquet": read_parquet}
_LIST_SUFFIXES = frozenset({".csv", ".tsv"})
_PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_N_NAMED = 5


def read_chips(source: Path, *, format: Format = "auto") -> ChipSet:
    """Read the chips of ``source``; images are decoded only when they are asked for.

    Args:
        source: A folder of classes, a CSV or TSV list, a Parquet file or a folder of Parquet files.
        format: "auto" goes by the suffix, and takes a folder with Parquet files of splits for Parquet.

    Raises:
        DataError: If the source is missing, of no known format, damaged, inconsistent or empty.
        ValueError: If ``format`` is unknown.
    """
    if format not in ("auto", *_READERS):
        raise ValueError(f"format must be auto, folder, list or parquet, got {format!r}")
    if not source.exists():
        raise DataError(f"{source} does not exist; check the path of the data")
    kind = _detect(source) if format == "auto" else format
    if (kind == "folder" and not source.is_dir()) or (kind == "list" and not source.is_file()):
        raise DataError(
            f"{source} is not a {'folder' if kind == 'folder' else 'list file'}; check data.format"
        )
    chips = _READERS[kind](source)
    if len(set(chips.ids)) < len(chips.ids):
        values, counts = np.unique(np.array(chips.ids), return_counts=True)
        raise DataError(f"{source}: the id {values[counts > 1][0]} appears more than once; make ids unique")
    return chips


def _detect(source: Path) -> str:
    """Return the format that ``source`` looks like."""
    if source.is_dir():
        has_folders = any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir())
        only_parquet = not has_folders and any(source.glob("*.parquet"))
        return "parquet" if split_files(source) or only_parquet else "folder"
    if source.suffix.lower() in _LIST_SUFFIXES:
        return "list"
    if source.suffix.lower() in _PARQUET_SUFFIXES:
        return "parquet"
    raise DataError(f"{source}: unknown format; give a folder, a .csv or .tsv list or a .parquet file")


def check_trainable(chips: ChipSet) -> None:
    """Check that each class has a training chip and that there is something to tell apart.

    Training chips are those of the split "train"; where no chip has that split, those without a split.

    Raises:
        DataError: If there is no training chip, one class only, or a class without training chips.
    """
    name = "train" if "train" in chips.splits else ""
    is_train = np.array([split == name for split in chips.splits], dtype=bool)
    if not is_train.any():
        raise DataError("no chip is in the split train; name the training chips or give chips without splits")
    if chips.n_classes < 2:
        raise DataError(f"only one class ({chips.class_names[0]}); a classifier needs at least two")
    counts = np.bincount(chips.labels[is_train], minlength=chips.n_classes)
    absent = [chips.class_names[i] for i in np.flatnonzero(counts == 0)]
    if absent:
        raise DataError(
            f"no training chip for {len(absent)} of {chips.n_classes} classes: {_some(absent)}; add chips "
            "or leave the classes out"
        )


def check_readable(chips: ChipSet) -> None:
    """Decode every chip once.

    Raises:
        DataError: If chips are unreadable; names up to five and says how many there are.
    """
    failures = []
    for index in range(len(chips)):
        try:
            chips.pixels.read(index)
        except DataError as error:
            failures.append(str(error).split("; ")[0])
    if failures:
        raise DataError(
            f"{len(failures)} of {len(chips)} chips are unreadable: {_some(failures)}; restore them or "
            "leave them out"
        )


def _some(names: list[str]) -> str:
    """Join the first names and count the rest."""
    rest = len(names) - _N_NAMED
    return ", ".join(names[:_N_NAMED]) + (f" and {rest} more" if rest > 0 else "")
