from pathlib import Path

import numpy as np
import pytest

from deblora.data.scenes.rasters import (
    ArrayScene,
    GeoTiffPixels,
    crop,
    crop_window,
    open_raster,
    open_scene,
    visible,
)
from deblora.errors import DataError

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
