"""``deblora data`` and ``deblora audit``: arguments and what they print. No logic lives here, and no torch."""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

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
MOST_USED = (
    *("data.source", "data.format", "data.groups", "data.scale", "data.offset", "data.on_error"),
    *("backbone.name", "backbone.path", "backbone.image_size"),
    *("lora.adapter", "lora.rank", "lora.loss", "lora.learning_rate", "lora.max_train_steps"),
    *(
        "extract.batch_size",
        "cluster.n_clusters",
        "center.method",
        "calibrate.numerator",
        "deblora.placement",
    ),
    *("deblora.max_train_steps", "shift.temperature", "probe.n_bootstrap", "rows.names"),
)
"""Settings of a recipe that ``deblora run --help`` shows, at least one of each table (ours)."""
NOT_DECODED = "pixels were not decoded; with --decode every chip is read, and those that cannot be are named"


def dispatch(arguments: Sequence[str]) -> int:
    """Run ``deblora data ARGUMENTS``; return the exit code.

    Raises:
        DebloraError: If the user has something to mend.
    """
    from deblora.data.catalog import matching, named, read_catalog

    options = _parser().parse_args(list(arguments))
    if options.name:
        card = asdict(named(read_catalog(), options.name))
        lines = [json.dumps(card, indent=1)] if options.json else _card(card)
        print("\n".join(lines))
        return 0
    cards = matching(read_catalog(), sensor=options.sensor, task=options.task, reader=options.reader)
    if options.json:
        print(json.dumps([asdict(card) for card in cards], indent=1))
        return 0
    print("\n".join([*_readers(), "", *_table([asdict(card) for card in cards], _COLUMNS)]))
    print(f"\n{len(cards)} data sets. The card of one, with source and paper: deblora data NAME")
    return 0


def _parser() -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise RecipeError(f"{message}; see deblora data --help")

    parser = Parser(
        prog="deblora data",
        description="The readers of deblora, and a catalog of open optical, SAR and multispectral data sets for "
        "pre-training and adaptation. Nothing is downloaded.",
    )
    parser.add_argument("name", nargs="?", help="print the card of one data set; the beginning is enough")
    parser.add_argument("--sensor", help="optical, sar, multispectral, thermal or natural")
    parser.add_argument("--task", help="classification, detection, chips, pretraining, longtail ...")
    parser.add_argument("--reader", help="a value of data.format")
    parser.add_argument("--json", action="store_true", help="print JSON with all fields")
    return parser


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


def add_audit(commands: Any, parser: Any) -> None:
    """Add the sub-command ``audit``.

    Args:
        commands: What the main parser's ``add_subcommands`` returned.
        parser: Makes a parser.
    """
    from deblora.recipe.classify import DataRecipe

    audit = parser(
        description="Class counts, imbalance ratio and head/middle/tail, before anything is trained. Takes every "
        "setting of the data that a recipe takes: deblora audit DATA --data.groups counts. Reads names and labels, "
        "and pixels with --decode only; deblora run always decodes."
    )
    audit.add_argument(
        "source",
        type=str,
        help="what a reader takes (see deblora data), or a run folder, whose recipe then counts",
    )
    audit.add_argument("--groups", type=str, default=None, help="the same as --data.groups")
    audit.add_argument("--seed", type=int, default=0, help="seed of the split")
    audit.add_argument(
        "--decode", action="store_true", help="decode every chip and name those that cannot be read"
    )
    audit.add_class_arguments(DataRecipe, "data", skip={"source"}, fail_untyped=False)
    hide_appending(audit)
    commands.add_subcommand("audit", audit, help="class counts and groups of a data set or a run")


def hide_appending(parser: Any) -> None:
    """Leave ``--table.key+`` of jsonargparse out of the help: a list is given whole, as in a recipe."""
    for action in parser._actions:
        action.option_strings = [name for name in action.option_strings if not name.endswith("+")]


def show_most_used(parser: Any) -> None:
    """Leave settings that are rarely given out of the help of a parser; they are understood all the same."""
    tables = {name.partition(".")[0] for name in MOST_USED}
    for action in parser._actions:
        name = str(action.dest)
        if name.partition(".")[0] in tables and name not in MOST_USED:
            action.help = argparse.SUPPRESS


def audit_source(options: Any) -> None:
    """Print the classes of a source as a run would use them.

    Raises:
        DebloraError: If the user has something to mend.
    """
    from deblora.pipeline.classify.audit import choose_groups, describe, readable, select_chips, skipped_line
    from deblora.pipeline.classify.chips import read_source
    from deblora.recipe.classify import recipe_from

    read_source.cache_clear()
    given = dict(options.data.as_dict())
    if options.groups is not None:
        given["groups"] = options.groups
    recipe = recipe_from({"seed": options.seed, "data": {**given, "source": options.source}}).data
    selected = chips = select_chips(recipe, options.seed)
    lines = list(chips.notes)
    if options.decode:
        chips, seen = readable(chips, recipe)
        lines += [skipped_line(selected, seen)] if seen.unreadable else []
        lines += [f"skipped {reason}" for reason in list(seen.unreadable.values())[:10]]
        lines.append(f"{len(chips)} chips decoded, bands {', '.join(seen.bands)}, {', '.join(seen.types)}")
    else:
        lines.append(NOT_DECODED)
    print("\n".join([*counts_table(describe(chips, choose_groups(chips, recipe))), *lines]))


def audit_run(run: Any) -> None:
    """Print the classes of a run as its audit froze them, and what it left out."""
    import csv

    try:
        frozen = json.loads(run.groups.read_text(encoding="utf-8"))
        with run.class_counts.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{run.class_counts} cannot be read ({error}); audit the run again") from error
    lines = [*frozen.get("notes", []), *([frozen["skipped_summary"]] if "skipped_summary" in frozen else [])]
    print("\n".join([*counts_table(rows), *lines]))


def counts_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return class, group, chips per split and imbalance ratio as lines."""
    lines = [f"{'class':<28}{'group':<8}{'train':>8}{'val':>8}{'test':>8}{'ratio':>8}"]
    for row in rows:
        lines.append(
            f"{row['class']:<28}{row['group']:<8}{row['train']:>8}{row['val']:>8}{row['test']:>8}"
            f"{row['imbalance_ratio']:>8}"
        )
    return lines
