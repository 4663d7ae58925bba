"""Settings on the command line beside a recipe: ``--table.key VALUE``, the same for every command that takes it."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from deblora.errors import RecipeError
from deblora.recipe.classify import Recipe, read_recipe, recipe_from, with_settings
from deblora.recipe.engine import setting_from_text


def take_settings(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take ``--table.key VALUE``, ``--table.key=VALUE`` and settings outside tables (``--seed``) from a command line.

    Returns:
        The value by dotted name, read as YAML, of which the last one counts; and all other words in their order.

    Raises:
        RecipeError: If a setting has no value.
    """
    outside = {item.name for item in fields(Recipe) if not is_dataclass(item.type)}
    settings: dict[str, Any] = {}
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        _, dot, _ = name.partition(".")
        if not word.startswith("--") or not (dot or name in outside):
            others.append(word)
            continue
        if not equals:
            if not left or left[0].startswith("--"):
                raise RecipeError(f"{word} has no value; write {word} VALUE")
            text = left.pop(0)
        settings[name] = setting_from_text(Recipe, name, text)
    return settings, others


def check_recipe(words: Sequence[str]) -> None:
    """Check recipe files (``--config``) together with the settings on the command line, all problems at once.

    Raises:
        RecipeError: If the whole of them is not a recipe.
    """
    settings, others = take_settings(words)
    values: dict[str, Any] = {}
    for word, following in zip(others, [*others[1:], ""], strict=False):
        name, equals, text = word.partition("=")
        if name == "--config":
            for given, content in read_recipe(Path(text if equals else following)).items():
                both = isinstance(content, dict) and isinstance(values.get(given), dict)
                values[given] = {**values[given], **content} if both else content
    recipe_from(with_settings(values, settings))
