"""The whole road through the command line, on a toy folder of PNG chips and a tiny ViT."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

import deblora.pipeline.classify.predict as predict
from builders import COUNTS, write_chips
from deblora.cli.main import main
from deblora.pipeline.classify.predict import new_features
from deblora.run.artifacts import FeatureTable

METHODS = ("zero-shot", "lora", "lora-and-zero-shot", "deblora", "contract", "shift", "semi-supervised")
STAGES = (
    "audit",
    "train-lora",
    "extract-base",
    "extract-lora",
    "cluster",
    "center",
    "calibrate",
    "train-deblora",
    "extract-deblora",
    *(f"evaluate-{name}" for name in METHODS),
    "choose",
    "scores",
    "report",
)
COLUMNS = [
    "dataset",
    "backbone",
    "method",
    "classifier",
    "metric",
    "group",
    "value",
    "standard_error",
    "ci_lower",
    "ci_upper",
    "n_classes",
    "n_test",
    "test_set",
    "split",
    "n_trials",
    "seed",
]
PRIORS = ("forward", "uniform", "backward")
GROUPS = ("head", "middle", "tail", "all")
CHOICE = {
    "method": "deblora",
    "classifier": "cross_entropy",
    **{key: ["deblora", "cross_entropy"] for key in ("best", "floor", "reference")},
    "gains": dict.fromkeys(("tail", "all"), dict.fromkeys(("value", "ci_lower", "ci_upper"), 0.0)),
    "sure": 0.0,
    "floor_scores": {"deblora": 0.5},
    "is_refitted": False,
    **dict.fromkeys(("fewest_val", "n_val"), 10),
    "candidates": [],
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def resume(recipe: Path, run: Path, *more: str) -> tuple[set[str], set[str]]:
    """Run again with --resume; return the stages that ran and those that were skipped, as the log tells."""
    before = len((run / "run.log").read_text())
    assert main(["run", str(recipe), "--out", str(run), "--resume", *more]) == 0
    new = (run / "run.log").read_text()[before:]
    return set(re.findall(r"INFO (\S+): done in", new)), set(
        re.findall(r"INFO (\S+): unchanged, skipped", new)
    )


def hashes(run: Path) -> dict[str, dict[str, str]]:
    stages = json.loads((run / "run.json").read_text())["stages"]
    return {
        name: record["outputs"] for name, record in stages.items() if name != "report"
    }  # it prints timings


def test_every_method_is_scored_in_every_group(finished: Path) -> None:
    rows = rows_of(finished / "eval" / "scores.csv")
    assert list(rows[0]) == COLUMNS
    methods = {row["method"] for row in rows}
    assert methods == {*METHODS, "strong", "guarded", "shipped"}
    pairs = {(row["method"], row["classifier"]) for row in rows}
    assert ("semi-supervised", "gaussians_both") in pairs and ("strong", "chosen") in pairs
    for pair in pairs:
        own = [r for r in rows if (r["method"], r["classifier"]) == pair]
        assert sorted(r["group"] for r in own if r["metric"] == "macro_f1") == sorted(GROUPS)
        assert {r["metric"] for r in own} == {"macro_f1", *(f"accuracy_{name}" for name in PRIORS)}
    rows = [row for row in rows if row["metric"] == "macro_f1"]
    assert {row["split"] for row in rows} == {"test"} and all(int(row["n_trials"]) > 0 for row in rows)
    assert {(row["dataset"], row["backbone"], row["seed"]) for row in rows} == {("toy", "huggingface", "0")}
    for row in rows:
        low, value, high = (float(row[key] or row["value"]) for key in ("ci_lower", "value", "ci_upper"))
        assert 0 <= low <= value <= high <= 1  # no interval where all draws agree
        assert int(row["n_classes"]) == (3 if row["group"] == "all" else 1)
    counts = json.loads((finished / "audit" / "groups.json").read_text())["counts"]
    assert {int(row["n_test"]) for row in rows} == {sum(counts["test"])} == {8 + 4 + 2}


def test_predictions_give_the_printed_scores(finished: Path) -> None:
    frozen = json.loads((finished / "audit" / "groups.json").read_text())
    names, members = frozen["class_names"], {**frozen["groups"], "all": [0, 1, 2]}
    assert [names[i] for group in ("head", "middle", "tail") for i in members[group]] == list(COUNTS)
    predictions = rows_of(finished / "eval" / "predictions.csv")
    test = {
        row["id"]: row["label"]
        for row in rows_of(finished / "audit" / "samples.csv")
        if row["split"] == "test"
    }
    behind = {
        (row["method"], row["classifier"]): tuple(row["value"].split())
        for row in rows_of(finished / "eval" / "choices.csv")
        if row["choice"] == "chosen"
    }
    for row in rows_of(finished / "eval" / "scores.csv"):
        if row["metric"] != "macro_f1":
            continue
        name = behind.get((row["method"], row["classifier"]), (row["method"], row["classifier"]))
        own = [p for p in predictions if (p["method"], p["classifier"]) == name]
        assert {p["id"]: p["true"] for p in own} == test and len(own) == len(test)
        scores = f1_score(
            [p["true"] for p in own],
            [p["predicted"] for p in own],
            labels=names,
            average=None,
            zero_division=0,
        )
        assert float(row["value"]) == pytest.approx(np.mean(scores[members[row["group"]]]), abs=1e-12)


def test_a_class_of_one_chip_trains_and_is_said_to_be_unjudged(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_chips(tmp_path / "toy", counts={"checks": 20, "rows": 12, "slope": 3})
    (data / "lone").mkdir()
    (data / "slope" / "002.png").rename(data / "lone" / "000.png")
    out = tmp_path / "run"
    assert main(["run", str(recipe), "--data.source", str(data), "--out", str(out)]) == 0
    said = "Means are over 2 of 4 classes; without a test chip: lone, slope."
    assert said in capsys.readouterr().out
    assert said.split(";")[0] in (out / "report" / "report.md").read_text()
    rows = [row for row in rows_of(out / "eval" / "scores.csv") if row["metric"] == "macro_f1"]
    assert {row["n_classes"] for row in rows if row["group"] == "all"} == {"2"}


def test_the_report_loads_nothing(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    assert "<html" in page and "toy on huggingface" in page and len(page) > 10_000
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.findall(r"""url\(\s*["']?\s*(?:https?:)?//|@import""", page)
    assert (finished / "report" / "report.md").stat().st_size > 0


def test_the_run_folder_is_left_clean(finished: Path) -> None:
    stages = json.loads((finished / "run.json").read_text())["stages"]
    assert tuple(stages) == STAGES
    assert not list((finished / "checkpoints").rglob("checkpoint-*"))
    assert len(rows_of(finished / "adapters" / "lora.history.csv")) == 6
    assert len(rows_of(finished / "adapters" / "deblora.history.csv")) == 4


def test_the_adapters_change_the_features(finished: Path) -> None:
    from safetensors.numpy import load_file

    base, lora, deblora = (
        load_file(finished / "features" / f"{name}.safetensors")["features"]
        for name in ("base", "lora", "deblora")
    )
    assert base.shape == lora.shape == deblora.shape == (sum(COUNTS.values()), 16)
    assert np.abs(lora - base).max() > 1e-4 and np.abs(deblora - lora).max() > 1e-6


def test_the_same_recipe_gives_the_same_files(recipe: Path, finished: Path, tmp_path: Path) -> None:
    assert main(["run", str(recipe), "--out", str(tmp_path / "again")]) == 0
    for name in ("scores.csv", "predictions.csv", "differences.csv"):
        assert (tmp_path / "again" / "eval" / name).read_bytes() == (finished / "eval" / name).read_bytes()


def test_resume_skips_all_but_the_audit(recipe: Path, run: Path) -> None:
    before = hashes(run)
    ran, skipped = resume(recipe, run)
    assert (ran, skipped) == ({"audit"}, set(STAGES) - {"audit"})
    assert hashes(run) == before


def test_other_clusters_rerun_only_what_depends_on_them(recipe: Path, run: Path) -> None:
    ran, skipped = resume(recipe, run, "--cluster.n_clusters", "5")
    features = {"train-lora", "extract-base", "extract-lora"}
    others = {
        f"evaluate-{name}" for name in ("zero-shot", "lora", "lora-and-zero-shot", "shift", "semi-supervised")
    }
    # The choice reads predictions, which may come out the same.
    assert skipped - {"choose"} == features | others and ran | skipped == set(STAGES)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["cluster"]["n_clusters"] == 5


@pytest.mark.parametrize("stage", ["lora", "deblora"])
def test_damaged_features_are_made_again(recipe: Path, run: Path, stage: str) -> None:
    path = run / "features" / f"{stage}.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    ran, skipped = resume(recipe, run)
    assert ran == {"audit", f"extract-{stage}"} and skipped == set(STAGES) - ran
    assert path.read_bytes() == good


def test_a_folder_in_use_is_refused(recipe: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["run", str(recipe), "--out", str(run)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_one_stage_can_be_run_alone(run: Path) -> None:
    (run / "eval" / "scores.csv").unlink()
    assert main(["evaluate", str(run)]) == 0
    assert (run / "eval" / "scores.csv").is_file()


@pytest.mark.parametrize("placement", ["residual", "residual-mlp", "continue", "fresh"])
def test_every_placement_goes_the_road(
    recipe: Path, run: Path, tmp_path: Path, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, skipped = resume(recipe, run, "--deblora.placement", placement)
    expected = {"audit", "train-deblora", "extract-deblora", "evaluate-deblora", "scores", "report"}
    assert ran - {"choose"} == expected and ran | skipped == set(STAGES)

    # New chips go through the same second adapter: those of the run get the features that it extracted.
    (run / "eval" / "choice.json").write_text(json.dumps(CHOICE))
    for path in (run / "classifiers" / "deblora").glob("cross_entropy.*"):
        shutil.copy(path, run / "classifiers" / "shipped" / path.name)
    seen: list[FeatureTable] = []

    def watched(*arguments: Any, **options: Any) -> FeatureTable:
        seen.append(new_features(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(predict, "new_features", watched)
    monkeypatch.setattr(predict, "check_model_files", lambda *_: None)  # the choice was written by hand
    source = Path(yaml.safe_load((run / "recipe.yaml").read_text())["data"]["source"])
    assert main(["predict", str(run), str(source), "--out", str(tmp_path / "found")]) == 0
    (found,) = seen
    known = FeatureTable.load(run / "features" / "deblora.safetensors").rows(found.ids)
    np.testing.assert_allclose(found.features, known, atol=1e-5)
    lora = FeatureTable.load(run / "features" / "lora.safetensors").rows(found.ids)
    assert np.abs(found.features - lora).max() > 1e-4


@pytest.mark.parametrize(
    "rate",
    [2e-3, 1e-4],
    ids=["same recipe", "other rate"],
)
def test_a_killed_adapter_training_goes_on_to_the_same_adapter(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """With another learning rate the checkpoints of the old one must not be gone on from."""
    from deblora.train.samples import TrainingOrder

    def train_lora(folder: Path, learning_rate: float) -> int:
        values = yaml.safe_load((folder / "recipe.yaml").read_text())
        values["lora"].update(learning_rate=learning_rate, checkpointing_steps=2, max_train_steps=7)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
        return main(["train-lora", str(folder)])

    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    assert train_lora(whole, rate) == 0
    good, reads = TrainingOrder.__getitem__, []

    def dies(self: TrainingOrder, index: int) -> dict[str, torch.Tensor]:
        reads.append(index)
        if len(reads) > 5 * 8:
            raise RuntimeError("killed")
        return good(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingOrder, "__getitem__", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train_lora(run, 2e-3)
    assert (run / "checkpoints" / "lora" / "checkpoint-4" / "trainer_state.json").is_file()
    assert train_lora(run, rate) == 0
    for name in ("lora/adapter_model.safetensors", "lora.history.csv"):
        assert (run / "adapters" / name).read_bytes() == (whole / "adapters" / name).read_bytes()


def test_a_run_tells_what_its_rows_cost(finished: Path) -> None:
    rows = {row["method"]: row for row in rows_of(finished / "eval" / "costs.csv")}
    assert list(rows) == ["zero-shot", "lora", "deblora"]
    assert rows["zero-shot"]["n_trained"] == "0"
    # rank 2 on query, key, value (16 to 16) and on the MLP (16 to 32 and back), in two layers
    one = 2 * 2 * (3 * (16 + 16) + 2 * (16 + 32))
    assert (int(rows["lora"]["n_trained"]), int(rows["deblora"]["n_trained"])) == (one, 2 * one)
    assert int(rows["lora"]["n_train_chips"]) < sum(COUNTS.values())
    assert int(rows["lora"]["train_peak_bytes"]) > 10**7
