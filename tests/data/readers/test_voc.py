import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders import COUNTS
from data_builders import SIDE, write_voc
from deblora.data.readers.objects import read_voc
from deblora.data.readers.registry import read_chips
from deblora.errors import DataError


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
