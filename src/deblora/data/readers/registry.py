"""Chooses the reader of a source, with labels or without, and checks that its chips can be trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import ChipSet, Pixels
from deblora.data.decode import FilePixels
from deblora.data.readers.arrays import STACKS, is_stack, read_array_images, read_arrays
from deblora.data.readers.lists import (
    read_folder,
    read_fusrs,
    read_image_folder,
    read_list,
    read_list_images,
    read_text_images,
    read_text_lists,
)
from deblora.data.readers.objects import read_dota, read_voc_chips
from deblora.data.readers.parquet import read_hub, read_parquet, read_parquet_images, split_files
from deblora.data.scenes.rasters import GeoTiffPixels, import_rasterio
from deblora.data.sources import IMAGE_SUFFIXES, Reading, refuse_unused
from deblora.errors import DataError


@dataclass(frozen=True)
class Reader:
    """One way to read a source.

    Attributes:
        read: From a path and the switches to chips with lazy pixels.
        takes: "folder", "file", "any" (both) or "id".
        about: What it reads, for lists.
        suffixes: Files that are read by it unless a format is named.
        images: From a path to ids and lazy pixels without a look at labels; None where labels say what the chips are.
        uses: Switches of :class:`~deblora.data.sources.Reading` that it reads; others are refused.
    """

    read: Callable[[Path, Reading], ChipSet]
    takes: str
    about: str
    suffixes: tuple[str, ...] = ()
    images: Callable[[Path], tuple[tuple[str, ...], Pixels]] | None = None
    uses: tuple[str, ...] = ()


OF_OBJECTS = ("crop", "context", "min_side", "difficult")


def _read_geotiffs(source: Path, reading: Reading) -> ChipSet:
    """Read folders per class, or a CSV or TSV list, whose chips are GeoTIFFs; see ``rasters.GeoTiffPixels``."""
    import_rasterio(source)
    if not source.is_file():
        refuse_unused(reading, ("bands", "max_missing"), source, "a folder per class")
    base = read_list(source, unit=reading.unit) if source.is_file() else read_folder(source)
    return replace(base, pixels=_as_geotiffs(base.pixels, reading))


def _as_geotiffs(pixels: Pixels, reading: Reading) -> Pixels:
    if not isinstance(pixels, FilePixels):
        return pixels
    return GeoTiffPixels(pixels.paths, reading.bands, reading.max_missing)


READERS: Mapping[str, Reader] = {
    "folder": Reader(
        lambda path, _: read_folder(path),
        "folder",
        "<class>/<chip> or <split>/<class>/<chip>",
        images=read_image_folder,
    ),
    "list": Reader(
        lambda path, how: read_list(path, unit=how.unit),
        "file",
        "CSV or TSV: path,label[,split][,caption]",
        (".csv", ".tsv"),
        read_list_images,
        uses=("unit",),
    ),
    "parquet": Reader(
        lambda path, how: read_parquet(path, unit=how.unit),
        "any",
        "Parquet with image and label, one file per split or one in all",
        (".parquet", ".pq"),
        read_parquet_images,
        uses=("unit",),
    ),
    "textlist": Reader(
        read_text_lists,
        "any",
        "'path label' per line: Places365-LT, iNaturalist 2018",
        (".txt",),
        read_text_images,
        uses=("images", "class_names"),
    ),
    "dota": Reader(
        read_dota,
        "any",
        "images + labelTxt, one chip per object: DOTA, HIT-UAV",
        (".zip",),
        uses=(*OF_OBJECTS, "version"),
    ),
    "voc": Reader(
        read_voc_chips, "folder", "Annotations/*.xml + JPEGImages, one chip per object", uses=OF_OBJECTS
    ),
    "fusrs": Reader(
        read_fusrs,
        "any",
        "FUSRS: five kinds of ships in SAR chips, folders or lists",
        uses=("images", "class_names"),
    ),
    "geotiff": Reader(
        _read_geotiffs,
        "any",
        "as folder or list, GeoTIFF chips of any bands (extra: geo)",
        uses=("unit", "bands", "max_missing"),
    ),
    "arrays": Reader(
        read_arrays,
        "any",
        "NumPy: .npz, or a folder with images.npy and labels.npy",
        (".npz",),
        read_array_images,
        uses=("class_names",),
    ),
    "hub": Reader(read_hub, "id", "Hugging Face data set by id or local folder (extra: hub)", uses=("unit",)),
}
"""Every reader by its name in ``data.format``."""

WITHOUT_LABELS = "a folder of images, one image, a list (.csv, .tsv, .txt), arrays (.npz, .npy) or Parquet"

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
    name = _detect(source) if format == "auto" else format
    reader, reading = READERS[name], reading or Reading()
    if not {"folder": source.is_dir(), "file": source.is_file()}.get(reader.takes, True):
        raise DataError(
            f"{source} is not a {'folder' if reader.takes == 'folder' else 'list file'}; check data.format"
        )
    refuse_unused(reading, reader.uses, source, f"the format {name}")
    chips = reader.read(source, reading)
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


def read_unlabeled(source: Path, *, geotiff: Reading | None = None) -> tuple[tuple[str, ...], Pixels]:
    """Return ids and lazily read pixels of a source that needs no label.

    - a folder: all images at any depth, sorted by path; names of folders mean nothing. Hidden entries and files without
      the suffix of an image are passed over, links that lead out of the folder are refused. A folder without folders
      that holds ``images.npy`` (``train_images.npy`` ...) is read as arrays, one with Parquet files as these;
    - an image, where ``.npy`` is one chip (``h w`` or ``h w b``) or, with four axes, a stack of them;
    - a list with the header ``path``, or a text list with one path per line;
    - ``.npz`` with ``images`` (or ``train_images`` ...), and Parquet with a column ``image``.

    Labels that a source holds are not read. Ids are paths below the folder, or rows.

    Args:
        source: Any of these.
        geotiff: Read image files as GeoTIFFs, with these bands and this rule for missing pixels.

    Raises:
        DataError: If ``source`` is missing, of another kind, damaged or holds no image.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist; give {WITHOUT_LABELS}")
    suffix = source.suffix.lower()
    if source.is_dir():
        kind = _kind_of_images(source)
    elif suffix == ".npy" and is_stack(source):
        kind = "arrays"
    else:
        kind = next((name for name, reader in READERS.items() if suffix in reader.suffixes), "")
    read = READERS[kind].images if kind else None
    if read is None and suffix not in IMAGE_SUFFIXES:
        advice = "; objects are cut out with: deblora detect chips" if suffix == ".zip" else ""
        raise DataError(f"{source} has no suffix of chips; give {WITHOUT_LABELS}{advice}")
    ids, pixels = read(source) if read is not None else ((source.name,), FilePixels((source,)))
    return ids, pixels if geotiff is None else _as_geotiffs(pixels, geotiff)


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
    if not folders and {path.name for path in visible} & {"images.npy", "train_images.npy"}:
        return "arrays"
    return "dota" if not folders and any(path.name == "train.zip" for path in visible) else "folder"


def _kind_of_images(source: Path) -> str:
    visible = [path for path in source.iterdir() if not path.name.startswith(".")]
    if not any(path.is_dir() for path in visible):
        if any(path.name in STACKS for path in visible):
            return "arrays"
        if any(path.suffix == ".parquet" for path in visible):
            return "parquet"
    return "folder"


@dataclass(frozen=True)
class OfKind:
    """Chips that must be of the kind that a model was trained on: other types of values mean other values.

    Attributes:
        base: The chips.
        names: What messages call them.
        types: Allowed types of values.
        n_bands: Allowed numbers of bands.
    """

    base: Pixels
    names: tuple[str, ...]
    types: tuple[str, ...]
    n_bands: frozenset[int]

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.base)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index``; raises a DataError if it cannot be read or is of another kind."""
        chip = self.base.read(index)
        advice = "convert the chips as the training chips were"
        if chip.dtype.name not in self.types:
            raise DataError(
                f"{self.names[index]}: pixels are {chip.dtype.name}, the model was trained on "
                f"{' or '.join(self.types)}; {advice}"
            )
        if chip.shape[2] not in self.n_bands:
            raise DataError(
                f"{self.names[index]}: {chip.shape[2]} bands, the model was trained on chips with "
                f"{' or '.join(map(str, sorted(self.n_bands)))}; {advice}"
            )
        return chip


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
        rest = len(absent) - _N_NAMED
        named = ", ".join(absent[:_N_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        raise DataError(
            f"no training chip for {len(absent)} of {chips.n_classes} classes: {named}; add chips "
            "or leave the classes out with data.ignore"
        )
