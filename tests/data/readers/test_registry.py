import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deblora.data.chips import ArrayPixels, ChipSet
from deblora.data.readers.registry import READERS, check_trainable, read_chips
from deblora.data.sources import Reading
from deblora.errors import DataError


def png(value: int, mode: str = "L", kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (4, 3), value if mode in ("L", "P", "I;16") else (value,) * len(mode)).save(stream, kind)
    return stream.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_folder_of_classes(tmp_path: Path) -> None:
    put(tmp_path / "tanker" / "1.png", png(7))
    put(tmp_path / "cargo" / "b.PNG", png(9))
    put(tmp_path / "cargo" / "notes.txt", "x")
    chips = read_chips(tmp_path)
    assert (chips.class_names, chips.ids, chips.splits) == (
        ("cargo", "tanker"),
        ("cargo/b.PNG", "tanker/1.png"),
        ("", ""),
    )
    assert chips.labels.tolist() == [0, 1]
    assert chips.pixels.read(1)[0, 0, 0] == 7


def test_folder_of_splits(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "valid/a", "test/b"):
        put(tmp_path / name / "1.png", png(1))
    chips = read_chips(tmp_path)
    assert sorted(zip(chips.splits, chips.labels.tolist(), strict=True)) == [
        ("test", 1),
        ("train", 0),
        ("train", 1),
        ("val", 0),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1.png"], "no class folders"),
        (["train/a/1.png", "other/1.png"], "is a split and other is not"),
        (["val/a/1.png", "valid/a/1.png"], "several folders mean the split val"),
        (["a/1.txt"], "no images"),
        (["a/deep/1.png"], "a folder inside a class folder"),
    ],
)
def test_folder_layouts_that_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        put(tmp_path / name, png(1))
    with pytest.raises(DataError, match=message):
        read_chips(tmp_path)


def test_list_with_names_splits_and_integers(tmp_path: Path) -> None:
    put(tmp_path / "d" / "1.png", png(1))
    put(tmp_path / "2.png", png(2))
    chips = read_chips(
        put(tmp_path / "l.csv", "\ufeffpath,label,split\nd/1.png,ship,train\n\n2.png,car,valid\n")
    )
    assert (chips.ids, chips.class_names, chips.splits) == (
        ("d/1.png", "2.png"),
        ("car", "ship"),
        ("train", "val"),
    )
    assert chips.labels.tolist() == [1, 0]
    chips = read_chips(put(tmp_path / "l.tsv", "label\tpath\n10\td/1.png\n9\t2.png\n"))
    assert (chips.class_names, chips.labels.tolist()) == (("9", "10"), [1, 0])
    assert chips.pixels.read(1)[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path,label\n../out.png,a\n", r"l\.csv:2: .*leaves"),
        ("path,label\n1.png,a\n/etc/passwd,a\n", r"l\.csv:3: .*leaves"),
        ("path,label\nlink.png,a\n", r"l\.csv:2: .*leaves"),
        ("path,label\nnone.png,a\n", r"l\.csv:2: .*does not exist"),
        ("path,label\n1.png,a\n./1.png,b\n", r"l\.csv:3: .*already in .*l\.csv:2"),
        ("path,label\n1.png,\n", r"l\.csv:2: the label is empty"),
        ("path,label\n,a\n", r"l\.csv:2: the path is empty"),
        ("path,label\n1.png,a,b\n", r"l\.csv:2: 3 cells"),
        ("path,label,split\n1.png,a,dev\n", r"l\.csv:2: unknown split 'dev'"),
        ("file,label\n1.png,a\n", r"l\.csv:1: the header"),
        ("path,label\n1.png,0\n2.png,-1\n", r"l\.csv:3: negative labels \(-1\)"),
        ("path,label\n1.png,1\n\n2.png,01\n", r"l\.csv:4: the label 01 is also written 1"),
        ("path,label\n", "no rows"),
        ("", "header"),
        (b"path,label\n\xff\xfe,a\n", "not a readable list"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, rows: str | bytes, message: str) -> None:
    put(tmp_path / "out.png", png(1))
    put(tmp_path / "root" / "1.png", png(1))
    put(tmp_path / "root" / "2.png", png(2))
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "out.png")
    with pytest.raises(DataError, match=message):
        read_chips(put(tmp_path / "root" / "l.csv", rows))


def test_check_trainable_names_the_classes() -> None:
    def chips(labels: list[int], splits: tuple[str, ...], names: tuple[str, ...]) -> ChipSet:
        ids = tuple(map(str, range(len(labels))))
        return ChipSet(ids, np.array(labels), splits, names, ArrayPixels([np.zeros((1, 1))] * len(ids), ids))

    check_trainable(chips([0, 1], ("train", "train"), ("a", "b")))
    check_trainable(chips([0, 1], ("", ""), ("a", "b")))
    with pytest.raises(DataError, match="1 of 2 classes: b;"):
        check_trainable(chips([0, 1], ("train", "val"), ("a", "b")))
    with pytest.raises(DataError, match=r"only one class \(a\)"):
        check_trainable(chips([0], ("train",), ("a",)))
    with pytest.raises(DataError, match="no chip is in the split train"):
        check_trainable(chips([0, 1], ("val", "val"), ("a", "b")))


@pytest.mark.shared
def test_aid_counts_and_webp_bytes(shared: Callable[[str], Path]) -> None:
    chips = read_chips(shared("data/aid150"))
    assert [len(chips.split(name)) for name in ("train", "val", "test")] == [7899, 600, 1500]
    counts = dict(zip(chips.class_names, np.bincount(chips.split("train").labels), strict=True))
    assert (counts["Pond"], counts["BaseballField"], chips.n_classes) == (350, 150, 30)
    assert chips.pixels.read(7898).shape == (150, 150, 3)


@pytest.mark.shared
def test_mstar_counts(shared: Callable[[str], Path]) -> None:
    chips = read_chips(shared("data/mstar_soc"))
    train = np.bincount(chips.split("train").labels)
    assert train.tolist() == [299, 233, 298, 256, 233, 299, 299, 232, 299, 299]
    assert len(chips.split("test")) == 2425
    assert chips.pixels.read(0).shape == (128, 128, 1)


def test_recipes_name_every_reader() -> None:
    from typing import get_args

    from deblora.recipe.classify import DataRecipe

    assert set(get_args(DataRecipe.__dataclass_fields__["format"].type)) == {"auto", *READERS}


def test_pictures_that_are_not_read_are_noted(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "loose.png"):
        put(tmp_path / name, png(1))
    put(tmp_path / "b" / "2.jp2", b"x")
    assert read_chips(tmp_path).notes == (
        f"2 pictures passed over (.jp2, .png), first: {tmp_path / 'b' / '2.jp2'}",
    )


SWITCHES = {
    "crop": "square",
    "context": 2.0,
    "min_side": 4.0,
    "difficult": "drop",
    "version": "v1.0",
    "unit": "scene",
    "class_names": "names.txt",
    "images": "pictures",
    "bands": (1, 2),
    "max_missing": 0.1,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_without_effect_is_refused(tmp_path: Path, name: str) -> None:
    """By every reader that does not have it; that all are known here is checked too."""
    assert set(SWITCHES) == {item.name for item in dataclasses.fields(Reading)}
    reading = Reading(**{name: SWITCHES[name]})  # type: ignore[arg-type]
    (tmp_path / "chips.file").write_text("")
    for format, reader in READERS.items():
        if name in reader.uses:
            continue
        source = tmp_path / "chips.file" if reader.takes == "file" else tmp_path
        with pytest.raises(DataError, match=rf"data.{name} would have no effect"):
            read_chips(source, format=format, reading=reading)


def test_a_leak_guard_without_effect_is_refused_for_folders_of_any_reader(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(_made(tmp_path / "cargo") / "a.png")
    for format in ("folder", "fusrs", "geotiff", "auto"):
        with pytest.raises(DataError, match=r"data.unit would have no effect"):
            read_chips(tmp_path, format=format, reading=Reading(unit="scene"))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
