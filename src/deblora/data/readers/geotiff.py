"""GeoTIFF chips with any number of bands, through rasterio; missing pixels are filled or refused."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from deblora.data.chips import ChipSet, as_chip
from deblora.data.decode import FilePixels
from deblora.data.readers.csv_list import read_list
from deblora.data.readers.folder import read_folder
from deblora.data.readers.reading import Reading
from deblora.data.scenes.rasters import import_rasterio
from deblora.errors import DataError

LARGEST_CHIP = 80_000_000  # pixels times bands; more is a scene


def read_geotiffs(source: Path, reading: Reading) -> ChipSet:
    """Read folders per class, or a CSV or TSV list, whose chips are GeoTIFFs.

    Ids, labels and splits are as in :mod:`.folder` and :mod:`.csv_list`. An alpha
    band is dropped. Pixels that the file declares as missing (nodata, mask or NaN) get their band's mean over the
    pixels that are there; a chip with more than ``reading.max_missing`` of them is refused. 8- and 16-bit unsigned
    values stay; other types become float32.

    Raises:
        DataError: If rasterio is not installed, or as those readers.
    """
    import_rasterio(source)
    base = read_list(source, unit=reading.unit) if source.is_file() else read_folder(source)
    if not isinstance(base.pixels, FilePixels):
        raise ValueError("readers of files must return FilePixels")
    return replace(base, pixels=GeoTiffPixels(base.pixels.paths, reading.bands, reading.max_missing))


@dataclass(frozen=True)
class GeoTiffPixels:
    """One GeoTIFF per chip, opened when it is read.

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
        values, valid = _read(path, self.bands)
        if np.issubdtype(values.dtype, np.complexfloating):
            raise DataError(f"{path}: complex values; store amplitude or intensity")
        if values.dtype not in (np.uint8, np.uint16):
            values = values.astype(np.float32)
            valid = valid & np.isfinite(values)
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


def _read(path: Path, bands: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return values and validity, bands last."""
    rasterio = import_rasterio(path)
    if not path.is_file():  # a pipe with the name of an image would block the run
        raise DataError(f"{path}: not a readable file; restore it or leave the chip out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a chip without georeference is no fault here
            with rasterio.open(path) as file:
                chosen = _chosen(path, file, bands)
                if file.width * file.height * len(chosen) > LARGEST_CHIP:
                    raise DataError(
                        f"{path}: {file.width} x {file.height} pixels in {len(chosen)} bands are too many for a chip; "
                        "cut the scene into chips"
                    )
                values, masks = file.read(chosen), file.read_masks(chosen)
    except rasterio.errors.RasterioError as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path}: unreadable GeoTIFF ({reason}); restore it or leave the chip out") from error
    return np.ascontiguousarray(np.moveaxis(values, 0, 2)), np.moveaxis(masks, 0, 2) > 0


def _chosen(path: Path, file: Any, bands: tuple[int, ...]) -> list[int]:
    if not bands:
        return [i + 1 for i, item in enumerate(file.colorinterp) if item.name != "alpha"]
    beyond = [band for band in bands if band > file.count]
    if beyond:
        raise DataError(f"{path}: no band {beyond[0]} (data.bands); the file has {file.count}")
    return list(bands)
