"""Decode one chip from its bytes, judged by content and never by file name; what decoding all of them shows."""

import hashlib
import io
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from deblora.data.chips import ChipSet, Pixels, as_chip
from deblora.data.near_copies import Copies, near_copies, thumbnail
from deblora.errors import DataError
from deblora.progress import no_bar, titled

PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
"""Formats of Pillow that may be opened; some of the others start outside programs or read other files."""

NPY_MAGIC = b"\x93NUMPY"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ARRAY_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, MemoryError, OverflowError),
    *(tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError),
)
"""What reading a damaged or hostile array file may raise."""

_BAR_FROM = 2000  # chips

MOST_DEEP_PIXELS = 89_478_485
"""Pillow's own limit for pictures."""


class FilePixels:
    """One image or ``.npy`` file per chip, opened when it is read."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return the chip of file ``index``."""
        path = self.paths[index]
        # A pipe or a device with the name of an image would block the run.
        if not path.is_file():
            raise DataError(f"{path}: not a readable file; restore it or leave the chip out")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        return decode_chip(content, str(path))


def open_picture(file: IO[bytes]) -> Any:
    """Open a picture with Pillow, of one of :data:`PICTURE_FORMATS` by its content; pixels are not decoded yet."""
    from PIL import Image

    return Image.open(file, formats=PICTURE_FORMATS)


def picture_size(file: IO[bytes]) -> tuple[int, int] | None:
    """Return width and height from the header of a picture, without decoding it; None where it has none to read.

    Raises:
        DataError: If it has more pixels than may be decoded at once.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(file) as image:
                return int(image.width), int(image.height)
    except Image.DecompressionBombError as error:
        raise DataError(f"too many pixels ({error})") from error
    except (OSError, ValueError, SyntaxError):
        return None


def decode_chip(content: bytes, name: str) -> Shaped[np.ndarray, "h w b"]:
    """Decode a picture of :data:`PICTURE_FORMATS`, or a NumPy array file.

    Gray stays one band (8 or 16 bits, or float32), palettes and other color spaces become RGB, alpha is
    dropped and of several frames the first is taken. Orientation tags are ignored: they describe cameras, not
    scenes.

    Args:
        content: The whole file.
        name: What the messages call the chip.

    Raises:
        DataError: If the content is empty, damaged, of another format, or too large to be a chip.
    """
    if not content:
        raise DataError(f"{name}: the image is empty (0 bytes); restore it or leave the chip out")
    if not content.startswith(NPY_MAGIC):
        return as_chip(_decode_picture(content, name), name)
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ARRAY_DAMAGE as error:
        raise DataError(f"{name}: unreadable array ({error}); save it again with numpy.save") from error
    return as_chip(np.asarray(array), name)


def _decode_picture(content: bytes, name: str) -> np.ndarray:
    """Decode with Pillow and turn each of its complaints into one error."""
    from PIL import Image

    if content[12:16] == b"IHDR" and content[24:25] == b"\x10" and content[25:26] in (b"\2", b"\4", b"\6"):
        return _deep_png(content, name)
    damage = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_picture(io.BytesIO(content)) as image:
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


def _deep_png(content: bytes, name: str) -> np.ndarray:
    """Decode a PNG of 16 bits in several bands, of which Pillow would cut off eight."""
    try:
        from rasterio.errors import RasterioError
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise DataError(
            f"{name}: a PNG with 16 bits in several bands is read by rasterio; install deblora[geo], or save the chip "
            "as .npy"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with MemoryFile(content, ext=".png") as file, file.open(driver="PNG") as picture:
                if picture.width * picture.height > MOST_DEEP_PIXELS:
                    raise DataError(f"{name}: too many pixels for a chip; cut the scene into chips")
                return np.asarray(picture.read(range(1, min(3, picture.count) + 1)).transpose(1, 2, 0))
    except RasterioError as error:
        raise DataError(f"{name}: unreadable image ({error}); restore it or leave the chip out") from error


def _bands(image: Any, name: str) -> np.ndarray:
    """Return the bands of a loaded Pillow image; see :func:`decode_chip`."""
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


@dataclass(frozen=True)
class Contents:
    """What decoding every chip once has shown.

    Attributes:
        sha256: Hash of ids, splits, shapes, types and pixels of the readable chips.
        bands: Number of bands to the first chip that has it.
        types: Type of the values to the first chip that has it.
        lowest: Least value of all.
        highest: Greatest value of all.
        unreadable: Position to reason, for chips that cannot be read.
        beyond: Share of all values beyond black or white, in [0, 1].
        far_beyond: The same by more than a tenth of the range.
        alike: Mean cosine of the thumbnails of two chips, in [-1, 1]: near 1 all chips look alike.
        copies: Chips that stand in the set twice.
    """

    sha256: str
    bands: dict[str, str]
    types: dict[str, str]
    lowest: float
    highest: float
    unreadable: dict[int, str]
    beyond: float
    far_beyond: float
    alike: float
    copies: Copies


def content_hash(pixels: Shaped[np.ndarray, "h w b"]) -> str:
    """Return a hash of shape and pixels, the same for exact copies under any name."""
    own = np.ascontiguousarray(pixels)
    return hashlib.blake2b(own.data, digest_size=16, key=str(own.shape).encode()).hexdigest()


def read_contents(chips: ChipSet, *, black: float = 0.0, white: float = 255.0) -> Contents:
    """Decode every chip once, one at a time.

    Args:
        chips: Labeled chips.
        black: Value that counts as black.
        white: Value that counts as white.
    """
    digest = hashlib.sha256()
    unreadable: dict[int, str] = {}
    bands: dict[str, str] = {}
    types: dict[str, str] = {}
    seen: list[Float[np.ndarray, "16 16"] | None] = [None] * len(chips)
    lowest, highest, n_values, n_beyond = np.inf, -np.inf, 0, np.zeros(2)
    for i, chip_id in enumerate(
        tqdm(chips.ids, desc=titled("audit"), unit="chip", disable=no_bar(short=len(chips) < _BAR_FROM))
    ):
        try:
            pixels = np.ascontiguousarray(chips.pixels.read(i))
        except DataError as error:
            unreadable[i] = str(error)
            continue
        digest.update(f"{chip_id}\0{chips.splits[i]}\0{pixels.shape}{pixels.dtype}".encode())
        digest.update(pixels.data)
        seen[i] = thumbnail(pixels, span=white - black)
        bands.setdefault(str(pixels.shape[2]), chip_id)
        types.setdefault(pixels.dtype.name, chip_id)
        least, most = float(pixels.min()), float(pixels.max())
        lowest, highest, n_values = min(lowest, least), max(highest, most), n_values + pixels.size
        for kind, margin in enumerate((0.0, 0.1 * (white - black))):
            if least < black - margin or most > white + margin:
                n_beyond[kind] += int(((pixels < black - margin) | (pixels > white + margin)).sum())
    beyond, far_beyond = (n_beyond / max(1, n_values)).tolist()
    return Contents(
        digest.hexdigest(),
        bands,
        types,
        lowest,
        highest,
        unreadable,
        beyond,
        far_beyond,
        _alike([one for one in seen if one is not None]),
        near_copies(seen, chips.labels.tolist(), chips.splits, rng=np.random.default_rng(0)),
    )


def _alike(seen: list[Float[np.ndarray, "16 16"]]) -> float:
    """Return the mean cosine of two different thumbnails."""
    n = len(seen)
    if n < 2:
        return 0.0
    total = float(np.square(np.sum(seen, axis=0, dtype=np.float64)).sum())
    return (total - n) / (n * (n - 1))


def unreadable(pixels: Pixels) -> dict[int, str]:
    """Decode every chip once and return the reason by position for those that cannot be read."""
    reasons: dict[int, str] = {}
    for index in range(len(pixels)):
        try:
            pixels.read(index)
        except DataError as error:
            reasons[index] = str(error)
    return reasons
