import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deblora.data.longtail import Groups
from deblora.data.scenes.dota import (
    CLASSES_V1_0,
    CLASSES_V1_5,
    CLASSES_V2_0,
    OCTOBER_2024_GROUPS,
    REFERENCE_GROUPS,
    Labels,
    parse_labels,
    read_labels,
    reference_groups,
    write_labels,
)
from deblora.errors import DataError

LINE = "1 2 5 2 5 4 1 4"


def test_class_lists_and_groups() -> None:
    assert [len(names) for names in (CLASSES_V1_0, CLASSES_V1_5, CLASSES_V2_0)] == [15, 16, 18]
    assert set(CLASSES_V1_0) < set(CLASSES_V1_5) < set(CLASSES_V2_0)
    for names in (CLASSES_V1_0, tuple(sorted(CLASSES_V1_0))):
        groups = reference_groups(names)
        assert [len(group) for group in groups.named().values()] == [3, 6, 6]
        assert {names[i] for i in groups.head} == set(REFERENCE_GROUPS["head"])
        other = reference_groups(names, OCTOBER_2024_GROUPS)
        assert [len(group) for group in other.named().values()] == [4, 5, 6]
        assert {names[i] for i in other.head} - {names[i] for i in groups.head} == {"plane"}
        assert other.tail == groups.tail
    assert isinstance(groups, Groups)


def test_groups_of_v1_0_are_not_applied_to_later_versions() -> None:
    with pytest.raises(DataError, match="group them by counts"):
        reference_groups(CLASSES_V2_0)


def test_header_flags_and_names() -> None:
    text = f"imagesource:GoogleEarth\r\ngsd:0.25\r\n\r\n{LINE} ship 1\r\n{LINE} plane\r\n  {LINE} large vehicle 0  \r\n"
    labels = parse_labels(text, origin="here")
    assert labels.class_names == ("ship", "plane", "large vehicle")
    assert labels.difficult.tolist() == [1, 0, 0]
    assert labels.quads[0].tolist() == [[1, 2], [5, 2], [5, 4], [1, 4]]
    assert (labels.gsd, labels.source) == (0.25, "GoogleEarth")
    assert [labels.place(row) for row in range(3)] == ["here:4", "here:5", "here:6"]
    assert labels.select(np.array([2])).place(0) == "here:6"


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("\n\n", 0),
        ("gsd:null\n", 0),
        ("acquisition dates:2016-05-04\nimagesource:GF-2\ngsd:null\n" + f"{LINE} ship 2\n", 1),
        (f"-1.5 2e1 5 2 5 4 1 4 ship 0\n{LINE} ship", 2),
        (f"{LINE}\tship\t0", 1),
    ],
)
def test_tolerated_files(text: str, n: int) -> None:
    labels = parse_labels(text, origin="here")
    assert labels.quads.shape == (n, 4, 2)
    assert len(labels.class_names) == len(labels.difficult) == n
    assert labels.gsd is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 4 ship 0", "6 values"),
        (LINE, "8 values"),
        ("1 2 3 four 5 6 7 8 ship 0", "'four' is not a finite number"),
        ("1 2 3 nan 5 6 7 8 ship 0", "'nan' is not a finite number"),
        ("1 2 3 inf 5 6 7 8 ship 0", "'inf' is not a finite number"),
        (f"{LINE} ship 3", "difficult is '3'"),
        (f"{LINE} ship 0.5", "difficult is '0.5'"),
        (f"{LINE} 7 8 ship 0", "the category is the number '7'"),
        ("gsd:0.1", "1 values"),
    ],
)
def test_malformed_lines_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "P0001.txt"
    path.write_text(f"gsd:0.5\n{LINE} ship 0\n{line}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the gsd is 'coarse'"):
        parse_labels("gsd:coarse\n", origin="here")
    with pytest.raises(DataError, match="txt cannot be read"):
        read_labels(tmp_path / "absent.txt")
    (tmp_path / "P1.txt").write_bytes(b"\xff\xfe\x00ship")
    with pytest.raises(DataError, match="txt cannot be read"):
        read_labels(tmp_path / "P1.txt")


def assert_equal(a: Labels, b: Labels) -> None:
    np.testing.assert_array_equal(a.quads, b.quads)
    np.testing.assert_array_equal(a.difficult, b.difficult)
    assert (a.class_names, a.gsd, a.source) == (b.class_names, b.gsd, b.source)


def test_written_labels_read_back(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = Labels(
        rng.normal(size=(5, 4, 2)) * 1e4, ("a", "b c", "a", "d", "a"), np.array([0, 1, 2, 0, 0]), 0.1, "x"
    )
    write_labels(tmp_path / "P2.txt", labels)
    write_labels(tmp_path / "P1.txt", labels.select(np.array([], dtype=np.int64)))
    assert_equal(read_labels(tmp_path / "P2.txt"), labels)
    assert not len(read_labels(tmp_path / "P1.txt").quads)


def test_selecting_rows() -> None:
    labels = parse_labels(f"{LINE} a 0\n{LINE} b 1\n{LINE} c 2\n", origin="here").select(np.array([2, 0]))
    assert labels.class_names == ("c", "a")
    assert labels.difficult.tolist() == [2, 0]


@pytest.mark.shared
def test_real_dota_labels(shared: Callable[[str], Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(shared("data/dota_sample/dota_sample.zip")) as archive:
        texts = {name: archive.read(f"labelTxt/{name}.txt").decode() for name in ("P0706", "P1888")}
    labels = parse_labels(texts["P0706"], origin="P0706")
    assert [labels.class_names.count(name) for name in ("ship", "harbor")] == [531, 5]
    assert labels.difficult.sum() == 6
    assert labels.gsd == 0.255589285596
    assert labels.quads[..., 0].max() == 1112
    assert set(parse_labels(texts["P1888"], origin="P1888").class_names) == {"large-vehicle", "small-vehicle"}
    write_labels(tmp_path / "P0706.txt", labels)
    assert_equal(read_labels(tmp_path / "P0706.txt"), labels)
