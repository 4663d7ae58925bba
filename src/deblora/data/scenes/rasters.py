"""Scenes read window by window: whole images through Pillow, large or georeferenced ones through rasterio."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from jaxtyping import Shaped

from deblora.data.decode import decode_chip
from deblora.errors import DataError

GEO_SUFFIXES = frozenset({".tif", ".tiff", ".vrt", ".jp2"})
LARGEST_IN_MEMORY = 80_000_000  # pixels; below the size from which Pillow warns
_SAMPLE = 1 << 20


class Scene(Protocol):
    """An image that gives windows of pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def digest(self) -> str:
        """Hash that changes when the content does."""

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene."""

    def is_empty(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether a window holds nothing but pixels declared as missing."""


class ArrayScene:
    """A scene in memory."""

    def __init__(self, pixels: Shaped[np.ndarray, "h w b"], *, digest: str = "") -> None:
        self.pixels, self._digest = pixels, digest

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[1])

    @property
    def digest(self) -> str:
        """Hash of the file, or of the pixels."""
        return self._digest or hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene."""
        return self.pixels[y : y + height, x : x + width]

    def is_empty(self, x: int, y: int, width: int, height: int) -> bool:  # noqa: ARG002
        """Return False: pictures declare no missing pixels."""
        return False


class RasterScene:
    """A scene that rasterio reads from disk; georeferenced where the file is.

    Attributes:
        crs: Coordinate reference system as rasterio gives it, or ``None``.
        transform: Affine map from pixels (column, row) to coordinates.
    """

    def __init__(self, path: Path) -> None:
        rasterio = import_rasterio(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a picture without georeference is no fault here
                self._file: Any = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise DataError(f"{path} cannot be opened as a raster: {error}") from error
        self._path = path
        self.crs, self.transform = self._file.crs, self._file.transform

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self._file.height)

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self._file.width)

    @property
    def digest(self) -> str:
        """Hash of the size of the file and of its first and last megabyte: the whole may be gigabytes."""
        size = self._path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with self._path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
        return digest.hexdigest()

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene; alpha is dropped, declared gaps in real numbers become NaN."""
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        try:
            pixels = self._file.read(self._color_bands(), window=Window(x, y, width, height))
        except RasterioError as error:
            raise DataError(f"{self._path}: the window at {x}, {y} cannot be read ({error})") from error
        if self._file.nodata is not None and np.issubdtype(pixels.dtype, np.floating):
            pixels[pixels == pixels.dtype.type(self._file.nodata)] = np.nan
        return np.ascontiguousarray(np.moveaxis(pixels, 0, 2))

    def is_empty(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether the mask of the file (nodata or alpha) covers the whole window."""
        from rasterio.windows import Window

        if self._file.nodata is None and "alpha" not in self._names():
            return False
        return not self._file.dataset_mask(window=Window(x, y, width, height)).any()

    def _names(self) -> list[str]:
        return [item.name for item in self._file.colorinterp]

    def _color_bands(self) -> list[int]:
        return [i + 1 for i, name in enumerate(self._names()) if name != "alpha"]


class BandScene:
    """Some bands of a scene, in the order asked for; georeferenced if the scene is.

    Args:
        scene: With at least the bands named.
        bands: Counted from 1, as GIS programs do.
        name: Of the scene, for messages.

    Raises:
        DataError: If the scene lacks a band.
    """

    def __init__(self, scene: Scene, bands: Sequence[int], *, name: str) -> None:
        n_bands = scene.read(0, 0, 1, 1).shape[2]
        wrong = [band for band in bands if not 1 <= band <= n_bands]
        if wrong or not bands:
            raise DataError(
                f"{name} has bands 1 to {n_bands}, but {list(bands)} were asked for; change --bands"
            )
        self._scene, self._bands = scene, [band - 1 for band in bands]
        self.crs, self.transform = getattr(scene, "crs", None), getattr(scene, "transform", None)

    @property
    def height(self) -> int:
        """Pixels."""
        return self._scene.height

    @property
    def width(self) -> int:
        """Pixels."""
        return self._scene.width

    @property
    def digest(self) -> str:
        """Hash of the scene and of the choice of bands."""
        return hashlib.sha256(f"{self._scene.digest} {self._bands}".encode()).hexdigest()

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene."""
        return self._scene.read(x, y, width, height)[..., self._bands]

    def is_empty(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether a window of the scene holds nothing."""
        return self._scene.is_empty(x, y, width, height)


def open_scene(path: Path) -> Scene:
    """Open an image file; large and georeferenced ones are not read as a whole.

    TIFF and the like go through rasterio where it is installed, other pictures through Pillow.

    Raises:
        DataError: If the file is damaged, or too large to be read without rasterio.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; name an image file")
    if path.suffix.lower() in GEO_SUFFIXES and has_rasterio():
        return RasterScene(path)
    if path.suffix.lower() != ".npy" and _n_pixels(path) > LARGEST_IN_MEMORY:
        return RasterScene(path)
    return scene_from_bytes(path.read_bytes(), str(path))


def scene_from_bytes(content: bytes, name: str) -> ArrayScene:
    """Decode a whole image.

    Raises:
        DataError: If it is damaged or too large.
    """
    return ArrayScene(decode_chip(content, name), digest=hashlib.sha256(content).hexdigest())


def has_rasterio() -> bool:
    """Tell whether the optional dependency is there."""
    from importlib.util import find_spec

    return find_spec("rasterio") is not None


def image_size(file: IO[bytes]) -> tuple[int, int] | None:
    """Return width and height from the header of an image, without decoding it; None where it has none to read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return int(image.width), int(image.height)
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None


def _n_pixels(path: Path) -> int:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(path.read_bytes()[:_SAMPLE])) as image:
                return int(image.width) * int(image.height)
    except Image.DecompressionBombError:
        return LARGEST_IN_MEMORY + 1
    except (OSError, ValueError, SyntaxError):
        return 0  # decoding will say what is wrong with it


def import_rasterio(path: Path) -> Any:
    """Return the module, or raise a DataError that says how to install it; ``path`` is what needs it."""
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise DataError(
            f"{path} needs rasterio (a GeoTIFF, or too large to be read at once); install deblora[geo], "
            "or cut the scene into pictures"
        ) from error
    return rasterio
