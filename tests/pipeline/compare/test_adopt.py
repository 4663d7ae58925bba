"""Taking over a stage from another run: by content, without computing, and without ever writing into the other run."""

from pathlib import Path

import pytest

from deblora.recipe.classify import Recipe, recipe_from
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage, run_stage

CALLS: list[Path] = []


def work(run: RunDir, recipe: Recipe) -> None:
    CALLS.append(run.root)
    folder = run.adapter("lora")
    folder.mkdir(parents=True, exist_ok=True)
    # In place, as libraries write that know nothing of links.
    (folder / "weights").write_text(f"rank {recipe.lora.rank}, seed {recipe.seed}")


STAGE = Stage(
    name="toy",
    settings=lambda recipe: recipe.lora.__dict__,
    inputs=lambda run: [run.samples],
    outputs=lambda run: [run.adapter("lora")],
    work=work,
)


def recipe_of(rank: int = 8, n_clusters: int = 32, seed: int = 0) -> Recipe:
    return recipe_from(
        {
            "seed": seed,
            "data": {"source": "x"},
            "lora": {"rank": rank},
            "cluster": {"n_clusters": n_clusters},
        }
    )


@pytest.fixture(autouse=True)
def forget() -> None:
    CALLS.clear()


def make_run(root: Path, samples: str = "same") -> RunDir:
    run = RunDir.create(root, resume=False, overwrite=False)
    run.samples.parent.mkdir()
    run.samples.write_text(samples)
    return run


@pytest.fixture
def donor(tmp_path: Path) -> RunDir:
    run = make_run(tmp_path / "donor")
    run_stage(STAGE, run, recipe_of())
    CALLS.clear()
    return run


def weights(run: RunDir) -> Path:
    return run.adapter("lora") / "weights"


def test_an_equal_stage_is_taken_over(donor: RunDir, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert not run_stage(STAGE, run, recipe_of(n_clusters=8), donors=[donor])
    assert CALLS == []
    assert weights(run).read_text() == "rank 8, seed 0"
    assert weights(run).stat().st_ino == weights(donor).stat().st_ino
    assert run.record("toy") == donor.record("toy")
    assert not run_stage(STAGE, run, recipe_of())  # done, also without the donor


@pytest.mark.parametrize(
    ("recipe", "samples"), [(recipe_of(rank=4), "same"), (recipe_of(seed=1), "same"), (recipe_of(), "other")]
)
def test_other_settings_seeds_or_inputs_are_computed(
    recipe: Recipe, samples: str, donor: RunDir, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", samples)
    assert run_stage(STAGE, run, recipe, donors=[donor])
    assert [run.root] == CALLS


def test_a_changed_donor_gives_nothing(donor: RunDir, tmp_path: Path) -> None:
    weights(donor).write_text("changed")
    run = make_run(tmp_path / "run")
    assert run_stage(STAGE, run, recipe_of(), donors=[donor])
    assert weights(run).read_text() == "rank 8, seed 0"


def test_running_again_leaves_the_donor_as_it_was(donor: RunDir, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run_stage(STAGE, run, recipe_of(), donors=[donor])
    assert run_stage(STAGE, run, recipe_of(rank=2), donors=[donor])
    assert weights(run).read_text() == "rank 2, seed 0"
    assert weights(donor).read_text() == "rank 8, seed 0"
    assert not run_stage(STAGE, donor, recipe_of())


def test_what_lay_there_is_replaced(donor: RunDir, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.adapter("lora").mkdir(parents=True)
    (run.adapter("lora") / "old").write_text("of another placement")
    run_stage(STAGE, run, recipe_of(), donors=[donor])
    assert [path.name for path in run.adapter("lora").iterdir()] == ["weights"]


def test_disks_without_links_get_copies(
    donor: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    run = make_run(tmp_path / "run")
    assert not run_stage(STAGE, run, recipe_of(), donors=[donor])
    assert weights(run).read_text() == "rank 8, seed 0"
    assert weights(run).stat().st_nlink == 1


def test_a_run_is_not_its_own_donor(donor: RunDir) -> None:
    weights(donor).unlink()
    assert run_stage(STAGE, donor, recipe_of(), donors=[donor])
