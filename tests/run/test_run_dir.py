"""The run folder: refusal, records, fingerprints."""

from pathlib import Path

import pytest

from deblora.errors import ArtifactError
from deblora.run.run_dir import RunDir, fingerprint


def test_a_new_folder_becomes_a_run(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a" / "b", resume=False, overwrite=False)
    assert RunDir.open(run.root).manifest() == {"stages": {}}


def test_a_run_in_use_needs_a_word(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    (run.root / "note.txt").write_text("kept")
    with pytest.raises(ArtifactError, match="--resume"):
        RunDir.create(run.root, resume=False, overwrite=False)
    RunDir.create(run.root, resume=True, overwrite=False)
    assert (run.root / "note.txt").exists()
    RunDir.create(run.root, resume=False, overwrite=True)
    assert not (run.root / "note.txt").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="not a deblora run"):
        RunDir.create(tmp_path, resume=True, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        RunDir.create(tmp_path / "x", resume=False, overwrite=False)


def test_a_stage_is_done_until_its_key_or_a_file_changes(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    output = run.root / "out" / "x.csv"
    output.parent.mkdir()
    output.write_text("1")
    assert not run.is_done("stage", "key")
    run.finish("stage", "key", [output.parent], 1.0)
    assert run.is_done("stage", "key")
    assert not run.is_done("stage", "another key")
    output.write_text("2")
    assert not run.is_done("stage", "key")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    (run.root / "run.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        run.record("stage")


def test_opening_something_else_fails(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a run folder"):
        RunDir.open(tmp_path)


def test_a_fingerprint_does_not_depend_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": 2}, {}) == fingerprint({"b": 2, "a": 1}, {})
    assert fingerprint({"a": 1}, {}) != fingerprint({"a": 2}, {})
