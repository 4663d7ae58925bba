"""GeoTIFF chips, NumPy arrays and data sets of the hub."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from builders import COUNTS
from data_builders import FakeHubSplit, arrays, encoded, fake_datasets, write_geotiffs
from deblora.data.readers.registry import READERS, read_chips
from deblora.data.scenes.rasters import fill_missing
from deblora.data.sources import Reading
from deblora.errors import DataError

FEW = {"checks": 2, "rows": 2}


# --- NumPy ----------------------------------------------------------------------------------------------------


def test_an_npz_with_names_and_splits(tmp_path: Path) -> None:
    values = arrays()
    n = len(values["images"])
    np.savez_compressed(tmp_path / "a.npz", **values, splits=np.array(["train", "valid"] * (n // 2)))
    chips = read_chips(tmp_path / "a.npz")
    assert (
        chips.class_names == tuple(COUNTS)
        and chips.splits[:2] == ("train", "val")
        and chips.ids[1] == "000001"
    )
    assert np.bincount(chips.labels).tolist() == list(COUNTS.values())
    assert np.array_equal(chips.pixels.read(7), values["images"][7])


def test_split_arrays_and_folders_of_npy_files(tmp_path: Path) -> None:
    values = arrays(counts=FEW)
    parts = {f"{s}_{k}": values[k] for s in ("train", "val", "test") for k in ("images", "labels")}
    np.savez(tmp_path / "m.npz", **parts)
    chips = read_chips(tmp_path / "m.npz")
    assert (
        chips.ids[-1] == "test/000003" and chips.splits.count("val") == 4 and chips.class_names == ("0", "1")
    )
    folder = tmp_path / "f"
    folder.mkdir()
    np.save(folder / "images.npy", values["images"][..., 0].astype(np.float32))
    np.save(folder / "labels.npy", np.array(["ship", "ship", "car", "car"]))
    chips = read_chips(folder)
    assert chips.class_names == ("car", "ship") and chips.pixels.read(0).shape == (16, 16, 1)
    (tmp_path / "names.txt").write_text("zero\none\nnobody\n")
    named = read_chips(tmp_path / "m.npz", reading=Reading(class_names=str(tmp_path / "names.txt")))
    assert named.class_names == ("zero", "one", "nobody")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no array images"),
        ({"labels": None}, "no array labels"),
        ({"labels": np.zeros(3)}, "labels is float64"),
        ({"labels": np.zeros(3, dtype=int)}, "3 labels"),
        ({"labels": np.full(4, -1)}, "negative labels"),
        ({"images": np.zeros((4, 8), dtype=np.uint8)}, r"images has the shape \(4, 8\)"),
        ({"images": np.array([{}, {}, {}, {}])}, "images cannot be read .*no objects"),
        ({"splits": np.array(["train", "foo", "", ""])}, "it holds 'foo'"),
        ({"splits": np.array(["train"])}, "it holds 1 entries"),
        ({"class_names": np.array(["only"])}, "the label 1 has no class name"),
        ({"class_names": np.array(["a", "a"])}, "two classes have the same name"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    values = {**arrays(counts=FEW), **change}
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **{key: value for key, value in values.items() if value is not None})
    with pytest.raises(DataError, match=message):
        read_chips(path)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match=r"a\.npz: damaged or no \.npz"):
        read_chips(path)
    np.savez(path, **arrays(counts=FEW))
    content = bytearray(path.read_bytes())
    content[200:260] = b"x" * 60
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: the array .* cannot be read"):
        read_chips(path)


# --- GeoTIFF --------------------------------------------------------------------------------------------------


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


# --- hub ------------------------------------------------------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, columns: dict | None = None, names: list | None = None) -> None:
    columns = columns or {
        "image": [encoded(i) for i in range(3)],
        "label": [0, 1, 1],
        "scene": ["a", "b", "b"],
    }
    names = names or ["car", "ship"]
    splits = {"train": FakeHubSplit(columns, names), "validation": FakeHubSplit(columns, names)}
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(splits))


def test_a_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch)
    chips = read_chips(Path("owner/ships"), format="hub", reading=Reading(unit="scene"))
    assert chips.class_names == ("car", "ship") and chips.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert chips.splits == ("train",) * 3 + ("val",) * 3 and chips.ids[3] == "validation/0000000"
    assert chips.pixels.read(5)[0, 0, 0] == 2 and chips.units[1] == "b"


def test_bad_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets; install deblora\[hub\]"):
        read_chips(Path("owner/ships"), format="hub")
    hub(monkeypatch)
    with pytest.raises(DataError, match="owner/none: datasets cannot load it .*doesn't exist on the Hub"):
        read_chips(Path("owner/none"), format="hub")
    with pytest.raises(DataError, match=r"no column flight \(data\.unit\)"):
        read_chips(Path("owner/ships"), format="hub", reading=Reading(unit="flight"))
    hub(monkeypatch, {"text": ["a"]})
    with pytest.raises(DataError, match="no columns image and label; found: text"):
        read_chips(Path("owner/ships"), format="hub")
    hub(monkeypatch, {"image": [encoded(0)], "label": [-1]})
    with pytest.raises(DataError, match="labels span -1 to -1"):
        read_chips(Path("owner/ships"), format="hub")
    hub(monkeypatch, {"image": [{"bytes": None, "path": str(tmp_path / "gone.png")}], "label": [0]})
    with pytest.raises(DataError, match="train/0000000: cannot be read"):
        read_chips(Path("owner/ships"), format="hub").pixels.read(0)


def test_recipes_name_every_reader() -> None:
    from typing import get_args

    from deblora.recipe.classify import DataRecipe

    assert set(get_args(DataRecipe.__dataclass_fields__["format"].type)) == {"auto", *READERS}
