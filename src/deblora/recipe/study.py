"""The study file: a recipe, the settings that vary, and what is judged; all problems are found before anything runs."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deblora.data.simulate.chip_folder import Simulation, simulation_from
from deblora.errors import RecipeError
from deblora.recipe.classify import Recipe, read_recipe, recipe_from, with_settings
from deblora.recipe.methods import CHOSEN, GUARDED, METHODS, STRONG

KEYS = ("base", "vary", "variants", "simulate", "seeds", "rows")
DEFAULT_ROWS = ("deblora balanced_softmax", "contract balanced_softmax", "shift balanced_softmax")
DERIVED = (STRONG, GUARDED)
BASELINE = ("lora", "balanced_softmax")


@dataclass(frozen=True)
class Variant:
    """One point of a study.

    Attributes:
        name: Unique in the study, also the name of its folder.
        settings: Dotted key -> value, what differs from the base.
        recipe: With the seed of the base.
        simulation: The chips to draw, None where the recipe has a source.
    """

    name: str
    settings: dict[str, Any]
    recipe: Recipe
    simulation: Simulation | None


@dataclass(frozen=True)
class Study:
    """What to run and what to show.

    Attributes:
        name: Of its file.
        variants: In the order of the file; the first is what others are compared with.
        n_seeds: Seeds per variant.
        rows: Method and classifier of every curve. What none of these methods needs is not run, so a study in feature
            space trains no second adapter.
    """

    name: str
    variants: tuple[Variant, ...]
    n_seeds: int
    rows: tuple[tuple[str, str], ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that the curves need, and that of the baseline."""
        named = [method for method, _ in self.rows]
        if GUARDED in named:
            named.append("semi-supervised")
        return tuple(dict.fromkeys((BASELINE[0], *(name for name in named if name in METHODS))))


def read_study(
    path: Path, *, n_seeds: int | None = None, settings: Mapping[str, Any] = MappingProxyType({})
) -> Study:
    """Read a study file.

    Its keys: ``base`` (a recipe file, relative to this one, or a recipe), ``vary`` (dotted setting -> list; several
    make a grid) or ``variants`` (name -> dotted settings), and optionally ``simulate`` (see
    :class:`~deblora.data.simulate.chip_folder.Simulation`; settings are varied as ``simulate.<key>``), ``seeds``
    (3) and ``rows`` ("method classifier", the curves). Only the classifiers of the curves are fitted, unless the base
    names others or a curve is a choice among all.

    Args:
        path: YAML.
        n_seeds: Instead of the file's.
        settings: Dotted name -> value, instead of what the base says; what the study varies cannot be among them.

    Raises:
        RecipeError: What is wrong, with the variant it is in.
    """
    values = read_recipe(path)
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise RecipeError(f"study {path}: {unknown[0]} is not a key; known are {', '.join(KEYS)}")
    seeds = values.get("seeds", 3) if n_seeds is None else n_seeds
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= 1000:
        raise RecipeError(f"study {path}: seeds is {seeds!r}, allowed are 1 to 1000")
    rows = _rows(path, values)
    return Study(path.stem, _variants(path, values, settings, rows), seeds, rows)


def with_seed(variant: Variant, k: int, chips: Path) -> Recipe:
    """Return the recipe of the ``k``-th seed; simulated chips lie below ``chips``."""
    from deblora.data.simulate.chip_folder import simulated_folder

    seed = variant.recipe.seed + k
    recipe = replace(variant.recipe, seed=seed)
    if variant.simulation is None:
        return recipe
    source = simulated_folder(chips, variant.simulation, seed=seed)
    return replace(recipe, data=replace(recipe.data, source=str(source)))


def _rows(path: Path, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    given = values.get("rows", list(DEFAULT_ROWS))
    if not isinstance(given, list) or not given or not all(isinstance(row, str) for row in given):
        raise RecipeError(f'study {path}: rows must be a list of "method classifier", got {given!r}')
    rows = []
    for row in given:
        method, _, classifier = row.partition(" ")
        known = METHODS[method].classifiers if method in METHODS else (CHOSEN,) * (method in DERIVED)
        if not known:
            raise RecipeError(
                f"study {path}: {row!r} has no known method; known are {', '.join((*METHODS, *DERIVED))}"
            )
        if classifier not in known:
            raise RecipeError(
                f"study {path}: {row!r} has no known classifier; {method} has {', '.join(known)}"
            )
        rows.append((method, classifier))
    return tuple(dict.fromkeys(rows))


def _with_classifiers(base: dict[str, Any], rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Name the classifiers that the curves need, unless the base names some or a curve is a choice among all."""
    names = dict.fromkeys(name for _, name in (*rows, BASELINE))
    evaluate = base.get("evaluate") or {}
    if CHOSEN in names or not isinstance(evaluate, Mapping):
        return base
    return {**base, "evaluate": {"classifiers": list(names), **evaluate}}


def _variants(
    path: Path, values: Mapping[str, Any], settings: Mapping[str, Any], rows: Sequence[tuple[str, str]]
) -> tuple[Variant, ...]:
    if ("vary" in values) == ("variants" in values):
        raise RecipeError(f"study {path}: give either vary or variants")
    key = "vary" if "vary" in values else "variants"
    table = values[key]
    if not isinstance(table, Mapping) or not table:
        raise RecipeError(f"study {path}: {key} must be a table, got {table!r}")
    if key == "vary":
        wrong = [name for name, choices in table.items() if not isinstance(choices, list) or not choices]
        if wrong:
            raise RecipeError(f"study {path}: vary.{wrong[0]} must be a list of values")
        points = [dict(zip(table, point, strict=True)) for point in itertools.product(*table.values())]
        named = {_point_name(point): point for point in points}
        if len(named) < len(points):
            raise RecipeError(f"study {path}: vary gives the same variant twice; drop repeated values")
    else:
        wrong = [name for name, settings in table.items() if not isinstance(settings, Mapping)]
        if wrong:
            raise RecipeError(
                f"study {path}: variants.{wrong[0]} must be a table of settings, {{}} for the base"
            )
        named = {_slug(str(name)): dict(settings) for name, settings in table.items()}
        if len(named) < len(table):
            raise RecipeError(f"study {path}: two variants have the same name, {', '.join(map(str, table))}")
    simulate = values.get("simulate")
    varied = {str(key) for point in named.values() for key in point}
    for key in settings:
        if key in varied or (key == "data.source" and simulate is not None):
            does = "varies" if key in varied else "draws its own chips, so it sets"
            raise RecipeError(f"study {path} {does} {key}; drop --{key}, or edit the study")
    base = _with_classifiers(with_settings(_base(path, values.get("base")), settings), rows)
    return tuple(_variant(path, name, point, base, simulate) for name, point in named.items())


def _base(path: Path, base: Any) -> dict[str, Any]:
    if isinstance(base, str):
        return read_recipe(path.parent / base)
    if not isinstance(base, Mapping):
        raise RecipeError(f"study {path}: base must be a recipe file or a recipe, got {base!r}")
    return dict(base)


def _variant(
    path: Path, name: str, settings: dict[str, Any], base: Mapping[str, Any], simulate: Any
) -> Variant:
    place = f"variant {name} of {path}"
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    drawn = dict(simulate) if isinstance(simulate, Mapping) else None
    for dotted, value in settings.items():
        table, dot, key = str(dotted).partition(".")
        if not dot or table == "seed":
            raise RecipeError(f"{place}: {dotted} is no table.key that can be varied")
        if table == "simulate":
            if drawn is None:
                raise RecipeError(
                    f"{place}: {dotted} needs a table simulate; add one, {{}} takes its defaults"
                )
            drawn[key] = value
        else:
            section = values.setdefault(table, {})
            if not isinstance(section, dict):
                raise RecipeError(f"{place}: {table} of the base is no table")
            section[key] = value
    simulation = None if drawn is None else simulation_from(drawn, place)
    if simulation is not None:
        values["data"] = {**(values.get("data") or {}), "source": "simulated"}
    try:
        return Variant(name, settings, recipe_from(values), simulation)
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from error


def _point_name(point: Mapping[str, Any]) -> str:
    return _slug("_".join(f"{str(key).rpartition('.')[2]}-{value}" for key, value in point.items()))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "variant"
