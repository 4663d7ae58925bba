"""Chips without labels: every image below a folder, for prediction."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import Pixels
from deblora.data.decode import IMAGE_SUFFIXES, FilePixels
from deblora.data.geotiff_reader import GeoTiffPixels
from deblora.data.reading import Reading
from deblora.errors import DataError


@dataclass(frozen=True)
class OfTypes:
    """Chips that must have the pixel types that a model was trained on: other types mean other values."""

    base: Pixels
    names: tuple[str, ...]
    types: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.base)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return chip ``index``.

        Raises:
            DataError: If it cannot be read or has another type.
        """
        chip = self.base.read(index)
        if chip.dtype.name not in self.types:
            raise DataError(
                f"{self.names[index]}: pixels are {chip.dtype.name}, the model was trained on "
                f"{' or '.join(self.types)}; convert the chips as the training chips were"
            )
        return chip


def read_unlabeled(source: Path, *, geotiff: Reading | None = None) -> tuple[tuple[str, ...], Pixels]:
    """Return ids and lazily read pixels of an image, or of all images below a folder, sorted by path.

    Names of folders mean nothing here: no label can come in. Hidden entries and files without the suffix of an image
    are passed over; links that lead out of the folder are refused. Ids are paths below ``source``. With ``geotiff``
    every image is read as a GeoTIFF, with these bands and this rule for missing pixels.

    Raises:
        DataError: If ``source`` is missing or holds no image.
    """
    if source.is_file():
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{source} has no suffix of an image; give a folder of images, or one image")
        return (source.name,), _pixels((source,), geotiff)
    if not source.is_dir():
        raise DataError(f"{source} does not exist; give a folder of images, or one image")
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
