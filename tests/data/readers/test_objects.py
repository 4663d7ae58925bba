import pickle
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders import COUNTS
from data_builders import SIDE, quad_text, write_dota, write_voc
from deblora.data.readers.objects import ObjectPixels, SceneCache, read_voc
from deblora.data.readers.registry import read_chips
from deblora.data.scenes.dota import CLASSES_V1_0
from deblora.data.sources import Reading
from deblora.errors import DataError


@pytest.fixture(scope="module")
def dota(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dota(tmp_path_factory.mktemp("dota") / "dota")


def one_image(folder: Path, lines: list[str], *, name: str = "P1") -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labelTxt").mkdir(exist_ok=True)
    gray = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60) % 251
    Image.fromarray(gray.astype(np.uint8)).save(folder / "images" / f"{name}.png")
    (folder / "labelTxt" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_one_chip_per_object_and_val_becomes_the_test(dota: Path) -> None:
    chips = read_chips(dota)
    assert chips.class_names == tuple(sorted(COUNTS))
    assert len(chips) == 2 * sum(COUNTS.values()) and set(chips.splits) == {"train", "test"}
    for split in ("train", "test"):
        part = chips.split(split)
        assert np.bincount(part.labels).tolist() == [COUNTS[name] for name in chips.class_names]
    assert chips.ids[0] == "train/train0000/00000" and chips.units[0] == "train/train0000"
    assert any("validation split is the test" in note for note in chips.notes)


def test_pixels_are_those_of_the_image(dota: Path) -> None:
    chips = read_chips(dota)
    image = np.array(Image.open(dota / "train" / "images" / "train0000.png"))
    for row in range(4):
        x = 4 + (SIDE + 4) * row
        assert np.array_equal(chips.pixels.read(row), image[4 : 4 + SIDE, x : x + SIDE])


def test_margins_minimum_side_and_difficult_objects(dota: Path, tmp_path: Path) -> None:
    wide = read_chips(dota, reading=Reading(context=1.5))
    assert wide.pixels.read(0).shape == (SIDE + 8, SIDE + 8, 3)  # 4 more on each side are inside the image
    dropped = read_chips(dota, reading=Reading(difficult="drop"))
    assert len(dropped) == 2 * sum(COUNTS.values()) - 2
    assert "2 difficult" in dropped.notes[0]
    source = one_image(
        tmp_path / "d",
        [
            quad_text(1, 1, 9, 4) + " ship 0",
            quad_text(55, 2, 20, 20) + " ship 0",  # clipped to 5 x 20
            quad_text(60, 2, 10, 10) + " ship 0",  # beside the image
            quad_text(3, 3, 0, 8) + " car 0",  # no area
            quad_text(3, 3, 6, 8) + " car 0",
        ],
    )
    kept = read_chips(source)
    assert [chip_id[-5:] for chip_id in kept.ids] == ["00000", "00001", "00004"]
    assert kept.notes == ("objects left out: 2 degenerate, 0 small, 0 difficult",)
    assert kept.pixels.read(1).shape == (20, 5, 1)
    large = read_chips(source, reading=Reading(min_side=5))
    assert [chip_id[-5:] for chip_id in large.ids] == ["00001", "00004"] and "1 small" in large.notes[0]
    with pytest.raises(DataError, match="no object to cut"):
        read_chips(source, reading=Reading(min_side=50))


def test_an_image_is_decoded_once_for_its_objects(dota: Path) -> None:
    pixels = read_chips(dota).pixels
    assert isinstance(pixels, ObjectPixels)
    first = [pixels.read(i) for i in range(len(pixels))]
    assert pixels.scenes.n_decoded == 12
    order = np.random.default_rng(0).permutation(len(pixels))
    assert all(np.array_equal(pixels.read(int(i)), first[i]) for i in order)
    assert pixels.scenes.n_decoded == 12  # chips that were cut are kept
    assert not pixels.read(0).flags.writeable
    copy = pickle.loads(pickle.dumps(pixels))  # as a worker process gets it
    assert copy.scenes.n_decoded == 0 and np.array_equal(copy.read(5), first[5])


def test_memory_is_bounded(dota: Path) -> None:
    chips = read_chips(dota)
    pixels = chips.pixels
    small = ObjectPixels.__new__(ObjectPixels)
    small.__setstate__({**pixels.__getstate__(), "_crop_bytes": 2000, "_room": 2000})
    for i in range(len(small)):
        assert np.array_equal(small.read(i), pixels.read(i))
    assert sum(chip.nbytes for chip in small._crops.values()) <= 2000 and small._crops
    cache = SceneCache(pixels._files, max_bytes=1)
    for i in (0, 1, 20, 0):
        part, name = pixels._images[i]
        cache.cut(part, name, pixels._quads[i], Reading())
        assert len(cache._entries) == 1  # never less than one image, never more than fits
    assert cache.n_decoded == 3


def test_threads_get_the_same_chips(dota: Path) -> None:
    pixels, alone = read_chips(dota).pixels, read_chips(dota).pixels
    order = np.random.default_rng(1).permutation(len(pixels)).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(pixels.read, order))
    assert all(np.array_equal(chip, alone.read(i)) for chip, i in zip(found, order, strict=True))
    assert pixels.scenes.n_decoded == 12


def test_zips_single_folders_and_tests_without_labels(dota: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            for path in sorted((dota / split).rglob("*.*")):
                archive.write(path, path.relative_to(dota / split).as_posix())
    zipped, plain = read_chips(tmp_path), read_chips(dota)
    assert zipped.ids == plain.ids and zipped.labels.tolist() == plain.labels.tolist()
    assert np.array_equal(zipped.pixels.read(7), plain.pixels.read(7))
    alone = read_chips(tmp_path / "train.zip")
    assert set(alone.splits) == {""} and alone.ids[0] == "train0000/00000"
    shutil.copytree(dota, tmp_path / "with-test")
    (tmp_path / "with-test" / "test" / "images").mkdir(parents=True)
    shutil.copy(dota / "val/images/val0000.png", tmp_path / "with-test/test/images/t.png")
    found = read_chips(tmp_path / "with-test")
    assert found.splits == plain.splits and any("no labels, passed over" in note for note in found.notes)


def test_versions_choose_classes_and_labels(tmp_path: Path) -> None:
    lines = [quad_text(1, 1) + f" {name} 0" for name in ("ship", "container-crane", "harbor")]
    source = one_image(tmp_path / "a", lines)
    assert read_chips(source).class_names == ("container-crane", "harbor", "ship")
    old = read_chips(source, reading=Reading(version="v1.0"))
    assert set(old.class_names) <= set(CLASSES_V1_0) and "1 objects of classes that v1.0" in old.notes[-1]
    assert "container-crane" in read_chips(source, reading=Reading(version="v1.5")).class_names
    (source / "labelTxt-v2.0").mkdir()
    (source / "labelTxt-v2.0" / "P1.txt").write_text(quad_text(1, 1) + " airport 0\n")
    assert read_chips(source, reading=Reading(version="v2.0")).class_names == ("airport",)
    (source / "labelTxt" / "P1.txt").write_text(quad_text(1, 1) + " shp 0\n")
    with pytest.raises(DataError, match=r"labelTxt/P1\.txt:1: the image P1 has .* class 'shp'"):
        read_chips(source, reading=Reading(version="v1.0"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["gsd:1", "1 2 3 ship"], r"labelTxt/P1\.txt:2: 4 values"),
        ([quad_text(1, 1), quad_text(1, 1) + " ship 0"], r"P1\.txt:1: 8 values"),
        ([quad_text(1, 1).replace("1", "nan") + " ship"], r"P1\.txt:1: 'nan' is not a finite number"),
        ([quad_text(1, 1) + " ship 7"], r"P1\.txt:1: difficult is '7'"),
    ],
)
def test_bad_labels_are_named_with_their_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_chips(one_image(tmp_path / "d", lines), format="dota")


def test_bad_folders(dota: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(dota, tmp_path / "d"))
    shutil.copy(source / "train/images/train0000.png", source / "val/images/train0000.png")
    shutil.copy(source / "train/labelTxt/train0000.txt", source / "val/labelTxt/train0000.txt")
    with pytest.raises(DataError, match="train0000 is in train and in val"):
        read_chips(source)
    (source / "val/labelTxt/train0000.txt").unlink()
    with pytest.raises(DataError, match="1 images have no label file"):
        read_chips(source)
    (source / "validation").mkdir()
    with pytest.raises(DataError, match="both mean the split val"):
        read_chips(source)


def test_a_damaged_image_is_left_to_the_decoder(dota: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(dota, tmp_path / "d"))
    (source / "train/images/train0000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    chips = read_chips(source)
    with pytest.raises(DataError, match=r"train0000\.png: unreadable image"):
        chips.pixels.read(0)
    with pytest.raises(DataError, match=r"train0000\.png: unreadable image"):
        chips.pixels.read(1)  # again, and no lock is left held
    assert chips.pixels.scenes.n_decoded == 1  # not once more for each of its objects


def test_the_real_images_of_dota(shared: Callable[[str], Path]) -> None:
    chips = read_chips(shared("data/dota_sample/dota_sample.zip"))
    counts = dict(zip(chips.class_names, np.bincount(chips.labels).tolist(), strict=True))
    assert counts == {"harbor": 5, "large-vehicle": 50, "ship": 531, "small-vehicle": 14}
    assert (
        len(read_chips(shared("data/dota_sample/dota_sample.zip"), reading=Reading(difficult="drop"))) == 594
    )
    sizes = [chips.pixels.read(i).shape for i in range(0, len(chips), 50)]
    assert all(min(size[:2]) >= 1 and size[2] == 3 for size in sizes)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc") / "voc")


def test_boxes_become_chips_with_captions(voc: Path) -> None:
    chips = read_chips(voc)
    assert chips.class_names == tuple(sorted(COUNTS)) and set(chips.splits) == {"train", "test"}
    assert len(chips) == 2 * sum(COUNTS.values())
    image = np.array(Image.open(voc / "JPEGImages" / "train_0.bmp"))
    assert np.array_equal(chips.pixels.read(0), image[4 : 4 + SIDE, 4 : 4 + SIDE])
    assert chips.captions[0] == "ships in scene train_0" and chips.captions[-1] == "ships in scene val_5"
    assert chips.split("test").captions[0] == "ships in scene val_0"


def test_other_layouts(voc: Path, tmp_path: Path) -> None:
    shutil.copytree(voc, tmp_path / "set" / "VOC_Format")
    assert read_chips(tmp_path / "set").ids == read_chips(voc).ids  # ShipRSImageNet
    source = Path(shutil.copytree(voc, tmp_path / "unsplit"))
    shutil.rmtree(source / "ImageSets")
    (source / "captions.jsonl").unlink()
    chips = read_chips(source)
    assert set(chips.splits) == {""} and len(set(chips.units)) == 12 and chips.captions == ()
    source = Path(shutil.copytree(voc, tmp_path / "tested"))
    (source / "ImageSets/Main/test.txt").write_text("unlabeled_1\nunlabeled_2\n")
    assert any("no annotations for it" in note for note in read_chips(source).notes)


def test_turned_boxes_count_before_upright_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        "<annotation><object><name> long  liner </name><robndbox><cx>10</cx><cy>20</cy><w>8</w><h>2</h>"
        "<angle>1.5707963267948966</angle></robndbox><part><name>bow</name></part></object></annotation>"
    )
    labels = read_voc(path)
    assert labels.class_names == ("long liner",) and labels.difficult.tolist() == [0]
    low, high = labels.quads[0].min(axis=0), labels.quads[0].max(axis=0)
    np.testing.assert_allclose([*low, *high], [9, 16, 11, 24], atol=1e-9)


BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object>\n<name>a</name>", r"a\.xml:3: not well-formed XML"),
        (
            "<annotation>\n<object>\n<name>a</name>\n</object></annotation>",
            r"a\.xml:2: <xmin> of the object is ''",
        ),
        (
            f"<annotation>\n\n<object>{BOX.format(1)}</object></annotation>",
            r"a\.xml:3: the object has no <name>",
        ),
        (
            f"<annotation><object><name>a</name>{BOX.format('x')}</object></annotation>",
            r"a\.xml:1: <xmin> .* 'x'",
        ),
        (
            f"<annotation><object><name>a</name>{BOX.format('inf')}</object></annotation>",
            "'inf', not a finite",
        ),
        (
            f"<annotation><object><name>a</name>{BOX.format(30)}</object></annotation>",
            "ends before it starts",
        ),
        ("<kml></kml>", "the root is <kml>"),
        ('<!DOCTYPE a [<!ENTITY b "ha">]><annotation/>', "declares a document type or entities"),
        ("", "not well-formed"),
    ],
)
def test_bad_annotations_are_named_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_voc(path)


def change(name: str, content: str | None) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        path = root / name
        if content is None:
            path.unlink()
        else:
            path.write_text(content)

    return work


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("JPEGImages/val_0.bmp", None), r"Annotations/val_0\.xml: no image val_0"),
        (
            lambda root: shutil.copytree(root / "JPEGImages", root / "JPEGImages" / "part1"),
            "in a folder inside JPEGImages",
        ),
        (change("Annotations/val_0.xml", None), r"val\.txt: the image val_0 has no .*val_0\.xml"),
        (change("ImageSets/Main/val.txt", "train_0\n"), "train_0 is in train and in val"),
        (change("captions.jsonl", '{"file_name": "a"}\n'), r"captions\.jsonl:1: no caption"),
        (change("captions.jsonl", '{"image": "a", "text": ""}\n[1]\n'), r"captions\.jsonl:2: no caption"),
        (lambda root: shutil.rmtree(root / "JPEGImages"), "no folder JPEGImages or images"),
        (lambda root: shutil.rmtree(root / "Annotations"), r"no Annotations/NAME\.xml"),
    ],
)
def test_incomplete_sets_are_refused(voc: Path, tmp_path: Path, damage: Callable, message: str) -> None:
    source = Path(shutil.copytree(voc, tmp_path / "voc"))
    damage(source)
    with pytest.raises(DataError, match=message):
        read_chips(source, format="voc")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>'
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match="declares a document type or entities"):
        read_voc(path)
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><annotation/>'.encode(encoding))
    assert read_voc(path).class_names == ()


def test_tags_nested_without_end_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</annotation>")
    assert read_voc(path).class_names == ()
