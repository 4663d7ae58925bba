"""What there is: ``data``, ``audit``, ``models`` and ``settings``. None of them needs torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deblora.cli.options import Command, Parser, recipe_kind, settings_as_text
from deblora.errors import DataError, RecipeError

_COLUMNS = (
    "name",
    "year",
    "sensor",
    "task",
    "n_images",
    "size_px",
    "gsd_m",
    "n_classes",
    "license",
    "reader",
)
_WIDEST = 28
NOT_DECODED = "pixels were not decoded; with --decode every chip is read, and those that cannot be are named"


def _add_data(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", help="print the card of one data set; the beginning is enough")
    parser.add_argument("--sensor", help="optical, sar, multispectral, thermal or natural")
    parser.add_argument("--task", help="classification, detection, chips, pretraining, longtail ...")
    parser.add_argument("--reader", help="a value of data.format")
    parser.add_argument("--json", action="store_true", help="print JSON with all fields")


def _data(options: Any) -> None:
    from deblora.data.catalog import matching, named, read_catalog

    if options.name:
        card = asdict(named(read_catalog(), options.name))
        lines = [json.dumps(card, indent=1)] if options.json else _card(card)
        print("\n".join(lines))
        return
    cards = matching(read_catalog(), sensor=options.sensor, task=options.task, reader=options.reader)
    if options.json:
        print(json.dumps([asdict(card) for card in cards], indent=1))
        return
    print("\n".join([*_readers(), "", *_table([asdict(card) for card in cards], _COLUMNS)]))
    print(f"\n{len(cards)} data sets. The card of one, with source and paper: deblora data NAME")


def _readers() -> list[str]:
    from deblora.data.readers.registry import READERS

    rows = [{"data.format": name, "reads": reader.about} for name, reader in READERS.items()]
    return _table(rows, ("data.format", "reads"), widest=80)


def _card(card: dict[str, Any]) -> list[str]:
    width = max(map(len, card))
    return [f"{key:<{width}}  {value}" for key, value in card.items() if value]


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, widest: int = _WIDEST) -> list[str]:
    """Return rows as aligned text; long cells are cut."""
    cells = [[_cut(str(row[column]), widest) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return [_line(row, widths) for row in (columns, *cells)]


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cut(text: str, widest: int) -> str:
    return text if len(text) <= widest else text[: widest - 3] + "..."


# --- audit ------------------------------------------------------------------------------------------------------


def _add_audit(parser: Parser) -> None:
    parser.add_argument(
        "source",
        help="data or a recipe, as in deblora run; or a run folder, whose classes are shown as they were frozen",
    )
    parser.add_argument("--groups", help="the same as --data.groups")
    parser.add_argument(
        "--decode", action="store_true", help="decode every chip and name those that cannot be read"
    )


def _audit(options: Any) -> None:
    if (Path(options.source) / "run.json").is_file():
        if options.settings or options.groups or options.decode:
            raise RecipeError(f"{options.source} is a run, whose classes are frozen; give no settings")
        _audit_run(Path(options.source))
        return
    from deblora.recipe.engine import values_from

    groups = {} if options.groups is None else {"data.groups": options.groups}
    _audit_source(values_from(options.source, {**options.settings, **groups}), decode=options.decode)


def _audit_source(values: dict[str, Any], *, decode: bool) -> None:
    """Print the classes of a source as a run would use them."""
    from deblora.pipeline.classify.audit import (
        check_values,
        choose_groups,
        describe,
        doubts,
        readable,
        select_chips,
        skipped_line,
        unjudged,
    )
    from deblora.pipeline.classify.chips import read_source
    from deblora.recipe.classify import recipe_from

    read_source.cache_clear()
    recipe = recipe_from({key: values[key] for key in ("seed", "data") if key in values})
    data = recipe.data
    selected = chips = select_chips(data, recipe.seed)
    lines = [*chips.notes, *(f"warning: {line}" for line in unjudged(chips))]
    if decode:
        chips, seen = readable(chips, data)
        lines += [skipped_line(selected, seen)] if seen.unreadable else []
        lines += [f"skipped {reason}" for reason in list(seen.unreadable.values())[:10]]
        check_values(seen, data)
        lines += [f"warning: {line}" for line in doubts(chips, seen, data)]
        span = f"values from {seen.lowest:g} to {seen.highest:g}"
        lines.append(
            f"{len(chips)} chips decoded, bands {', '.join(seen.bands)}, {', '.join(seen.types)}, {span}"
        )
    else:
        lines.append(NOT_DECODED)
    print("\n".join([*_counts_table(describe(chips, choose_groups(chips, data))), *lines]))


def _audit_run(root: Path) -> None:
    """Audit a run if that is not done yet, and print the classes as its audit froze them."""
    import csv

    from deblora.pipeline.classify.road import run_named
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir

    run = RunDir.open(root)
    run_named("audit", run, recipe_from(read_recipe(run.recipe)))

    try:
        frozen = json.loads(run.groups.read_text(encoding="utf-8"))
        with run.class_counts.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{run.class_counts} cannot be read ({error}); audit the run again") from error
    lines = [*frozen.get("notes", []), *([frozen["skipped_summary"]] if "skipped_summary" in frozen else [])]
    print("\n".join([*_counts_table(rows), *lines]))


def _counts_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return class, group, chips per split and imbalance ratio as lines."""
    lines = [f"{'class':<28}{'group':<8}{'train':>8}{'val':>8}{'test':>8}{'ratio':>8}"]
    for row in rows:
        lines.append(
            f"{row['class']:<28}{row['group']:<8}{row['train']:>8}{row['val']:>8}{row['test']:>8}"
            f"{row['imbalance_ratio']:>8}"
        )
    return lines


# --- models and settings ----------------------------------------------------------------------------------------


def _add_models(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def _models(options: Any) -> None:
    from deblora.models.presets import PRESETS, as_rows, as_text

    if options.json:
        print(json.dumps({"names": list(PRESETS), "weights": as_rows()}, indent=1))
    else:
        names = ", ".join(PRESETS)
        print(f"{as_text()}\n\nbackbone.name is one of {names}; docs/models.md says more about each.")


def _add_settings(parser: Parser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        choices=list(_RECIPES),
        default="classify",
        help="of which recipe (default: classify, that of deblora run)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--schema", action="store_true", help="print the JSON schema of the recipe, for editors"
    )
    form.add_argument("--markdown", action="store_true", help="print docs/settings.md, with both recipes")


def _settings(options: Any) -> None:
    from deblora.recipe.engine import schema_of

    if options.markdown:
        print(settings_document(), end="")
    elif options.schema:
        print(json.dumps(schema_of(recipe_kind(options.recipe)), indent=1))
    else:
        print("\n".join(settings_as_text(recipe_kind(options.recipe))))


_RECIPES = {
    "classify": "Recipes of `deblora run`, `compare` and `study`",
    "detect": "Recipes of `deblora detect train`",
}


def settings_document() -> str:
    """Return docs/settings.md."""
    from deblora.recipe.engine import settings_as_markdown

    parts = [
        "# Settings\n",
        "Made by `deblora settings --markdown > docs/settings.md`; do not edit. Each setting can be given in a recipe "
        "(YAML) or as `--table.key VALUE`. An unknown name, a wrong type or a value out of range is refused, all "
        "problems at once. `deblora settings --schema` prints a JSON schema with which editors complete and check "
        "recipes.\n",
    ]
    for name, title in _RECIPES.items():
        parts += [f"## {title}\n", settings_as_markdown(recipe_kind(name))]
    return "\n".join(parts)


COMMANDS = (
    Command(
        "data",
        "readers and the catalog of open data sets",
        _data,
        _add_data,
        about="Optical, SAR and multispectral data for pre-training and adaptation. Nothing is downloaded.",
    ),
    Command(
        "audit",
        "class counts and groups of data or a run",
        _audit,
        _add_audit,
        about="With the imbalance ratio and head/middle/tail, before anything is trained. Reads names and labels, and "
        "pixels with --decode only; deblora run always decodes.",
        settings="classify",
        tables=("data", "seed"),
    ),
    Command(
        "models",
        "which pre-trained models can be adapted, and how to get them",
        _models,
        _add_models,
        about="Size, input, pre-training data, license, how to get the weights, recipe line. Facts only; what is not "
        "known is said to be unknown.",
    ),
    Command(
        "settings",
        "every setting of the recipes, with type, range and default",
        _settings,
        _add_settings,
    ),
)
