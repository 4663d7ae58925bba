"""Kinds of adapters on the road: both adapters trained, extracted through, and their costs counted."""

from pathlib import Path

import numpy as np
import pytest

from deblora.pipeline.classify.evaluate.costs import costs_of
from deblora.pipeline.classify.road import pipeline_of
from deblora.recipe.classify import read_recipe, recipe_from
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir
from deblora.run.stage import run_stage


@pytest.mark.parametrize(
    ("kind", "placement"), [("dora", "stack"), ("pissa", "stack"), ("vera", "continue"), ("adalora", "fresh")]
)
def test_both_adapters_of_a_kind_move_features(
    kind: str, placement: str, finished: Path, tmp_path: Path
) -> None:
    values = read_recipe(finished / "recipe.yaml")
    values["lora"] |= {"adapter": kind, "max_train_steps": 12, "train_batch_size": 4}
    values["deblora"]["placement"] = placement
    recipe = recipe_from(values)
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    stages = pipeline_of(recipe)
    for stage in stages[: [stage.name for stage in stages].index("extract-deblora") + 1]:
        run_stage(stage, run, recipe, donors=[RunDir.open(finished)])
    tables = [FeatureTable.load(run.features(name)) for name in ("base", "lora", "deblora")]
    features = [table.rows(tables[0].ids) for table in tables]
    assert np.abs(features[1] - features[0]).max() > 1e-6
    assert np.abs(features[2] - features[1]).max() > 1e-6
    lines = {str(line["method"]): line for line in costs_of(run, recipe)}
    assert 0 < int(str(lines["lora"]["n_trained"])) < int(str(lines["deblora"]["n_trained"]))
    assert float(str(lines["deblora"]["train_seconds"])) > float(str(lines["lora"]["train_seconds"]))
    assert not list(run.root.glob("checkpoints/*/*"))
