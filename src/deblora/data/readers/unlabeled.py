"""Chips without labels, for prediction: every source that needs none, and what of it can be read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import Pixels
from deblora.data.decode import IMAGE_SUFFIXES, FilePixels
from deblora.data.readers.arrays import is_stack, read_array_images
from deblora.data.readers.csv_list import read_paths
from deblora.data.readers.geotiff import GeoTiffPixels
from deblora.data.readers.parquet import read_parquet_images
from deblora.data.readers.reading import Reading
from deblora.data.readers.text_list import read_text_paths
from deblora.errors import DataError

TABLES = (".parquet", ".pq")
LISTS = (".csv", ".tsv")
STACKS = ("images.npy", *(f"{split}_images.npy" for split in ("train", "val", "test")))
SOURCES = "a folder of images, one image, a list (.csv, .tsv, .txt), arrays (.npz, .npy) or Parquet"


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
        """Return chip ``index``.

        Raises:
            DataError: If it cannot be read or is of another kind.
        """
        chip = self.base.read(index)
        if chip.dtype.name not in self.types:
            raise DataError(
                f"{self.names[index]}: pixels are {chip.dtype.name}, the model was trained on "
                f"{' or '.join(self.types)}; convert the chips as the training chips were"
            )
        if chip.shape[2] not in self.n_bands:
            raise DataError(
                f"{self.names[index]}: {chip.shape[2]} bands, the model was trained on chips with "
                f"{' or '.join(map(str, sorted(self.n_bands)))}; convert the chips as the training chips were"
            )
        return chip


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
        raise DataError(f"{source} does not exist; give {SOURCES}")
    return _from_folder(source, geotiff) if source.is_dir() else _from_file(source, geotiff)


def unreadable(pixels: Pixels) -> dict[int, str]:
    """Decode every chip once and return the reason by position for those that cannot be read."""
    reasons: dict[int, str] = {}
    for index in range(len(pixels)):
        try:
            pixels.read(index)
        except DataError as error:
            reasons[index] = str(error)
    return reasons


def _from_file(source: Path, geotiff: Reading | None) -> tuple[tuple[str, ...], Pixels]:
    suffix = source.suffix.lower()
    if suffix in TABLES:
        return read_parquet_images(source)
    if suffix == ".npz" or (suffix == ".npy" and is_stack(source)):
        return read_array_images(source)
    if suffix in LISTS or suffix == ".txt":
        ids, files = read_paths(source) if suffix in LISTS else read_text_paths(source)
        return ids, _pixels(files, geotiff)
    if suffix in IMAGE_SUFFIXES:
        return (source.name,), _pixels((source,), geotiff)
    advice = "; objects are cut out with: deblora detect chips" if suffix == ".zip" else ""
    raise DataError(f"{source} has no suffix of chips; give {SOURCES}{advice}")


def _from_folder(source: Path, geotiff: Reading | None) -> tuple[tuple[str, ...], Pixels]:
    visible = [path for path in source.iterdir() if not path.name.startswith(".")]
    if not any(path.is_dir() for path in visible):
        if any(path.name in STACKS for path in visible):
            return read_array_images(source)
        if any(path.suffix == ".parquet" for path in visible):
            return read_parquet_images(source)
    home = source.resolve()
    found: list[Path] = []
    for path in sorted(source.rglob("*")):
        below = path.relative_to(source)
        if any(part.startswith(".") for part in below.parts) or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.is_dir():
            continue
        if not path.resolve().is_relative_to(home):
            raise DataError(f"{path}: a link that leads out of {source}; copy the chip into the folder")
        found.append(path)
    if not found:
        raise DataError(f"{source}: no images; expected {', '.join(sorted(IMAGE_SUFFIXES))}")
    return tuple(path.relative_to(source).as_posix() for path in found), _pixels(tuple(found), geotiff)


def _pixels(paths: tuple[Path, ...], geotiff: Reading | None) -> Pixels:
    if geotiff is None:
        return FilePixels(paths)
    return GeoTiffPixels(paths, bands=geotiff.bands, max_missing=geotiff.max_missing)
