"""Files appear whole or not at all, with the modes that the user asks for; what killed writes left is removed."""

import os
from pathlib import Path

import pytest

from deblora.files import folder_written_at_once, is_leftover, remove_leftovers, write_atomic


def test_a_file_that_fails_to_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "a.txt", "before")

    def full(_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(tmp_path / "a.txt", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with folder_written_at_once(folder) as new:
        (new / "one").write_text("1")
    with pytest.raises(RuntimeError), folder_written_at_once(folder) as new:
        (new / "two").write_text("2")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["one"]
    with folder_written_at_once(folder) as new:
        (new / "two").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_leftovers_of_killed_writes_are_told_from_files_of_the_user(tmp_path: Path) -> None:
    own = [tmp_path / name for name in (".notes.part", "a.part", ".x.0123456.part", "run.json")]
    for path in (*own, tmp_path / "deep" / ".run.json.01234567.part", tmp_path / ".a.89abcdef.part" / "file"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(own)
    assert not any(is_leftover(path) for path in tmp_path.rglob("*"))
