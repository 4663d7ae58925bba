"""Settings as nested tables: reading YAML, and building dataclasses from it with all problems named at once."""

import difflib
import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from deblora.errors import RecipeError

Ranges = Mapping[str, tuple[float, float]]


class _Loader(yaml.SafeLoader):
    """YAML whose only truth values are true and false, as in YAML 1.2: ``precision: no`` is a word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:bool"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_yaml(text: str) -> Any:
    """Read YAML as recipes are written; no Python object is ever built from it.

    Raises:
        yaml.YAMLError: If it is not valid.
    """
    return yaml.load(text, Loader=_Loader)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML recipe as nested tables; no Python object is ever built from it.

    Raises:
        RecipeError: If the file is absent or not a YAML table.
    """
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {path} is not valid YAML: {error}; correct it") from error
    except RecursionError as error:
        raise RecipeError(f"recipe {path} is nested too deeply; it has tables of settings only") from error
    if not isinstance(values, dict):
        kind = "empty" if values is None else type(values).__name__
        raise RecipeError(
            f"recipe {path} must be a table of settings, not {kind}; it needs at least data: with source:"
        )
    return values


def tables(value: Any) -> Any:
    """Turn a recipe into plain nested tables, the inverse of :func:`fill_table`."""
    if is_dataclass(value):
        return {item.name: tables(getattr(value, item.name)) for item in fields(value)}
    return list(value) if isinstance(value, (list, tuple)) else value


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables in which settings, by dotted name, have new values.

    What should be a table and is none stays, for :func:`fill_table` to complain about.
    """
    changed = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for dotted, value in settings.items():
        table, dot, key = dotted.partition(".")
        if not dot:
            changed[table] = value
        elif isinstance(changed.setdefault(table, {}), dict):
            changed[table][key] = value
    return changed


def without_later(table: Any, first: Collection[str]) -> dict[str, Any]:
    """Return the settings of a table by name, without those that came after its first version and are at their default.

    For the fingerprints of stages: a run that was finished before a setting existed stays finished as long as the
    setting is not used. A default of such a setting must therefore never change.

    Args:
        table: A dataclass of settings that all have defaults.
        first: Names of the settings of the first version, which are always returned.
    """
    default = type(table)()
    return {
        item.name: value
        for item in fields(table)
        if (value := getattr(table, item.name)) != getattr(default, item.name) or item.name in first
    }


def fill_table(kind: Any, values: Any, *, ranges: Ranges, problems: list[str], prefix: str = "") -> Any:
    """Build a dataclass of settings from nested tables.

    Args:
        kind: The dataclass; fields that are dataclasses are tables themselves.
        values: Its settings by name.
        ranges: Lowest and highest allowed value (inclusive) by dotted name.
        problems: Receives one line for every unknown key (the nearest known one is named), wrong type and value out
            of range.
        prefix: Dotted name of the table, with a dot at its end.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.')} must be a table of settings, got {_shown(values)}")
        return kind()
    known = {item.name: item for item in fields(kind)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            problems.append(f"{prefix}{key} is not a setting; {hint}")
        elif is_dataclass(known[key].type):
            arguments[key] = fill_table(
                known[key].type, value, ranges=ranges, problems=problems, prefix=f"{prefix}{key}."
            )
        else:
            arguments[key] = _value(known[key].type, value, f"{prefix}{key}", ranges, problems)
    return kind(**arguments)


def _value(kind: Any, value: Any, name: str, ranges: Ranges, problems: list[str]) -> Any:
    converted = _convert(kind, value)
    if converted is WRONG:
        problems.append(f"{name} is {_shown(value)}, expected {_describe(kind)}")
        return value
    low, high = ranges.get(name, (float("-inf"), float("inf")))
    if (
        isinstance(converted, (int, float))
        and not isinstance(converted, bool)
        and not low <= converted <= high
    ):
        problems.append(f"{name} is {value!r}, allowed are {low:g} to {high:g}")
    return converted


def _shown(value: Any) -> str:
    """Show a value in a message; a few lines of YAML can mean gigabytes."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxdict, brief.maxstring = 2, 4, 4, 80
    return brief.repr(value)


WRONG = object()


def _convert(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin is Literal:
        return value if value in get_args(kind) else WRONG
    if origin is list:
        item = get_args(kind)[0]
        good = isinstance(value, list) and all(_convert(item, entry) is not WRONG for entry in value)
        return value if good else WRONG
    if origin is Union or type(None) in get_args(kind):
        options = [_convert(option, value) for option in get_args(kind)]
        return next((option for option in options if option is not WRONG), WRONG)
    if kind is type(None):
        return None if value is None else WRONG
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else WRONG
    if kind is float:
        return as_float(value)
    return value if isinstance(value, kind) else WRONG


def as_float(value: Any) -> Any:
    """Return a number, also one that YAML took for a text; ``WRONG`` if it is none."""
    try:
        return float(value) if isinstance(value, (int, float, str)) else WRONG  # YAML reads 2e-3 as text
    except ValueError:
        return WRONG


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("None", "null")
