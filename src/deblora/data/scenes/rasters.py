"""Rasters: scenes read window by window, GeoTIFF chips, and the rule by which a chip is cut around an object."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Shaped

from deblora.data.chips import as_chip
from deblora.data.decode import decode_chip, picture_size
from deblora.data.sources import CropShape
from deblora.errors import DataError

GEO_SUFFIXES = frozenset({".tif", ".tiff", ".jp2"})
RASTER_DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Formats that rasterio may open, by content; some of the others read any file or address that the raster names."""
LARGEST_CHIP = 80_000_000  # pixels times bands; more is a scene
LARGEST_IN_MEMORY = 80_000_000  # pixels; below the size from which Pillow warns
_SAMPLE = 1 << 20


class Scene(Protocol):
    """An image that gives windows of pixels, and its size in pixels."""

    height: int
    width: int

    @property
    def digest(self) -> str:
        """Hash that changes when the content does."""

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene."""

    def read_masked(self, x: int, y: int, width: int, height: int) -> "Masked":
        """Return a window with its missing pixels."""

    def is_empty(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether a window holds nothing but pixels declared as missing."""


Masked = tuple[Shaped[np.ndarray, "h w b"], Bool[np.ndarray, "h w b"]]
"""Values as uint8, uint16 or float32, and which of them are there: neither nodata, masked, NaN nor infinite."""


class ArrayScene:
    """A scene in memory."""

    def __init__(self, pixels: Shaped[np.ndarray, "h w b"], *, digest: str = "") -> None:
        self.pixels, self._digest = pixels, digest
        self.height, self.width = pixels.shape[:2]

    @property
    def digest(self) -> str:
        """Hash of the file, or of the pixels."""
        return self._digest or hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene."""
        return self.pixels[y : y + height, x : x + width]

    def read_masked(self, x: int, y: int, width: int, height: int) -> Masked:
        """Return a window with its missing pixels, which are NaN or infinite."""
        values = self.read(x, y, width, height)
        return values, np.isfinite(values)

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
        self._path, self._file = path, open_raster(path)
        self.height, self.width = int(self._file.height), int(self._file.width)
        self.crs, self.transform = self._file.crs, self._file.transform

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
            pixels = self._file.read(_color_bands(self._file), window=Window(x, y, width, height))
        except RasterioError as error:
            raise DataError(f"{self._path}: the window at {x}, {y} cannot be read ({error})") from error
        if self._file.nodata is not None and np.issubdtype(pixels.dtype, np.floating):
            pixels[pixels == pixels.dtype.type(self._file.nodata)] = np.nan
        return np.ascontiguousarray(np.moveaxis(pixels, 0, 2))

    def read_masked(self, x: int, y: int, width: int, height: int) -> Masked:
        """Return a window with its missing pixels, as GeoTIFF chips are read; alpha is dropped."""
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        try:
            return _read_masked(self._file, self._path, _color_bands(self._file), Window(x, y, width, height))
        except RasterioError as error:
            raise DataError(f"{self._path}: the window at {x}, {y} cannot be read ({error})") from error

    def is_empty(self, x: int, y: int, width: int, height: int) -> bool:
        """Tell whether the mask of the file (nodata or alpha) covers the whole window."""
        from rasterio.windows import Window

        if self._file.nodata is None and len(_color_bands(self._file)) == self._file.count:
            return False
        return not self._file.dataset_mask(window=Window(x, y, width, height)).any()


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
        self.height, self.width = scene.height, scene.width
        self.crs, self.transform = getattr(scene, "crs", None), getattr(scene, "transform", None)

    @property
    def digest(self) -> str:
        """Hash of the scene and of the choice of bands."""
        return hashlib.sha256(f"{self._scene.digest} {self._bands}".encode()).hexdigest()

    def read(self, x: int, y: int, width: int, height: int) -> Shaped[np.ndarray, "h w b"]:
        """Return a window that lies inside the scene."""
        return self._scene.read(x, y, width, height)[..., self._bands]

    def read_masked(self, x: int, y: int, width: int, height: int) -> Masked:
        """Return a window of the bands with its missing pixels."""
        values, valid = self._scene.read_masked(x, y, width, height)
        return values[..., self._bands], valid[..., self._bands]

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
    try:
        with path.open("rb") as file:
            width, height = picture_size(file) or (0, 0)  # decoding will say what is wrong with it
    except DataError:
        return RasterScene(path)
    if width * height > LARGEST_IN_MEMORY:
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


def open_raster(path: Path) -> Any:
    """Open a file with rasterio, of one of :data:`RASTER_DRIVERS` by its content.

    Raises:
        DataError: If it is none, or rasterio is not installed.
    """
    rasterio = import_rasterio(path)
    if not path.is_file():  # a pipe with the name of an image would block the run
        raise DataError(f"{path}: not a readable file; restore it or leave the chip out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture without georeference is no fault here
            with rasterio.Env():
                return rasterio.DatasetReader(str(path), driver=list(RASTER_DRIVERS))
    except rasterio.errors.RasterioError as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path}: unreadable raster ({reason}); restore it or leave it out") from error


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


# --- chips ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeoTiffPixels:
    """One GeoTIFF per chip, opened when it is read.

    An alpha band is dropped. Pixels that the file declares as missing (nodata, mask or NaN) get their band's mean over
    the pixels that are there; a chip with more than ``max_missing`` of them is refused. 8- and 16-bit unsigned values
    stay; other types become float32.

    Attributes:
        paths: The files.
        bands: Bands to keep, counted from 1; empty keeps all but alpha.
        max_missing: Share of missing pixels beyond which a chip is refused, 0 to 1.
    """

    paths: tuple[Path, ...]
    bands: tuple[int, ...]
    max_missing: float

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def read(self, index: int) -> Shaped[np.ndarray, "h w b"]:
        """Return the chip of file ``index``."""
        path = self.paths[index]
        values, valid = _read_chip(path, self.bands)
        missing = 1.0 - float(valid.mean())
        if missing > self.max_missing or not valid.any(axis=(0, 1)).all():
            raise DataError(
                f"{path}: {100 * missing:.1f} % of the pixels are missing (nodata), allowed are "
                f"{100 * self.max_missing:g} % (data.max_missing), and each band needs a pixel; leave the chip out"
            )
        return as_chip(fill_missing(values, valid) if missing else values, str(path))


def fill_missing(
    values: Shaped[np.ndarray, "h w b"], valid: Bool[np.ndarray, "h w b"]
) -> Shaped[np.ndarray, "h w b"]:
    """Return values in which each missing pixel has the mean of its band over valid pixels (rounded for integers)."""
    counts = valid.sum(axis=(0, 1))
    sums: Float[np.ndarray, " b"] = np.where(valid, values, 0).sum(axis=(0, 1), dtype=np.float64)
    means = sums / counts
    if np.issubdtype(values.dtype, np.integer):
        means = np.floor(means + 0.5)
    return np.where(valid, values, means.astype(values.dtype))


def _read_masked(file: Any, path: Path, bands: list[int], window: Any = None) -> Masked:
    values = np.ascontiguousarray(np.moveaxis(file.read(bands, window=window), 0, 2))
    valid = np.moveaxis(file.read_masks(bands, window=window), 0, 2) > 0
    if np.issubdtype(values.dtype, np.complexfloating):
        raise DataError(f"{path}: complex values; store amplitude or intensity")
    if values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.float32)
        valid = valid & np.isfinite(values)
    return values, valid


def _read_chip(path: Path, bands: tuple[int, ...]) -> Masked:
    """Return values and validity, bands last."""
    from rasterio.errors import RasterioError

    try:
        with open_raster(path) as file:
            beyond = [band for band in bands if band > file.count]
            if beyond:
                raise DataError(f"{path}: no band {beyond[0]} (data.bands); the file has {file.count}")
            chosen = list(bands) or _color_bands(file)
            if file.width * file.height * len(chosen) > LARGEST_CHIP:
                raise DataError(
                    f"{path}: {file.width} x {file.height} pixels in {len(chosen)} bands are too many for a chip; "
                    "give deblora predict --tile with the side of the training chips, or cut the scene into chips"
                )
            return _read_masked(file, path, chosen)
    except RasterioError as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path}: unreadable GeoTIFF ({reason}); restore it or leave the chip out") from error


def _color_bands(file: Any) -> list[int]:
    """Return the bands of a raster but alpha, counted from 1."""
    return [i + 1 for i, item in enumerate(file.colorinterp) if item.name != "alpha"]


Window = tuple[int, int, int, int]
SMALLEST_SQUARE = 8  # pixels, ours


def crop_window(quad: Float[np.ndarray, "4 2"], *, context: float, shape: CropShape) -> Window:
    """Return the window to cut around an object: x, y, width, height in pixels; it may leave the image.

    "hull": from ``floor(min)`` to ``ceil(max)`` of the vertices, both scaled by ``context`` about the middle.
    "square": ``context`` times the longer upright side, at least 8 pixels, with the object in the middle.

    Args:
        quad: Vertices in pixels, y down; pixel ``i`` covers ``i`` to ``i + 1``.
        context: Side of the window over that of the hull, >= 1.
        shape: What is cut.
    """
    low, high = quad.min(axis=0), quad.max(axis=0)
    if shape == "square":
        side = max(SMALLEST_SQUARE, round(float((high - low).max()) * context))
        x, y = (round(float(value)) for value in (low + high) / 2 - side / 2)
        return x, y, side, side
    margin = (high - low) * (context - 1) / 2
    x, y = (int(value) for value in np.floor(low - margin))
    right, bottom = (int(value) for value in np.ceil(high + margin))
    return x, y, right - x, bottom - y


def visible(window: Window, width: int, height: int) -> Window:
    """Return the part of a window inside an image; width or height are 0 where nothing is."""
    x, y, across, down = window
    left, top = min(max(x, 0), width), min(max(y, 0), height)
    right, bottom = min(max(x + across, left), width), min(max(y + down, top), height)
    return left, top, right - left, bottom - top


def crop(
    scene: Scene, quad: Float[np.ndarray, "4 2"], *, context: float, shape: CropShape = "square"
) -> Shaped[np.ndarray, "h w b"]:
    """Cut an object out of its scene; see :func:`crop_window`.

    A hull is clipped to the image. A square is filled with the border pixels of the image beyond it, so that the
    object stays in the middle.
    """
    x, y, across, down = crop_window(quad, context=context, shape=shape)
    left, top, width, height = visible((x, y, across, down), scene.width, scene.height)
    # An object outside the image still gives a pixel of its border; readers have left such objects out before.
    width, height = max(width, 1), max(height, 1)
    left, top = min(left, scene.width - 1), min(top, scene.height - 1)
    pixels = scene.read(left, top, width, height)
    if shape == "hull":
        return pixels
    before = (max(0, top - y), max(0, left - x))
    after = (max(0, down - before[0] - pixels.shape[0]), max(0, across - before[1] - pixels.shape[1]))
    return np.pad(pixels, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode="edge")
