"""The recipe of detection: ranges, hints, and the recipes that are shipped."""

from pathlib import Path

import pytest
import yaml

from deblora.errors import RecipeError
from deblora.recipe.classify import recipe_from, tables, with_settings
from deblora.recipe.detect import METHODS, detection_recipe_from, to_yaml

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "detect"
DATA = {"train": "a", "val": "b"}


def test_a_recipe_reads_back_from_its_yaml() -> None:
    recipe = detection_recipe_from({"data": DATA, "method": "ecm"})
    assert recipe.method.name == "ecm"
    assert detection_recipe_from(yaml.safe_load(to_yaml(recipe))) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "data.train and data.val"),
        ({"data": DATA, "method": "lore"}, "method.name is 'lore'"),
        ({"data": DATA, "hed": {}}, "did you mean head"),
        ({"data": {**DATA, "groups": "names"}}, "data.tail is empty"),
        ({"data": {**DATA, "groups": "counts", "tail_below": 20_000}}, "overlap"),
        ({"data": DATA, "method": {"name": "fine-tune", "adapter": "x"}}, "has no part"),
        ({"data": {**DATA, "zoom": 0}}, "data.zoom is 0"),
        ({"data": {**DATA, "tile": 1.5}}, "data.tile is 1.5"),
    ],
)
def test_problems_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        detection_recipe_from(values)


@pytest.mark.parametrize("name", ["scenes", "hit-uav", "dota"])
def test_one_recipe_of_a_data_set_takes_every_method(name: str) -> None:
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    lora = tables(detection_recipe_from(values))
    for method in METHODS:
        adapter = {"method.adapter": "runs/chips"} if method == "deblora" else {}
        recipe = tables(detection_recipe_from(with_settings(values, {"method.name": method, **adapter})))
        assert recipe.pop("method")["name"] == method
        assert recipe == {key: value for key, value in lora.items() if key != "method"}
    chips = recipe_from(yaml.safe_load((RECIPES / f"{name}-chips.yaml").read_text()))
    assert tables(chips)["backbone"] == lora["backbone"]


def test_every_recipe_of_the_folder_is_valid() -> None:
    paths = sorted(RECIPES.glob("*.yaml"))
    assert len(paths) >= 7
    for path in paths:
        values = yaml.safe_load(path.read_text())
        if path.stem.endswith("-chips"):
            recipe_from(values)
        else:
            detection_recipe_from(values)


def test_the_schedule_for_dota_is_that_of_mmrotate() -> None:
    recipe = detection_recipe_from(yaml.safe_load((RECIPES / "dota.yaml").read_text()))
    assert (recipe.data.tile, recipe.data.overlap, recipe.data.groups) == (1024, 200, "reference")
    epochs = recipe.train.max_train_steps * recipe.train.train_batch_size / 15_700
    assert 11.9 < epochs < 12.1
