"""Chooses the reader of a source, and checks that its chips can be trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deblora.data.chips import ChipSet
from deblora.data.readers.arrays import read_arrays
from deblora.data.readers.csv_list import read_list
from deblora.data.readers.folder import read_folder
from deblora.data.readers.fusrs import read_fusrs
from deblora.data.readers.geotiff import read_geotiffs
from deblora.data.readers.hub import read_hub
from deblora.data.readers.object_chips import read_dota
from deblora.data.readers.parquet import read_parquet, split_files
from deblora.data.readers.reading import Reading
from deblora.data.readers.text_list import read_text_lists
from deblora.data.readers.voc import read_voc_chips
from deblora.errors import DataError

ReadSource = Callable[[Path, Reading], ChipSet]


@dataclass(frozen=True)
class Reader:
    """One way to read a source.

    Attributes:
        read: From a path and the switches to chips with lazy pixels.
        takes: "folder", "file" or "any" (both).
        about: What it reads, for lists.
        suffixes: Files that ``auto`` gives to it.
    """

    read: ReadSource
    takes: str
    about: str
    suffixes: tuple[str, ...] = ()


READERS: Mapping[str, Reader] = {
    "folder": Reader(lambda path, _: read_folder(path), "folder", "<class>/<chip> or <split>/<class>/<chip>"),
    "list": Reader(
        lambda path, how: read_list(path, unit=how.unit),
        "file",
        "CSV or TSV: path,label[,split][,caption]",
        (".csv", ".tsv"),
    ),
    "parquet": Reader(
        lambda path, how: read_parquet(path, unit=how.unit),
        "any",
        "Parquet with image and label, one file per split or one in all",
        (".parquet", ".pq"),
    ),
    "textlist": Reader(
        read_text_lists, "any", "'path label' per line: Places365-LT, iNaturalist 2018", (".txt",)
    ),
    "dota": Reader(read_dota, "any", "images + labelTxt, one chip per object: DOTA, HIT-UAV", (".zip",)),
    "voc": Reader(read_voc_chips, "folder", "Annotations/*.xml + JPEGImages, one chip per object"),
    "fusrs": Reader(read_fusrs, "any", "FUSRS: five kinds of ships in SAR chips, folders or lists"),
    "geotiff": Reader(read_geotiffs, "any", "as folder or list, GeoTIFF chips of any bands (extra: geo)"),
    "arrays": Reader(
        read_arrays, "any", "NumPy: .npz, or a folder with images.npy and labels.npy", (".npz",)
    ),
    "hub": Reader(read_hub, "id", "Hugging Face data set by id or local folder (extra: hub)"),
}
"""Every reader by its name in ``data.format``."""

_N_NAMED = 5


def read_chips(source: Path, *, format: str = "auto", reading: Reading | None = None) -> ChipSet:
    """Read the chips of ``source``; images are decoded only when they are asked for.

    Args:
        source: What the reader takes.
        format: A key of ``READERS``; "auto" goes by the suffix of a file and the layout of a folder.
        reading: Switches of readers; None takes their defaults.

    Raises:
        DataError: If the source is missing, of no known format, damaged, inconsistent or empty.
        ValueError: If ``format`` is unknown.
    """
    if format not in ("auto", *READERS):
        raise ValueError(f"format must be auto, {', '.join(READERS)}, got {format!r}")
    if format != "hub" and not source.exists():
        raise DataError(f"{source} does not exist; give a recipe (YAML), or the folder or file of your chips")
    kind = _detect(source) if format == "auto" else format
    reader = READERS[kind]
    if (reader.takes == "folder" and not source.is_dir()) or (
        reader.takes == "file" and not source.is_file()
    ):
        raise DataError(
            f"{source} is not a {'folder' if reader.takes == 'folder' else 'list file'}; check data.format"
        )
    chips = reader.read(source, reading or Reading())
    spelled: dict[str, str] = {}
    for name in chips.class_names:
        other = spelled.setdefault(name.strip().lower(), name)
        if other != name:
            raise DataError(
                f"{source}: the classes {other} and {name} differ in spelling only; give them one name"
            )
    if len(set(chips.ids)) < len(chips.ids):
        values, counts = np.unique(np.array(chips.ids), return_counts=True)
        raise DataError(f"{source}: the id {values[counts > 1][0]} appears more than once; make ids unique")
    return chips


def _detect(source: Path) -> str:
    """Return the format that ``source`` looks like."""
    if source.is_dir():
        return _detect_folder(source)
    for name, reader in READERS.items():
        if source.suffix.lower() in reader.suffixes:
            return name
    raise DataError(
        f"{source}: unknown format; give a folder, a .csv or .tsv list, a .parquet file, or set data.format "
        f"({', '.join(READERS)})"
    )


def _detect_folder(source: Path) -> str:
    visible = [path for path in source.iterdir() if not path.name.startswith(".")]
    folders = [path for path in visible if path.is_dir()]
    if split_files(source) or (not folders and any(source.glob("*.parquet"))):
        return "parquet"
    if any(path.name.startswith("labelTxt") for path in [*folders, *source.glob("*/labelTxt*")]):
        return "dota"
    if any(path.name == "Annotations" for path in [*folders, *source.glob("VOC_Format/*")]):
        return "voc"
    stems = {path.stem for path in visible if path.suffix == ".npy"}
    if not folders and stems & {"images", "train_images"}:
        return "arrays"
    return "dota" if not folders and any(path.name == "train.zip" for path in visible) else "folder"


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
            "or leave the classes out with data.ignore"
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
