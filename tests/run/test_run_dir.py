"""The run folder: refusal, records, fingerprints."""

import subprocess
import sys
from pathlib import Path

import pytest

from deblora.errors import ArtifactError
from deblora.run.run_dir import RunDir, fingerprint, hold_all


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


def _chain(root: Path) -> RunDir:
    """Three stages, each of which reads what the one before wrote."""
    run = RunDir.create(root / "run", resume=False, overwrite=False)
    before: list[Path] = []
    for name in ("train", "extract", "evaluate"):
        file = run.root / name / "out.txt"
        file.parent.mkdir()
        file.write_text(name)
        run.finish(name, "key", [file.parent], 1.0, inputs=run.digests(before))
        before = [file]
    return run


def test_what_its_stage_wrote_is_fresh(tmp_path: Path) -> None:
    run = _chain(tmp_path)
    run.check_fresh(run.root / "evaluate")
    run.check_fresh(run.root / "nobody" / "knows.txt")


@pytest.mark.parametrize("change", ["touched", "removed"])
def test_a_changed_file_is_stale(tmp_path: Path, change: str) -> None:
    run = _chain(tmp_path)
    file = run.root / "evaluate" / "out.txt"
    file.write_text("") if change == "touched" else file.unlink()
    with pytest.raises(ArtifactError, match=r"^stale: .*out.txt is not what evaluate wrote; run deblora run"):
        run.check_fresh(run.root / "evaluate")


def test_an_earlier_stage_run_anew_makes_what_follows_stale(tmp_path: Path) -> None:
    run = _chain(tmp_path)
    file = run.root / "train" / "out.txt"
    file.write_text("other weights")
    run.finish("train", "key", [file.parent], 1.0)
    run.check_fresh(file.parent)
    with pytest.raises(
        ArtifactError, match=r"^stale: train has written train/out.txt anew since extract read it"
    ):
        run.check_fresh(run.root / "evaluate")


HOLDER = """
import sys, time
from pathlib import Path
from deblora.run.run_dir import RunDir
with RunDir.open(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match="another process works in"), run.hold():
            pass
        with (
            pytest.raises(ArtifactError, match="another process works in"),
            hold_all([tmp_path / "b", run.root]),
        ):
            pass
        assert not (tmp_path / "b").exists()  # what was only just begun is taken back
        with pytest.raises(ArtifactError, match="another process works in"):
            RunDir.create(run.root, resume=False, overwrite=True)
        run.forget_start()  # the other process has begun it
        assert run.manifest() == {"stages": {}}
    finally:
        first.kill()
        first.wait()
        if first.stdout is not None:
            first.stdout.close()
    with run.hold():
        pass
    with run.hold():
        pass


def test_a_comparison_keeps_other_processes_out_of_its_runs(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    run.finish("audit", "key", [], 1.0)
    with hold_all([run.root]), pytest.raises(ArtifactError, match="another process works in"), run.hold():
        pass
    with run.hold():
        assert run.record("audit")["fingerprint"] == "key"


def test_a_manifest_that_is_nested_without_end_is_damaged(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    (run.root / "run.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ArtifactError, match="damaged"):
        run.manifest()
