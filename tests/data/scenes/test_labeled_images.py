"""Folders and zips of images with labels, and what is said when something in them is wrong."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblora.data.scenes import labeled_images as detection_set
from deblora.data.scenes.dota import Labels
from deblora.data.scenes.labeled_images import (
    class_names_of,
    list_images,
    object_counts,
    read_detection_set,
    restrict,
)
from deblora.data.scenes.rasters import ArrayScene, crop, open_scene
from deblora.detect.tiling import drop_flat
from deblora.errors import DataError


def zipped(folder: Path, out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return out


def labels(*names: str, difficult: tuple[int, ...] | None = None) -> Labels:
    n = len(names)
    quads = np.tile(np.array([[0.0, 0], [9, 0], [9, 4], [0, 4]]), (n, 1, 1))
    return Labels(quads, names, np.array(difficult or (0,) * n, dtype=np.int64))


def test_a_zip_is_read_in_place_like_its_folder(scenes: Path, tmp_path: Path) -> None:
    folder = read_detection_set(scenes / "train")
    archive = read_detection_set(zipped(scenes / "train", tmp_path / "train.zip"))
    assert folder.names == archive.names and len(folder.names) == 9
    for name in folder.names:
        assert np.array_equal(folder.labels[name].quads, archive.labels[name].quads)
        one, other = folder.files.open(name), archive.files.open(name)
        assert np.array_equal(one.read(3, 5, 20, 30), other.read(3, 5, 20, 30))
        assert one.digest == other.digest and (one.height, one.width) == (64, 64)
    assert list(tmp_path.iterdir()) == [tmp_path / "train.zip"]


def copy(scenes: Path, out: Path) -> Path:
    import shutil

    shutil.copytree(scenes / "train", out)
    return out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "labelTxt" / "train0.txt").unlink(), "no label file, first: images/train0.png"),
        (lambda p: (p / "images" / "train0.png").unlink(), "no image, first: train0.txt"),
        (lambda p: (p / "labelTxt" / "train0.txt").write_text("1 2 3 4 5 6 7 ship 0\n"), "train0.txt:1"),
        (lambda p: (p / "images" / "train0.jpg").write_bytes(b"x"), "name of its own"),
        (lambda p: [f.unlink() for f in (p / "images").iterdir()], "no images"),
        (lambda p: [f.unlink() for f in (p / "labelTxt").iterdir()], "no label files"),
    ],
)
def test_a_wrong_folder_is_one_message(
    scenes: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = copy(scenes, tmp_path / "set")
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read_detection_set(folder)


def test_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_detection_set(tmp_path / "nothing")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="unreadable image"):
        open_scene(tmp_path / "a.png")
    assert list_images(tmp_path / "a.png").members == {"a": "a.png"}


def test_classes_counts_and_what_is_not_trained() -> None:
    entries = {"a": labels("ship", "car", "car"), "b": labels("fog", "ship", difficult=(1, 1))}
    assert class_names_of(entries.values()) == ("car", "ship")
    assert object_counts(entries.values(), ("car", "ship")).tolist() == [2, 2]
    kept = restrict(entries, ("car", "ship"), where="here")
    assert kept["b"].class_names == ("ship",)
    with pytest.raises(DataError, match="image a has an object of the class 'ship'"):
        restrict(entries, ("car",), where="here")
    with pytest.raises(DataError, match="no object"):
        class_names_of([labels("fog", difficult=(1,))])


def test_objects_without_area_are_left_out_and_named() -> None:
    entry = labels("ship", "car")
    entry.quads[1] = (3.0, 3.0)
    kept, lines = drop_flat({"a": entry})
    assert kept["a"].class_names == ("ship",) and lines == ["a: object 2 (car) has no area"]


def test_a_crop_keeps_its_object_in_the_middle(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    scene = ArrayScene(pixels)
    inside = np.array([[20.0, 10], [30, 10], [30, 20], [20, 20]])
    assert np.array_equal(crop(scene, inside, context=2.0), pixels[5:25, 15:35])
    for x, y in ((0, 0), (49, 39), (-3, 20), (60, 50)):
        quad = np.array([[x, y], [x + 8.0, y], [x + 8.0, y + 8], [x, y + 8]])
        assert crop(scene, quad, context=1.5).shape == (12, 12, 3)


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.png", b"0" * 5000)
        archive.writestr("labelTxt/a.txt", "gsd:1\n" * 500)
    monkeypatch.setattr(detection_set, "LARGEST_IMAGE", 4000)
    found = read_detection_set(tmp_path / "z.zip")
    with pytest.raises(DataError, match=r"images/a\.png: 5000 bytes once unpacked, allowed are 4000"):
        found.files.open("a")
    monkeypatch.setattr(detection_set, "LARGEST_TEXT", 100)
    with pytest.raises(DataError, match=r"labelTxt/a\.txt: 3000 bytes once unpacked"):
        read_detection_set(tmp_path / "z.zip")


def test_hit_uav_is_read_from_its_zip(shared: Callable[[str], Path]) -> None:
    found = read_detection_set(shared("data/hit_uav_obb/val.zip"))
    names = class_names_of(found.labels.values())
    assert len(found.names) == 60 and names == ("bicycle", "car", "other-vehicle", "person")
    assert object_counts(found.labels.values(), names).tolist() == [114, 147, 12, 216]
    scene = found.files.open(found.names[0])
    assert (scene.height, scene.width) == (512, 640) and scene.read(0, 0, 640, 512).shape == (512, 640, 1)


@pytest.mark.parametrize("as_zip", [False, True])
def test_images_in_deeper_folders_are_refused_not_lost(tmp_path: Path, as_zip: bool) -> None:
    for name in ("images/a.png", "images/part1/b.png"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    source = tmp_path / "set"
    if as_zip:
        source = Path(shutil.make_archive(str(tmp_path / "z"), "zip", source))
    with pytest.raises(DataError, match=r"images/part1/b\.png: in a folder inside images"):
        list_images(source)
