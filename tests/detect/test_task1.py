import zipfile
from pathlib import Path

import numpy as np
import pytest

from deblora.detect.task1 import QuadDetections, read_task1, write_task1
from deblora.errors import DataError

CLASSES = ("ship", "large-vehicle", "helicopter")


def some_detections(rng: np.random.Generator, n: int = 20) -> QuadDetections:
    names = tuple(sorted(rng.choice(CLASSES[:2], n).tolist()))
    images = tuple(f"P{i:04d}" for i in rng.integers(0, 5, n))
    return QuadDetections(images, names, rng.random(n), rng.normal(size=(n, 4, 2)) * 1000)


@pytest.mark.parametrize("name", ["folder", "results.zip"])
def test_written_detections_read_back(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    detections = some_detections(rng)
    write_task1(tmp_path / name, detections, class_names=CLASSES)
    read = read_task1(tmp_path / name)
    assert read.image_names == detections.image_names
    assert read.class_names == detections.class_names
    np.testing.assert_array_equal(read.scores, detections.scores)
    np.testing.assert_array_equal(read.quads, detections.quads)


def test_the_same_detections_give_the_same_zip(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    detections = some_detections(rng)
    for year, name in ((2020, "a.zip"), (2021, "b.zip")):
        monkeypatch.setattr("time.localtime", lambda *_, year=year: (year, 1, 1, 0, 0, 0, 0, 1, 0))
        write_task1(tmp_path / name, detections, class_names=CLASSES)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_every_class_has_a_file(tmp_path: Path, rng: np.random.Generator) -> None:
    write_task1(tmp_path / "plain", some_detections(rng), class_names=CLASSES)
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == sorted(
        f"Task1_{name}.txt" for name in CLASSES
    )
    assert (tmp_path / "plain" / "Task1_helicopter.txt").read_text() == ""


def test_files_of_others(tmp_path: Path) -> None:
    line = "P0001 0.5 1 2 3 4 5 6 7 8"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("results/Task1_ship.txt", f"{line}\r\n\r\n{line}\r\n")
        archive.writestr("results/notes.txt", "not for us")
    read = read_task1(tmp_path / "b.zip")
    assert read.class_names == ("ship", "ship")
    assert read.quads[1].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P0001 0.5 1 2 3 4 5 6 7", "9 values, expected 10"),
        ("P0001.png 0.5 1 2 3 4 5 6 7 8 9", "11 values, expected 10"),
        ("P0001 high 1 2 3 4 5 6 7 8", "'high' is not a finite number"),
        ("P0001 0.5 1 2 3 4 5 6 7 nan", "'nan' is not a finite number"),
    ],
)
def test_malformed_lines_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "Task1_ship.txt"
    path.write_text(f"P0001 0.5 1 2 3 4 5 6 7 8\n{line}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_task1(tmp_path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_other_bad_input(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="no Task1_<class>"):
        read_task1(tmp_path)
    (tmp_path / "c.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="cannot read the detections"):
        read_task1(tmp_path / "c.zip")
    with pytest.raises(DataError, match="has the class"):
        write_task1(tmp_path, some_detections(rng), class_names=("plane",))
    spaced = QuadDetections(("my image",), ("ship",), np.ones(1), np.zeros((1, 4, 2)))
    with pytest.raises(DataError, match="holds a space"):
        write_task1(tmp_path, spaced, class_names=CLASSES)
    with pytest.raises(ValueError, match="do not fit"):
        QuadDetections(("a",), ("ship",), np.ones(2), np.zeros((1, 4, 2)))


def test_archives_made_to_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "task1.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Task1_ship.txt", "a 0.5 0 0 9 0 9 9 0 9\n" * 2000)
    assert len(read_task1(path).scores) == 2000
    monkeypatch.setattr("deblora.detect.task1.MOST_UNPACKED", 1000)
    with pytest.raises(DataError, match="bytes of detections once unpacked"):
        read_task1(path)
