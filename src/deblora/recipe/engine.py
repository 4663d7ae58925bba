"""The settings engine: YAML to checked tables, with every problem named at once, and their documents.

A table of settings is a frozen pydantic dataclass. Each field holds the setting's type, range, default, meaning and the
source of its default; checks, help, JSON schema and docs/settings.md are all made from that one place.
"""

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from deblora.errors import RecipeError

STRICT = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
"""Configuration of every table: no unknown settings, no text for a number; the text below a field is its help."""
T = TypeVar("T")

# --- YAML -----------------------------------------------------------------------------------------------------

DEEPEST = 16
"""Deepest nesting of a recipe; the deepest that is needed is a list within a table of a study (ours)."""
_CORE = "tag:yaml.org,2002:"
_TAGS = {_CORE + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_FORMS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the plain scalars of YAML 1.2: ``no``, ``1_0``, ``1:30:30`` and dates are words, 2e-3 a number."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse nesting that no recipe needs, and tags."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and node.tag not in _TAGS:
            raise yaml.constructor.ConstructorError(
                None, None, f"the tag {node.tag.replace(_CORE, '!!')} is not allowed", node.start_mark
            )
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands twice; plain YAML would take the last one in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _CORE + "merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} stands twice in one table", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> Any:
        """Read a decimal number; leading zeros mean nothing, as in YAML 1.2."""
        try:
            return int(node.value)
        except ValueError as error:  # more digits than Python reads
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value[:20]}... has too many digits", node.start_mark
            ) from error


_Loader.yaml_implicit_resolvers = {}
for _name, _form, _first in _FORMS:
    _Loader.add_implicit_resolver(_CORE + _name, re.compile(f"^(?:{_form})$"), _first)
_Loader.add_constructor(_CORE + "int", _Loader.construct_number)


def load_yaml(text: str) -> Any:
    """Read YAML as recipes are written; no Python object is ever built from it.

    Raises:
        yaml.YAMLError: If it is not valid, has a tag, or a key twice in one table.
        RecursionError: If it is nested more than ``DEEPEST`` deep.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        # What constructors of values raise: `!!bool maybe`, a date that is none, a number beyond all limits.
        raise yaml.YAMLError(f"a value cannot be read ({type(error).__name__}: {error})") from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings as nested tables.

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


# --- nested tables --------------------------------------------------------------------------------------------


def tables(value: Any) -> Any:
    """Turn settings into plain nested tables, the inverse of :func:`settings_from`."""
    if is_dataclass(value):
        return {item.name: tables(getattr(value, item.name)) for item in fields(value)}
    return list(value) if isinstance(value, (list, tuple)) else value


def to_yaml(settings: Any) -> str:
    """Return settings as YAML that :func:`read_recipe` reads back."""
    return yaml.safe_dump(tables(settings), sort_keys=False)


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables in which settings, by dotted name, have new values.

    What should be a table and is none stays, for :func:`settings_from` to complain about.
    """
    changed = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for dotted, value in settings.items():
        table, dot, key = dotted.partition(".")
        if not dot:
            changed[table] = value
        elif isinstance(changed.setdefault(table, {}), dict):
            changed[table][key] = value
    return changed


# --- checks ---------------------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """Read a number, also one in quotes or that another YAML reader took for text (2e-3); not-a-number is none."""
    if isinstance(value, str) and re.fullmatch(_FORMS[3][1], value):
        return float(value)
    if isinstance(value, float) and value != value:
        raise ValueError("not a number")
    return value


Number = Annotated[float, BeforeValidator(_number)]
"""Type of a setting that is a real number."""


class Problem(NamedTuple):
    """What is wrong with settings that depend on each other.

    Attributes:
        names: Dotted names that the problem is about; it is told only if each of them is valid by itself.
        says: The message, with a remedy.
    """

    names: tuple[str, ...]
    says: str


def _no_checks(_: Any) -> Iterator[Problem]:
    yield from ()


def settings_from(
    kind: type[T],
    values: Any,
    *,
    checks: Callable[[T], Iterable[Problem]] = _no_checks,
    what: str = "the recipe",
    prefix: str = "",
) -> T:
    """Build tables of settings from nested tables, reporting every problem at once.

    Args:
        kind: The outermost dataclass; fields that are dataclasses are tables themselves.
        values: Its settings by name.
        checks: Yields what is wrong between settings.
        what: What the settings are, for messages.
        prefix: Dotted name of ``kind`` with a dot at its end, for messages.

    Raises:
        RecipeError: One line for every unknown key (the nearest known one is named), wrong type, value out of range
            and failed check.
    """
    wrong: dict[str, str] = {}
    settings = _table(kind, values, prefix, wrong)
    lines = list(wrong.values())
    for problem in checks(settings):
        touched = {*problem.names, *(name.partition(".")[0] for name in problem.names)}
        lines += [] if touched & wrong.keys() else [problem.says]
    if lines:
        raise RecipeError(f"{what} has problems:\n" + "\n".join(f"  - {line}" for line in lines))
    return settings


def _table(kind: type[T], values: Any, prefix: str, wrong: dict[str, str]) -> T:
    """Build one table; what is wrong goes to ``wrong`` by dotted name, and its default stands in."""
    if not isinstance(values, Mapping):
        wrong[prefix.rstrip(".")] = f"{prefix.rstrip('.')} must be a table of settings, got {_shown(values)}"
        return kind()
    known = {item.name: item.type for item in fields(cast(Any, kind))}
    given: dict[str, Any] = {}
    for key, value in values.items():
        inner = known.get(key)
        if inner is None:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            wrong[f"{prefix}{key}"] = f"{prefix}{key} is not a setting; {hint}"
        else:
            given[key] = (
                _table(cast(Any, inner), value, f"{prefix}{key}.", wrong) if is_dataclass(inner) else value
            )
    try:
        return kind(**given)
    except ValidationError as error:
        described = {setting.name: setting for setting in settings_of(kind, prefix)}
        for item in error.errors(include_url=False, include_context=False):
            key = str(item["loc"][0])
            name = f"{prefix}{key}"
            wrong.setdefault(name, _problem(described[name], item, given.get(key)))
            given.pop(key, None)
        return kind(**given)


_BOUNDS = ("greater_than_equal", "less_than_equal", "greater_than", "less_than")


def _problem(setting: "Setting", error: ErrorDetails, value: Any) -> str:
    if error["type"] in _BOUNDS:
        return f"{setting.name} is {_shown(value)}, allowed are {setting.allowed}"
    return f"{setting.name} is {_shown(value)}, expected {setting.type}"


def _shown(value: Any) -> str:
    """Show a value in a message; a few lines of YAML can mean gigabytes."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxdict, brief.maxstring = 2, 4, 4, 80
    return brief.repr(value)


# --- what a setting is ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting, described for messages, help and documents.

    Attributes:
        name: Dotted name.
        type: In words, such as ``int``, ``one of a, b`` or ``float or null``.
        allowed: Range in words, empty without one.
        default: Default value.
        help: Meaning and source of the default.
        is_text: Whether it takes a text as it is typed.
    """

    name: str
    type: str
    allowed: str
    default: Any
    help: str
    is_text: bool

    @property
    def shown_default(self) -> str:
        """The default as YAML writes it."""
        return yaml.safe_dump(self.default, default_flow_style=True).strip().removesuffix("...").strip()


def settings_of(kind: Any, prefix: str = "") -> list[Setting]:
    """Return every setting of a dataclass of settings and of the tables in it, in their order."""
    found: list[Setting] = []
    for item in fields(kind):
        name = f"{prefix}{item.name}"
        if is_dataclass(item.type):
            found += settings_of(item.type, f"{name}.")
            continue
        info = kind.__pydantic_fields__[item.name]
        low, high = (
            next((getattr(mark, bound) for mark in info.metadata if hasattr(mark, bound)), None)
            for bound in ("ge", "le")
        )
        default = item.default
        if default is MISSING or hasattr(default, "default_factory"):
            default = info.get_default(call_default_factory=True)
        options = set(_options(info.annotation))
        found.append(
            Setting(
                name,
                _described(info.annotation),
                _range(low, high),
                default,
                " ".join((info.description or "").split()),
                options <= {str, type(None)} and str in options,
            )
        )
    return found


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    ends = [
        f"{end}" if isinstance(end, int) and end < 10**5 else f"{end:.10g}"
        for end in (low, high)
        if end is not None
    ]
    return " to ".join(ends) if high is not None else f"{ends[0]} and above"


def _plain(kind: Any) -> Any:
    return _plain(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _options(kind: Any) -> list[Any]:
    kind = _plain(kind)
    return [_plain(option) for option in get_args(kind)] if get_origin(kind) in (Union, UnionType) else [kind]


def _described(kind: Any) -> str:
    words = []
    for option in _options(kind):
        if get_origin(option) is Literal:
            words.append("one of " + ", ".join(map(str, get_args(option))))
        elif get_origin(option) is list:
            words.append(f"list of {_described(get_args(option)[0])}")
        else:
            words.append("null" if option is type(None) else option.__name__)
    return " or ".join(words)


def setting_from_text(kind: Any, name: str, text: str) -> Any:
    """Read a setting given on the command line as YAML; a setting that is a text stays as it was typed.

    Args:
        kind: Dataclass of all settings.
        name: Dotted name; it may be unknown.
        text: What was typed.
    """
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, RecursionError):
        return text
    typed = any(setting.is_text for setting in settings_of(kind) if setting.name == name)
    return text if typed and value is not None else value


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a recipe file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(kind).json_schema()}


def settings_as_markdown(kind: Any) -> str:
    """Return all settings as one Markdown table per table of the recipe."""
    sections: dict[str, list[Setting]] = {}
    for setting in settings_of(kind):
        sections.setdefault(setting.name.rpartition(".")[0], []).append(setting)
    says = {
        item.name: str(item.type.__doc__).partition("\n")[0]
        for item in fields(kind)
        if is_dataclass(item.type)
    }
    lines: list[str] = []
    for table, settings in sections.items():
        lines += [f"### `{table}`", "", says[table].replace("``", "`"), ""] if table else []
        lines += ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
        for setting in settings:
            key, default = setting.name.rpartition(".")[2], setting.shown_default
            allowed = ", ".join(part for part in (setting.type, setting.allowed) if part)
            lines.append(f"| `{key}` | `{default}` | {allowed} | {setting.help.replace('``', '`')} |")
        lines.append("")
    return "\n".join(lines)


def values_from(source: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings given by a recipe file or by data (the default recipe), and by the command line.

    Args:
        source: A recipe (``.yaml``, ``.yml``), or what a reader of chips takes; ``None`` if neither was given.
        settings: Those of the command line, by dotted name; they win.

    Raises:
        RecipeError: If the recipe is absent or no table, or data are given twice.
    """
    if source is None:
        return with_settings({}, settings)
    if not Path(source).exists() and settings.get("data.format") != "hub":
        raise RecipeError(
            f"{source} does not exist; give a recipe (YAML), or the folder or file of your chips"
        )
    if not is_recipe(source):
        if "data.source" in settings:
            raise RecipeError(f"the data are given twice, as {source} and by --data.source; give one of them")
        return with_settings({"data": {"source": source}}, settings)
    return with_settings(read_recipe(Path(source)), settings)


def is_recipe(source: str) -> bool:
    """Return whether a name is that of a recipe file, by its suffix; everything else is data."""
    return Path(source).suffix.lower() in (".yaml", ".yml")
