"""YAML as recipes have it."""

from pathlib import Path

import pytest
import yaml

from deblora.errors import RecipeError
from deblora.recipe.engine import load_yaml, read_recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("1:30:30", "1:30:30"),
        ("1_0", "1_0"),
        ("010", 10),
        ("0x10", "0x10"),
        ("2e-3", 2e-3),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("no", "no"),
        ("~", None),
        ("", None),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "t: {a: 1, a: 2}",
        "!!timestamp 2024-01-01",
        "!!binary aGk=",
        "!!set {a}",
        "!!python/name:os.system ''",
        "9" * 5000,
        "[" * 30 + "]" * 30,
        "{a: " * 30 + "1" + "}" * 30,
    ],
)
def test_what_no_recipe_needs_is_refused(text: str) -> None:
    with pytest.raises((yaml.YAMLError, RecursionError)):
        load_yaml(text)


def test_very_deep_files_are_one_message(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 100_000)
    with pytest.raises(RecipeError, match=r"deep.yaml"):
        read_recipe(path)
