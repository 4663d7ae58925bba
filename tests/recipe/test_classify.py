"""The recipe: types, ranges, nearest keys, all problems at once."""

from pathlib import Path

import pytest

from deblora.errors import RecipeError
from deblora.recipe.classify import Recipe, read_recipe, recipe_from, tables, to_yaml
from deblora.recipe.engine import setting_from_text


def test_defaults_are_those_of_the_paper_where_it_has_one() -> None:
    recipe = Recipe()
    assert recipe.cluster.n_clusters == 32
    assert recipe.calibrate.numerator == 10
    assert recipe.calibrate.mode == "contract"
    assert recipe.center.method == "debiased"


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = recipe_from({"data": {"source": "chips"}, "cluster": {"n_clusters": 8, "rho": float("inf")}})
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe))
    assert recipe_from(read_recipe(path)) == recipe
    assert tables(recipe)["cluster"]["n_clusters"] == 8


def test_scientific_notation_of_yaml_is_a_number() -> None:
    assert (
        recipe_from({"data": {"source": "x"}, "lora": {"learning_rate": "2e-3"}}).lora.learning_rate == 0.002
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster": {"n_cluster": 8}}, "did you mean cluster.n_clusters"),
        ({"clutser": {}}, "did you mean cluster"),
        ({"cluster": {"n_clusters": "many"}}, "cluster.n_clusters is 'many', expected int"),
        ({"cluster": {"n_clusters": 0}}, "cluster.n_clusters is 0, allowed are 1"),
        ({"cluster": {"rho": 0.5}}, "cluster.rho is 0.5"),
        ({"cluster": 3}, "cluster must be a table"),
        ({"calibrate": {"mode": "pull"}}, "expected one of contract, shift"),
        ({"backbone": {"l2_normalize": 1}}, "backbone.l2_normalize is 1, expected bool"),
        ({"lora": {"rank": True}}, "lora.rank is True, expected int"),
        ({"data": {"source": "x", "largest": 5}}, "belong together"),
        ({"data": {}}, "data.source is not set"),
        ({"data": {"source": "x", "groups": "names"}}, "data.tail is empty"),
        ({"backbone": {"name": "galileo-nano"}}, "backbone.path is not set"),
    ],
)
def test_a_bad_setting_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from({"data": {"source": "chips"}, **change})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from({"data": {"source": "x"}, "lora": {"rnak": 1, "loss": "focal"}, "cluster": {"rho": "a"}})
    assert str(caught.value).count("\n  - ") == 3


def test_a_recipe_builds_no_python_object(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['true']")
    with pytest.raises(RecipeError, match="not valid YAML"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words", ""])
def test_a_recipe_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="must be a table"):
        read_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="absent.yaml cannot be read"):
        read_recipe(tmp_path / "absent.yaml")


def test_no_is_a_word_in_recipes_and_on_the_command_line(tmp_path: Path) -> None:
    """YAML 1.1 would read it as false."""
    path = tmp_path / "recipe.yaml"
    path.write_text("mixed_precision: no\nextract: {precision: no}\nbackbone: {l2_normalize: True}\n")
    values = read_recipe(path)
    assert values == {
        "mixed_precision": "no",
        "extract": {"precision": "no"},
        "backbone": {"l2_normalize": True},
    }
    assert setting_from_text(Recipe, "extract.precision", "no") == "no"
    assert setting_from_text(Recipe, "backbone.l2_normalize", "false") is False
