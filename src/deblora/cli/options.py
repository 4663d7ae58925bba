"""What all commands share: how a command is described, common options, and settings given as ``--table.key VALUE``."""

import argparse
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from deblora.errors import RecipeError

RESUME = "go on with --resume"
AGAIN = "give the command again"
NEW_FOLDER = f"{AGAIN} with a new folder"


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and raises what is wrong with a command line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> Any:
        """Raise a RecipeError that names the help of the command."""
        raise RecipeError(f"{' '.join(message.split())}; see {self.prog} --help")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: As it is typed after ``deblora``, such as ``detect train``.
        says: What it does, one line for the list of commands.
        run: Does it; takes the parsed options, which hold ``settings`` (dotted name -> value) if it takes any.
        add: Adds its arguments to a parser.
        about: More about it, for its own help.
        settings: Which recipe's settings it takes as ``--table.key VALUE``, none for an empty text.
        tables: Tables of the recipe whose settings it takes, and settings outside tables; empty for all.
        in_processes: Whether a launcher may run it in several processes.
        after_a_stop: How a command that was cut short is given again.
    """

    name: str
    says: str
    run: Callable[[Any], None]
    add: Callable[[Parser], None]
    about: str = ""
    settings: Literal["", "classify", "detect"] = ""
    tables: tuple[str, ...] = ()
    in_processes: bool = False
    after_a_stop: str = AGAIN

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse what follows the name of the command.

        Raises:
            RecipeError: What is wrong with it.
            SystemExit: After its help.
        """
        parser = Parser(prog=f"deblora {self.name}", description=self._description())
        self.add(parser)
        add_quiet(parser)
        if not self.settings:
            return parser.parse_args(list(words))
        usage = parser.format_usage().removeprefix("usage: ").strip()
        parser.usage = f"{usage} [--table.key VALUE ...]"
        if {"-h", "--help", "--help.all"} & set(words):
            parser.epilog = self._settings_help(every="--help.all" in words)
            parser.print_help()
            raise SystemExit(0)
        settings, others = take_settings(words, recipe_kind(self.settings), tables=self.tables)
        return parser.parse_args(others, argparse.Namespace(settings=settings))

    def _description(self) -> str:
        says = f"{self.says[0].upper()}{self.says[1:]}."
        return textwrap.fill(f"{says} {self.about}".strip(), 100)

    def _settings_help(self, *, every: bool) -> str:
        kind, most_used = recipe_kind(self.settings), most_used_settings(self.settings)
        shown = None if every or self.tables else most_used
        more = "" if shown is None else f" (the most used ones; deblora {self.name} --help.all shows all)"
        lines = settings_as_text(kind, only=shown, tables=self.tables)
        return "\n".join([f"settings, instead of those of the recipe{more}:", *lines])


def recipe_kind(name: str) -> Any:
    """Return the dataclass of all settings of ``classify`` or ``detect``."""
    if name == "detect":
        from deblora.recipe.detect import DetectionRecipe

        return DetectionRecipe
    from deblora.recipe.classify import Recipe

    return Recipe


def most_used_settings(name: str) -> tuple[str, ...]:
    """Return the names of the settings that the help of a command shows."""
    if name == "detect":
        from deblora.recipe.detect import MOST_USED

        return MOST_USED
    from deblora.recipe.classify import MOST_USED as MOST_USED_OF_RUNS

    return MOST_USED_OF_RUNS


def settings_as_text(
    kind: Any, *, only: Iterable[str] | None = None, tables: Sequence[str] = ()
) -> list[str]:
    """Return settings with their types, ranges, defaults and meaning as lines of text.

    Args:
        kind: Dataclass of all settings.
        only: Dotted names of those to show; all if left out.
        tables: Names of the tables to show; empty shows all.
    """
    from deblora.recipe.engine import settings_of

    lines, chosen = [], None if only is None else set(only)
    for setting in settings_of(kind):
        table = setting.name.rpartition(".")[0]
        if (chosen is None or setting.name in chosen) and (not tables or {table, setting.name} & set(tables)):
            facts = ", ".join(part for part in (setting.type, setting.allowed) if part)
            lines.append(f"  --{setting.name} [{facts}] (default: {setting.shown_default})")
            lines += textwrap.wrap(setting.help, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


# --- settings on the command line -------------------------------------------------------------------------------


def take_settings(
    words: Sequence[str], kind: Any, *, tables: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Take ``--table.key VALUE``, ``--table.key=VALUE`` and settings outside tables (``--seed``) from a command line.

    Args:
        words: The command line.
        kind: Dataclass of all settings.
        tables: Tables that can be given; empty means all.

    Returns:
        The value by dotted name, read as YAML, of which the last one counts; and all other words in their order.

    Raises:
        RecipeError: If a setting has no value or is of a table that cannot be given.
    """
    from deblora.recipe.engine import setting_from_text

    outside = {item.name for item in fields(kind) if not is_dataclass(item.type)}
    settings: dict[str, Any] = {}
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        table, dot, _ = name.partition(".")
        if not word.startswith("--") or not (dot or name in outside):
            others.append(word)
            continue
        if tables and table not in tables:
            raise RecipeError(
                f"--{name} has no part in this command, which takes --{', --'.join(tables)} only"
            )
        if not equals:
            if not left or left[0].startswith("--"):
                raise RecipeError(f"{word} has no value; write {word} VALUE")
            text = left.pop(0)
        settings[name] = setting_from_text(kind, name, text)
    return settings, others


# --- common options ---------------------------------------------------------------------------------------------


def add_source(parser: Parser, *, required: bool = True) -> None:
    """Add the argument that takes data or a recipe."""
    parser.add_argument(
        "source",
        metavar="DATA|RECIPE",
        nargs=None if required else "?",
        help="the folder, list or file of chips (see deblora data), or a recipe (.yaml)",
    )


def add_out(parser: Parser, text: str = "run folder", *, default: str | None = None) -> None:
    """Add ``--out``, which must be given where it has no default."""
    shown = f"{text} (default: {default})" if default else text
    parser.add_argument("--out", type=Path, default=default, required=default is None, help=shown)


def add_start(parser: Parser) -> None:
    """Add ``--resume`` and ``--overwrite``."""
    parser.add_argument("--resume", action="store_true", help="go on in an existing folder")
    parser.add_argument("--overwrite", action="store_true", help="empty an existing folder first")


def add_jobs(parser: Parser) -> None:
    """Add ``--jobs``."""
    parser.add_argument(
        "--jobs", type=int, default=1, help="seeds and methods that run at the same time (default: 1)"
    )


def add_quiet(parser: Parser) -> None:
    """Add ``--quiet``."""
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bars, and of the log warnings and errors only"
    )


def check_number(name: str, value: int, *, highest: int) -> None:
    """Check a number that is at least 1.

    Raises:
        RecipeError: If it is not within 1 and ``highest``.
    """
    if not 1 <= value <= highest:
        raise RecipeError(f"{name} is {value}, allowed are 1 to {highest}")
