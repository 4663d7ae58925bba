import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from data_builders import write_geotiffs
from deblora.data.readers.registry import read_chips
from deblora.data.scenes.rasters import (
    ArrayScene,
    GeoTiffPixels,
    crop,
    crop_window,
    fill_missing,
    open_raster,
    open_scene,
    visible,
)
from deblora.data.sources import Reading
from deblora.errors import DataError

FEW = {"checks": 2, "rows": 2}
QUAD = np.array([[2.5, 3.0], [9.2, 3.0], [9.2, 6.9], [2.5, 6.9]])


@pytest.mark.parametrize(
    ("context", "shape", "window"),
    [
        (1.0, "hull", (2, 3, 8, 4)),  # floor of the least, ceil of the greatest
        (2.0, "hull", (-1, 1, 14, 8)),  # 3.35 and 1.95 pixels more on each side
        (1.0, "square", (2, 1, 8, 8)),  # the longer side, 6.7, but at least 8
        (2.0, "square", (-1, -2, 13, 13)),
    ],
)
def test_windows_computed_by_hand(context: float, shape: str, window: tuple) -> None:
    assert crop_window(QUAD, context=context, shape=shape) == window


def test_an_integer_hull_is_the_box_itself_and_turning_it_does_not_shrink_it() -> None:
    square = np.array([[10.0, 20], [30, 20], [30, 28], [10, 28]])
    assert crop_window(square, context=1.0, shape="hull") == (10, 20, 20, 8)
    diamond = np.array([[10.0, 20], [14, 16], [18, 20], [14, 24]])
    assert crop_window(diamond, context=1.0, shape="hull") == (10, 16, 8, 8)


def test_what_is_visible_of_a_window() -> None:
    assert visible((-3, 5, 10, 10), 50, 8) == (0, 5, 7, 3)
    assert min(visible((60, 0, 5, 5), 50, 8)[2:]) == 0
    assert min(visible((-9, 0, 5, 5), 50, 8)[2:]) == 0


def test_a_hull_is_clipped_where_a_square_repeats_the_border(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (20, 30, 2)).astype(np.uint8)
    scene, quad = ArrayScene(pixels), np.array([[24.0, 2], [36, 2], [36, 8], [24, 8]])
    assert np.array_equal(crop(scene, quad, context=1.0, shape="hull"), pixels[2:8, 24:30])
    square = crop(scene, quad, context=1.0, shape="square")
    assert square.shape == (12, 12, 2)
    assert np.array_equal(square[1:, :6], pixels[:11, 24:30])  # the square starts one row above the image
    assert np.array_equal(square[:, 6:], np.repeat(square[:, 5:6], 6, axis=1))


@pytest.mark.parametrize("suffix", [".tif", ".jp2", ".png"])
def test_a_virtual_raster_is_refused_whatever_it_is_called(tmp_path: Path, suffix: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8"
    ) as file:
        file.write(np.ones((1, 4, 4), dtype=np.uint8))
    assert open_scene(tmp_path / "a.tif").read(0, 0, 2, 2).sum() == 4
    path = tmp_path / f"bad{suffix}"
    path.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{tmp_path / 'a.tif'}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match="unreadable raster"):
        open_raster(path)
    with pytest.raises(DataError, match="unreadable"):
        open_scene(path)
    with pytest.raises(DataError, match="unreadable raster"):
        GeoTiffPixels((path,), (), 0.5).read(0)


def test_geotiffs_keep_all_bands_or_those_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    source = write_geotiffs(tmp_path / "g", n_bands=6, counts=FEW)
    chip = read_chips(source, format="geotiff").pixels.read(0)
    assert chip.shape == (16, 16, 6) and chip.dtype == np.uint16 and chip[0, 0, 5] == 7
    some = read_chips(source, format="geotiff", reading=Reading(bands=(6, 1))).pixels.read(0)
    assert np.array_equal(some, chip[:, :, [5, 0]])
    with pytest.raises(DataError, match=r"0\.tif: no band 9 \(data\.bands\); the file has 6"):
        read_chips(source, format="geotiff", reading=Reading(bands=(9,))).pixels.read(0)
    (source / "l.csv").write_text("path,label\nchecks/0.tif,a\nrows/1.tif,b\n")
    assert read_chips(source / "l.csv", format="geotiff").pixels.read(1).shape == (16, 16, 6)


def test_a_geotiff_among_pictures_names_its_reader(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    pixels = read_chips(write_geotiffs(tmp_path / "g", n_bands=6, counts=FEW)).pixels
    with pytest.raises(DataError, match=r"0\.tif: unreadable image .* data\.format: geotiff"):
        pixels.read(0)


def test_missing_pixels_get_the_mean_of_their_band_or_are_refused(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = write_geotiffs(tmp_path / "g", n_bands=2, counts=FEW)
    path = source / "checks" / "0.tif"
    with rasterio.open(path, "r+") as file:
        band = np.full((16, 16), 100, dtype=np.uint16)
        band[:, :4] = 0  # nodata
        band[:, 8:] = 201
        file.write(band, 1)
    chip = read_chips(source, format="geotiff").pixels.read(0)
    mean = (4 * 100 + 8 * 201) / 12  # 167.33
    assert (chip[:, :4, 0] == round(mean)).all() and (chip[:, 4:8, 0] == 100).all()
    with pytest.raises(DataError, match=r"0\.tif: 12\.5 % of the pixels are missing"):
        read_chips(source, format="geotiff", reading=Reading(max_missing=0.1)).pixels.read(0)
    with rasterio.open(path, "r+") as file:
        file.write(np.zeros((16, 16), dtype=np.uint16), 1)
    with pytest.raises(DataError, match="each band needs a pixel"):
        read_chips(source, format="geotiff", reading=Reading(max_missing=1.0)).pixels.read(0)


def test_not_a_number_is_missing_too() -> None:
    values = np.array([[[1.0, np.nan], [3.0, 4.0]]], dtype=np.float32)
    filled = fill_missing(values, np.isfinite(values))
    assert filled.tolist() == [[[1.0, 4.0], [3.0, 4.0]]] and filled.dtype == np.float32


def test_damaged_geotiffs_are_named(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    source = write_geotiffs(tmp_path / "g", counts=FEW)
    path = source / "rows" / "1.tif"
    path.write_bytes(path.read_bytes()[:300])
    pixels = read_chips(source, format="geotiff").pixels
    with pytest.raises(DataError, match=r"rows/1\.tif: unreadable GeoTIFF"):
        pixels.read(3)
    shutil.copy(source / "rows" / "0.tif", path)
    assert pixels.read(3).shape == (16, 16, 4)


def test_without_rasterio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(DataError, match=r"needs rasterio .*deblora\[geo\]"):
        read_chips(tmp_path, format="geotiff")
