"""The rule by which a stage runs, is skipped or is taken over."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deblora.errors import ArtifactError
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage, check_current, run_stage


@dataclass(frozen=True)
class Toy:
    seed: int = 0
    settings: dict[str, int] = field(default_factory=dict)


def stage(done: list[Path], *, always_runs: bool = False) -> Stage[Toy]:
    def work(run: RunDir, recipe: Toy) -> None:
        done.append(run.root)
        (run.root / "out.txt").write_text(f"{recipe.settings}")

    return Stage[Toy](
        name="toy",
        settings=lambda recipe: recipe.settings,
        inputs=lambda run: [run.root / "in.txt"],
        outputs=lambda run: [run.root / "out.txt"],
        work=work,
        always_runs=always_runs,
    )


def folder(root: Path) -> RunDir:
    run = RunDir.create(root, resume=False, overwrite=False)
    (run.root / "in.txt").write_text("in")
    return run


def test_a_stage_runs_again_only_for_a_change(tmp_path: Path) -> None:
    run, done = folder(tmp_path / "run"), list[Path]()
    toy = stage(done)
    assert run_stage(toy, run, Toy())
    assert not run_stage(toy, run, Toy())
    changes = (
        lambda: Toy(seed=1),
        lambda: Toy(settings={"a": 1}),
        lambda: (run.root / "in.txt").write_text("other") and Toy(settings={"a": 1}),
        lambda: (run.root / "out.txt").write_text("touched") and Toy(settings={"a": 1}),
    )
    for n, change in enumerate(changes, start=2):
        recipe = change()
        assert run_stage(toy, run, recipe) and len(done) == n
        assert not run_stage(toy, run, recipe)
    assert run.record("toy")["seconds"] >= 0 and "in.txt" in run.record("toy")["inputs"]


def test_a_stage_that_looks_outside_always_runs(tmp_path: Path) -> None:
    run, done = folder(tmp_path / "run"), list[Path]()
    for _ in range(2):
        assert run_stage(stage(done, always_runs=True), run, Toy())
    assert len(done) == 2


def test_a_stage_is_taken_over_from_a_run_that_finished_it(tmp_path: Path) -> None:
    one, other, done = folder(tmp_path / "one"), folder(tmp_path / "other"), list[Path]()
    toy = stage(done)
    run_stage(toy, one, Toy())
    assert not run_stage(toy, other, Toy(), donors=[one])
    assert done == [one.root] and (other.root / "out.txt").read_text() == "{}"
    assert run_stage(toy, other, Toy(settings={"a": 1}), donors=[one])
    assert (one.root / "out.txt").read_text() == "{}"  # its bytes were linked and are left alone


def test_what_follows_a_changed_stage_is_refused(tmp_path: Path) -> None:
    run, toy = folder(tmp_path / "run"), stage([])
    check_current(toy, run, Toy())  # it never ran
    run_stage(toy, run, Toy())
    check_current(toy, run, Toy())
    with pytest.raises(ArtifactError, match="^stale: toy is out of date"):
        check_current(toy, run, Toy(seed=1))


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    with pytest.raises(ArtifactError, match=r"toy needs .*in\.txt, which is missing"):
        run_stage(stage([]), run, Toy())
