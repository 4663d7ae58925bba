"""Decode one chip from its bytes, judged by content and never by file name."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deblora.data.chips import as_chip
from deblora.errors import DataError

NPY_MAGIC = b"\x93NUMPY"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".npy"})
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FilePixels:
    """One file per chip, opened when it is read.

    Args:
        paths: One image or ``.npy`` file per chip.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, one per chip."""
        return self._paths

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return the chip of file ``index``."""
        path = self._paths[index]
        # A pipe or a device with the name of an image would block the run.
        if not path.is_file():
            raise DataError(f"{path}: not a readable file; restore it or leave the chip out")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        return decode_chip(content, str(path))


def decode_chip(content: bytes, name: str) -> Shaped[np.ndarray, "h w b"]:
    """Decode an image that Pillow knows, or a NumPy array file.

    Gray stays one band (8 or 16 bits, or float32), palettes and other color spaces become RGB, alpha is
    dropped and of several frames the first is taken. Orientation tags are ignored: they describe cameras, not
    scenes.

    Args:
        content: The whole file.
        name: What the messages call the chip.

    Raises:
        DataError: If the content is empty, damaged, of no known kind or too large to be a chip.
    """
    if not content:
        raise DataError(f"{name}: the image is empty (0 bytes); restore it or leave the chip out")
    array = _decode_npy(content, name) if content.startswith(NPY_MAGIC) else _decode_image(content, name)
    return as_chip(array, name)


def _decode_npy(content: bytes, name: str) -> np.ndarray:
    """Load an array without ever unpickling."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, TypeError, SyntaxError) as error:
        raise DataError(f"{name}: unreadable array ({error}); save it again with numpy.save") from error
    return np.asarray(array)


def _decode_image(content: bytes, name: str) -> np.ndarray:
    """Decode with Pillow and turn each of its complaints into one error."""
    import struct
    import zlib

    from PIL import Image

    damage = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return _bands(image, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: too many pixels for a chip ({error}); cut the scene into chips") from error
    except damage as error:
        reason = re.sub(r" <[^>]*>", "", str(error).replace("\n", " "))
        advice = "restore it or leave the chip out"
        if content[:4] in TIFF_MAGIC:
            advice += ", or read GeoTIFFs with data.format: geotiff"
        raise DataError(f"{name}: unreadable image ({reason}); {advice}") from error
    except MemoryError as error:
        raise DataError(f"{name}: the image does not fit in memory; cut the scene into chips") from error


def _bands(image: object, name: str) -> np.ndarray:
    """Return the bands of a loaded Pillow image; see :func:`decode_chip`."""
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ValueError(f"image must be a Pillow image, got {type(image).__name__}")
    mode = str(image.mode)
    if mode in ("L", "RGB", "F"):
        return np.array(image)
    if mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)
    if mode == "I":
        values = np.array(image)
        if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{name}: 32-bit pixels beyond 0 to 65535; save the chip as float32 .npy")
        return values.astype(np.uint16)
    if mode in ("1", "LA", "La"):
        return np.array(image.convert("L"))
    # Palettes with transparency convert cleanly only by way of RGBA.
    source = image.convert("RGBA") if mode in ("P", "PA") else image
    return np.array(source.convert("RGB"))


def class_indices(
    values: list[str], source: str, *, places: Sequence[str] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """Name the classes of free labels: sorted by name, or by value when all of them are integers.

    Args:
        values: One label per chip, none empty.
        source: What the messages call the list.
        places: File and line of each label, where labels have one; messages then name it instead.

    Returns:
        Class names and the class index of each chip.

    Raises:
        DataError: If an integer label is negative, the usual sign of a chip without a label, or written in two ways.
    """

    def where(label: str) -> str:
        return places[values.index(label)] if places else source

    names = set(values)
    if all(name.lstrip("-").isascii() and name.lstrip("-").isdigit() for name in names):
        negative = next((name for name in values if name.startswith("-")), None)
        if negative is not None:
            raise DataError(
                f"{where(negative)}: negative labels ({negative}); leave chips without a label out"
            )
        spelled: dict[int, str] = {}
        for name in dict.fromkeys(values):
            if spelled.setdefault(int(name), name) != name:
                raise DataError(
                    f"{where(name)}: the label {name} is also written {spelled[int(name)]}; write it in one way"
                )
        ordered = tuple(sorted(names, key=int))
    else:
        ordered = tuple(sorted(names))
    position = {name: i for i, name in enumerate(ordered)}
    return ordered, np.array([position[value] for value in values], dtype=np.int64)
