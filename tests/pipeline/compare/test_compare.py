"""Comparison and study through the command line, on toy chips."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from deblora.cli.main import main
from deblora.errors import ArtifactError
from deblora.pipeline.compare.merge import read_run
from deblora.pipeline.compare.seeds import stages_of
from deblora.recipe.classify import read_recipe, recipe_from


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    assert main(command(recipe, out)) == 0
    return out


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    rows = ["--methods", "contract", "shift"]
    return ["compare", str(recipe), "--seeds", "2", "--skip-deblora", "--out", str(out), *rows, *more]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_seed_and_row_is_in_the_table(finished: Path) -> None:
    rows = rows_of(finished / "results.csv")
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert {row["method"] for row in rows} == {"lora", "contract", "shift", "strong", "shipped"}
    assert {row["metric"] for row in rows} == {
        "macro_f1",
        "accuracy_forward",
        "accuracy_uniform",
        "accuracy_backward",
    }


def test_the_summary_pairs_with_three_baselines(finished: Path) -> None:
    rows = rows_of(finished / "summary.csv")
    row = next(r for r in rows if (r["method"], r["metric"], r["group"]) == ("shift", "macro_f1", "tail"))
    for baseline in ("lora_cross_entropy", "lora_balanced_softmax", "strong"):
        assert row[f"minus_{baseline}_n"] == "2"
    assert row["n_seeds"] == "2"


def test_the_notes_hold_no_path(finished: Path, recipe: Path) -> None:
    text = (finished / "results.json").read_text() + (finished / "index.html").read_text()
    assert str(recipe.parent) not in text
    notes = json.loads((finished / "results.json").read_text())
    (study,) = notes["studies"]
    assert study["seeds"] == [0, 1] and len(study["data_sha256"]) == 2
    chosen = next(
        line for line in notes["chosen"] if line["method"] == "strong" and line["choice"] == "chosen"
    )
    assert chosen["seed 0"].startswith("lora ")


def test_predictions_give_the_scores(finished: Path) -> None:
    run = finished / "seed-0" / "eval"
    rows = [
        row
        for row in rows_of(run / "predictions.csv")
        if (row["method"], row["classifier"]) == ("lora", "balanced_softmax")
    ]
    true, guessed = (np.array([row[key] for row in rows]) for key in ("true", "predicted"))
    hits = [(true == c) & (guessed == c) for c in np.unique(true)]
    both = [(true == c).sum() + (guessed == c).sum() for c in np.unique(true)]
    expected = np.mean([2 * hit.sum() / n for hit, n in zip(hits, both, strict=True)])
    found = next(
        row
        for row in rows_of(run / "scores.csv")
        if (row["method"], row["classifier"], row["metric"], row["group"])
        == ("lora", "balanced_softmax", "macro_f1", "all")
    )
    assert float(found["value"]) == pytest.approx(expected)


def test_a_finished_comparison_is_only_rendered_again(
    finished: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("seed-*/**/*") if path.is_file()}
    page = (finished / "index.html").read_bytes()
    (finished / "index.html").unlink()
    monkeypatch.setattr("deblora.pipeline.compare.seeds.run_part", None)  # not even started
    assert main(command(recipe, finished)) == 0
    assert (finished / "index.html").read_bytes() == page
    assert {
        path: path.stat().st_mtime_ns for path in finished.glob("seed-*/**/*") if path.is_file()
    } == before


def test_other_settings_do_what_an_edited_recipe_does(finished: Path, recipe: Path, tmp_path: Path) -> None:
    given, edited = (Path(shutil.copytree(finished, tmp_path / name)) for name in ("given", "edited"))
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("n_bootstrap: ", "n_bootstrap: 1"))
    n_draws = yaml.safe_load(other.read_text())["evaluate"]["n_bootstrap"]
    calls = {given: (recipe, "--evaluate.n_bootstrap", str(n_draws)), edited: (other,)}
    for out, (path, *more) in calls.items():
        before = len((out / "seed-0" / "run.log").read_text())
        words = command(path, out)
        assert main([*words[:2], *more, *words[2:]]) == 0
        new = (out / "seed-0" / "run.log").read_text()[before:]
        assert "train-lora: unchanged" in new and "scores: done" in new
    for name in ("results.csv", "seed-0/recipe.yaml", "seed-1/recipe.yaml"):
        assert (given / name).read_bytes() == (edited / name).read_bytes()
    assert (given / "seed-0" / "recipe.yaml").read_text() != (finished / "seed-0" / "recipe.yaml").read_text()


def test_a_further_row_keeps_the_others(finished: Path, recipe: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    log = out / "seed-0" / "run.log"
    before = len(log.read_text())
    assert main(command(recipe, out, "contract-class-mean", "semi-supervised", "transductive")) == 0
    new = log.read_text()[before:]
    assert "train-lora: unchanged" in new and "evaluate-lora: unchanged" in new
    assert "evaluate-contract-class-mean: done" in new
    scored = {(row["method"], row["classifier"]) for row in rows_of(out / "results.csv")}
    for method in ("semi-supervised", "transductive"):
        assert {(method, "gaussians_lora"), (method, "chosen")} <= scored
    assert "guarded | chosen" in (out / "report.md").read_text()


def test_the_heads_of_a_run(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished / "seed-0", tmp_path / "run"))
    assert main(["evaluate", str(run)]) == 0
    methods = {row["method"] for row in rows_of(run / "eval" / "scores.csv")}
    assert {"zero-shot", "contract-class-mean", "contract-random-head-mean"} <= methods
    assert "semi-supervised" in methods
    assert not {"deblora", "transductive"} & methods  # the latter on request only


def test_damaged_tables_are_named(finished: Path, recipe: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    (out / "seed-0" / "eval" / "scores.csv").write_text("method\n")
    with pytest.raises(ArtifactError, match="it is not what scores wrote"):
        read_run(out / "seed-0", "seed-0")


def test_the_report_comes_after_the_choice_and_no_stage_twice(recipe: Path) -> None:
    settings = recipe_from(read_recipe(recipe))
    names = [stage.name for stage in stages_of(settings, ("lora", "deblora", "semi-supervised", "sade"))]
    assert names[-3:] == ["choose", "scores", "report"] and len(set(names)) == len(names)
    assert names.index("train-row-sade") < names.index("evaluate-sade") < names.index("scores")
    first = ["audit", "train-lora", "extract-base", "extract-lora"]
    shift = [stage.name for stage in stages_of(settings, ("shift",))]
    last = ["evaluate-lora", "evaluate-shift", "choose", "scores"]
    assert shift == [*first, "cluster", "center", "calibrate", *last]  # no second adapter
    plain = [stage.name for stage in stages_of(settings, ("zero-shot",))]
    assert plain == [*first, "evaluate-zero-shot", "evaluate-lora", "choose", "scores"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--methods", "nonsense"], "nonsense is no method"),
        (["--skip-deblora", "--methods", "deblora"], "drop one of them"),
        (["--lora.rnak", "4"], "did you mean lora.rank?"),
        (["--lora.rank=four", "--seed", "-1"], "seed is -1, allowed are 0"),
        (
            ["--methods", "lora", "--lora.rank", "--jobs", "1"],
            "--lora.rank has no value; write --lora.rank VALUE",
        ),
    ],
)
def test_bad_options_are_named(
    more: list[str], message: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(recipe), "--out", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_foreign_folders_are_left_alone(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(command(recipe, tmp_path)) == 2
    assert "no part of a comparison" in capsys.readouterr().err


def test_a_folder_inside_the_data_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(yaml.safe_load(recipe.read_text())["data"]["source"])
    assert main(command(recipe, source / "out")) == 2
    assert "inside the data" in capsys.readouterr().err
