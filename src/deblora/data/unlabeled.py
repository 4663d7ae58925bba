"""Chips without labels: every image below a folder, for prediction."""

from pathlib import Path

from deblora.data.chips import Pixels
from deblora.data.decode import IMAGE_SUFFIXES, FilePixels
from deblora.errors import DataError


def read_unlabeled(source: Path) -> tuple[tuple[str, ...], Pixels]:
    """Return ids and lazily read pixels of an image, or of all images below a folder, sorted by path.

    Names of folders mean nothing here: no label can come in. Hidden entries and files without the suffix of an image
    are passed over; links that lead out of the folder are refused. Ids are paths below ``source``.

    Raises:
        DataError: If ``source`` is missing or holds no image.
    """
    if source.is_file():
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{source} has no suffix of an image; give a folder of images, or one image")
        return (source.name,), FilePixels((source,))
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
    return tuple(path.relative_to(source).as_posix() for path in found), FilePixels(tuple(found))
