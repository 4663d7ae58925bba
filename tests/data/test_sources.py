"""Paths stay in their folder, links included; labels become classes."""

from pathlib import Path

import pytest

from deblora.data.sources import Home, class_indices, read_text
from deblora.errors import DataError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "a").mkdir(parents=True)
    (tmp_path / "home" / "a" / "1.png").write_text("x")
    (tmp_path / "out.png").write_text("x")
    (tmp_path / "home" / "link.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "home" / "inner.png").symlink_to(tmp_path / "home" / "a" / "1.png")
    (tmp_path / "home" / "loop.png").symlink_to(tmp_path / "home" / "loop.png")
    (tmp_path / "home" / "away").symlink_to(tmp_path)
    return tmp_path / "home"


def test_a_path_means_one_file_however_it_is_written(home: Path) -> None:
    guard = Home(home)
    for text in ("a/1.png", "./a/1.png", "a/../a/1.png", "inner.png"):
        assert guard.file(text, "l:1") == (home / "a" / "1.png").resolve()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../out.png", "leaves the folder"),
        ("/etc/hostname", "leaves the folder"),
        ("link.png", "leaves the folder"),
        ("away/out.png", "leaves the folder"),
        ("..", "leaves the folder"),
        ("a", "does not exist"),
        ("none.png", "does not exist"),
        ("a/1.png/x", "does not exist"),
        ("", "the path is empty"),
        ("loop.png", "not a usable path"),
        ("a\0b", "not a usable path"),
        ("n" * 5000, "not a usable path"),
    ],
)
def test_what_is_no_file_inside_is_refused(home: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^l:7: .*{message}"):
        Home(home).file(text, "l:7")


def test_numbers_are_sorted_by_value_and_names_by_letter() -> None:
    assert class_indices(["10", "9", "10"], "l")[0] == ("9", "10")
    assert class_indices(["b", "a", "10"], "l")[1].tolist() == [2, 1, 0]


@pytest.mark.parametrize("label", ["7" * 5000, "x" * 5000])
def test_labels_without_end_are_refused(label: str) -> None:
    with pytest.raises(DataError, match=r"l:2: a label of 5000 letters"):
        class_indices(["a", label], "l", places=["l:1", "l:2"])


def test_texts_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfship")
    assert read_text(tmp_path / "a.txt") == "ship"
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="must be a UTF-8 text file"):
        read_text(tmp_path / "a.txt")
