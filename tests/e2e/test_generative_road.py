"""The whole road on a tiny Stable Diffusion and a tiny CLIP, from chips to exported adapters and results."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import recipe_values, write_chips, write_recipe
from deblora.cli.main import main
from deblora.errors import RecipeError
from deblora.models.adapters.lora import CONFIG, SIDECAR
from deblora.pipeline.classify.road import pipeline_of
from deblora.recipe.classify import recipe_from
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir
from deblora.run.stage import run_stage
from generative_builders import write_clip, write_stable_diffusion

COUNTS = {"checks": 14, "rows": 10, "slope": 8}


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chips(tmp_path_factory.mktemp("chips") / "data", counts=COUNTS)


def short(source: Path, backbone: dict[str, Any], **lora: Any) -> dict[str, Any]:
    values = recipe_values(source, Path())
    steps = {"max_train_steps": 2, "train_batch_size": 4}
    return {**values, "backbone": backbone, "lora": {"rank": 2, **steps, **lora}, "deblora": steps}


def test_stable_diffusion_from_chips_to_an_exported_adapter(chips: Path, tmp_path: Path) -> None:
    model = write_stable_diffusion(tmp_path / "sd")
    backbone = {"name": "stable-diffusion", "path": str(model), "draws": 2}
    recipe = recipe_from(short(chips, backbone, loss="denoise", alpha=4))
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    for stage in pipeline_of(recipe)[:-1]:
        assert run_stage(stage, run, recipe)
    for stage in pipeline_of(recipe)[1:-1]:  # the audit always runs
        assert not run_stage(stage, run, recipe)
    for name in ("lora", "deblora"):
        record = json.loads((run.adapter(name) / SIDECAR).read_text())
        assert record["pool"] == "mean of mid at t = 1 over 2 draws, prompt ''"
        assert record["feature_size"] == 32
        modules = json.loads((run.adapter(name) / CONFIG).read_text())["target_modules"]
        assert {module.split(".")[-1] for module in modules} == {"to_q", "to_k", "to_v", "0"}
    tables = {name: FeatureTable.load(run.features(name)) for name in ("base", "lora", "deblora")}
    assert tables["base"].features.shape == (sum(COUNTS.values()), 32)
    assert not np.array_equal(tables["base"].features, tables["lora"].features)
    assert not np.array_equal(tables["deblora"].features, tables["lora"].features)
    (run.root / "recipe.yaml").write_text(json.dumps(short(chips, backbone, loss="denoise", alpha=4)))
    assert main(["extract", str(run.root)]) == 0
    assert main(["export", str(run.root), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
    assert main(["export", str(run.root), "--out", str(tmp_path / "out")]) == 2  # taken


def test_clip_learns_by_contrast_and_is_judged_by_texts(chips: Path, tmp_path: Path) -> None:
    model = write_clip(tmp_path / "clip")
    values = short(chips, {"name": "huggingface", "path": str(model), "pool": "cls"}, loss="contrast")
    recipe = write_recipe(tmp_path / "recipe.yaml", values)
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 0
    run = RunDir.open(tmp_path / "run")
    with run.evaluation("scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["classifier"] == "text"]
    assert {row["method"] for row in rows} == {"clip-text", "clip-text-lora", "clip-text-deblora"}
    assert {row["group"] for row in rows} == {"head", "middle", "tail", "all"}
    with run.evaluation("predictions.csv").open(newline="") as file:
        guesses = [row for row in csv.DictReader(file) if row["method"] == "clip-text"]
    assert set(COUNTS) >= {row["predicted"] for row in guesses}
    assert "clip-text" in run.report("index.html").read_text()


WRONG = {
    "denoise": (
        {"name": "embedded"},
        {"loss": "denoise"},
        "needs backbone.name stable-diffusion, not embedded",
    ),
    "pool": ({"name": "huggingface", "path": "x"}, {"loss": "contrast"}, "set backbone.pool to cls"),
    "contrast": (
        {"name": "stable-diffusion", "path": "x", "pool": "cls"},
        {"loss": "contrast"},
        "class token of a CLIP folder",
    ),
    "template": ({}, {"templates": ["a ship"]}, "lora.templates needs sentences with {class}"),
    "no template": ({}, {"templates": []}, "lora.templates needs sentences with {class}"),
    "layer": ({"name": "stable-diffusion", "path": "x", "layer": "up9"}, {}, "backbone.layer is 'up9'"),
    "draws": (
        {"name": "stable-diffusion", "path": "x", "draws": 0},
        {},
        "backbone.draws is 0, allowed are 1",
    ),
    "timestep": ({"timestep": -1}, {}, "backbone.timestep is -1"),
    "path": ({"name": "stable-diffusion"}, {}, "backbone.path is not set"),
}


@pytest.mark.parametrize("case", WRONG)
def test_recipes_that_do_not_fit_together_are_refused(case: str) -> None:
    backbone, lora, message = WRONG[case]
    with pytest.raises(RecipeError) as caught:
        recipe_from({"data": {"source": "x"}, "backbone": backbone, "lora": lora})
    assert message in str(caught.value)


def test_settings_of_stable_diffusion_leave_other_runs_finished() -> None:
    from deblora.pipeline.open_model import model_settings

    plain, other = (
        recipe_from({"data": {"source": "x"}, "backbone": {"draws": draws}}).backbone for draws in (8, 3)
    )
    assert model_settings(plain) == model_settings(other)


def test_a_run_on_a_folder_that_is_no_pipeline_ends_in_one_message(
    chips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(
        tmp_path / "r.yaml", short(chips, {"name": "stable-diffusion", "path": str(tmp_path)})
    )
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "model_index.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
