"""What strangers put into folders and archives: one message each, and no file outside the folder that was named."""

import codecs
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from deblora.cli.main import main
from deblora.data.scenes.dota import Labels, parse_labels
from deblora.data.scenes.rasters import ArrayScene, open_scene
from deblora.detect.task1 import read_task1
from deblora.detect.tiling import TileSpec, read_tile, tile_grid
from deblora.errors import DataError
from deblora.report.overlays import to_rgb
from toy_scenes import write_split

QUAD = "1 1 9 1 9 5 1 5"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{QUAD} ../../ship 0", r"here:1: the category '../../ship' cannot"),
        (f"{QUAD} a\\b 0", "cannot be part of a file name"),
        (f"{QUAD} .. 0", "cannot be part of a file name"),
        ("1e9 1 9 1 9 5 1 5 ship 0", "here:1: 1e9 is the place of no pixel"),
        ("nan 1 9 1 9 5 1 5 ship 0", "not a finite number"),
        (f"{QUAD} ship 7", "difficult is '7'"),
        (f"{QUAD} 3 0", "the category is the number"),
    ],
)
def test_lines_that_cannot_be_meant(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_labels(line + "\n", origin="here")


def test_a_byte_order_mark_and_other_encodings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path / "set", "val", seed=0)
    label = tmp_path / "set" / "labelTxt" / "val0.txt"
    label.write_bytes(codecs.BOM_UTF8 + label.read_bytes())
    arguments = ["detect", "chips", str(tmp_path / "set"), "--out"]
    assert main([*arguments, str(tmp_path / "a")]) == 0
    label.write_bytes(label.read_text(encoding="utf-8-sig").encode("utf-16"))
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "b")]) == 2
    assert "val0.txt is no UTF-8 text" in capsys.readouterr().err


def test_an_archive_that_climbs_out_of_its_folder(tmp_path: Path) -> None:
    write_split(tmp_path / "set", "val", seed=0)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in sorted((tmp_path / "set").rglob("*.*")):
            archive.writestr(f"a/../../../{path.parent.name}/{path.name}", path.read_bytes())
    inside = tmp_path / "deep" / "er"
    assert main(["detect", "chips", str(tmp_path / "z.zip"), "--out", str(inside / "chips")]) == 0
    assert main(["detect", "tile", str(tmp_path / "z.zip"), "--out", str(inside / "tiles")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"set", "z.zip", "deep"}
    assert {path.name for path in inside.iterdir()} == {"chips", "tiles"}


def damage(path: Path, name: str) -> None:
    """Overwrite the packed bytes of a member."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name)
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len(name)
    content[start : start + entry.compress_size] = b"\xff" * entry.compress_size
    path.write_bytes(content)


@pytest.mark.parametrize("member", ["images/val0.png", "labelTxt/val0.txt"])
def test_archives_with_damaged_members(
    member: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path / "set", "val", seed=0)
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "set").rglob("*.*")):
            archive.write(path, f"{path.parent.name}/{path.name}")
    damage(tmp_path / "z.zip", member)
    assert main(["detect", "chips", str(tmp_path / "z.zip"), "--out", str(tmp_path / "chips")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_damaged_task1_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Task1_ship.txt", "a 0.5 1 1 9 1 9 5 1 5\n" * 50)
    damage(tmp_path / "t.zip", "Task1_ship.txt")
    with pytest.raises(DataError, match="cannot read the detections"):
        read_task1(tmp_path / "t.zip")


def test_an_object_many_times_as_long_as_its_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path / "set", "val", seed=0)
    label = tmp_path / "set" / "labelTxt" / "val0.txt"
    label.write_text("-400000 30 400000 30 400000 34 -400000 34 long 0\n")
    assert main(["detect", "chips", str(tmp_path / "set"), "--out", str(tmp_path / "chips")]) == 2
    assert "object 1 of val0 is 800000 px long" in capsys.readouterr().err


def test_tiling_that_was_not_finished(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes / "train", tmp_path / "train")
    (tmp_path / "train" / "tiles.json").write_text("{}")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {{train: {tmp_path / 'train'}, val: {scenes / 'val'}, tile: 64, overlap: 8}}\n")
    assert main(["detect", "train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "tiling was not finished" in capsys.readouterr().err


def test_names_that_task1_cannot_hold_are_refused_before_training(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scenes / "val", tmp_path / "val")
    for folder, ending in (("images", "png"), ("labelTxt", "txt")):
        (tmp_path / "val" / folder / f"val0.{ending}").rename(tmp_path / "val" / folder / f"val 0.{ending}")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {{train: {scenes / 'train'}, val: {tmp_path / 'val'}, tile: 64, overlap: 8}}\n")
    assert main(["detect", "train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "'val 0' holds a space" in capsys.readouterr().err
    assert not (tmp_path / "run" / "detector").exists()


def test_missing_values_are_the_mean_color() -> None:
    pixels = np.full((8, 8, 1), 3.0, dtype=np.float32)
    pixels[:4], pixels[4, 0] = np.nan, np.inf
    (window,) = tile_grid(8, 8, tile=8, overlap=0)
    tile = read_tile(ArrayScene(pixels), window, TileSpec(8, 0, 1.0, (0.5,), (0.5,), 2.0))
    assert (
        torch.equal(tile[0, :4], torch.zeros(4, 8))
        and float(tile[0, 4, 0]) == 0
        and float(tile[0, 7, 7]) == 2
    )
    assert to_rgb(pixels).dtype == np.uint8


def test_declared_gaps_of_a_float_raster_are_missing(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.full((1, 16, 16), 7.0, dtype=np.float32)
    values[:, :5] = -9999
    profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 1, "dtype": "float32", "nodata": -9999}
    with rasterio.open(tmp_path / "s.tif", "w", crs="EPSG:32633", **profile) as file:
        file.write(values)
    read = open_scene(tmp_path / "s.tif").read(0, 0, 16, 16)
    assert np.isnan(read[:5]).all() and (read[5:] == 7).all()


def test_labels_keep_self_intersecting_and_outside_quads(scenes: Path) -> None:
    found = parse_labels("0 0 8 4 8 0 0 4 ship 0\n-20 -20 -4 -20 -4 -9 -20 -9 ship 1\n", origin="here")
    assert isinstance(found, Labels) and len(found.quads) == 2
