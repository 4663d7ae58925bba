"""The sub-commands ``compare``, ``study`` and ``heads``: arguments and messages, no logic."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deblora.errors import RecipeError

COMMANDS = ("compare", "study", "heads")
_SETTINGS = "--table.key VALUE overrides the recipe, as in deblora run (its --help.all lists every setting)."


def add_commands(commands: Any, parser: Any) -> None:
    """Add the sub-commands.

    Args:
        commands: What the main parser's ``add_subcommands`` returned.
        parser: Makes a parser.
    """
    compare = parser(
        description="Every baseline and every head over several seeds, with paired differences and their intervals. "
        f"Finished seeds are skipped. {_SETTINGS}"
    )
    compare.add_argument("recipe", type=str, help="the recipe (YAML)")
    _add_common(compare)
    compare.add_argument("--seeds", type=int, default=5, help="number of seeds, from the recipe's seed on")
    compare.add_argument(
        "--rows",
        type=str,
        nargs="+",
        default=[],
        metavar="ROW",
        help="kinds of features; when not given, all but transductive that need no training of their own. Rows with a "
        "training of their own: scratch, fine-tune, clora, lora-bs, lift, reslt, sade, self-trained (also rows.names "
        "of the recipe). all: every row",
    )
    compare.add_argument(
        "--skip-deblora", action="store_true", help="heads and feature-space rows only, no second adapter"
    )
    commands.add_subcommand("compare", compare, help="all baselines and heads over several seeds")
    study = parser(
        description="A recipe with one or more settings varied, over seeds, with sensitivity curves. What variants "
        f"share is computed once. {_SETTINGS}"
    )
    study.add_argument("study", type=str, help="the study (YAML): base, vary or variants, seeds")
    _add_common(study)
    study.add_argument("--seeds", type=int, default=None, help="number of seeds instead of the study's")
    commands.add_subcommand("study", study, help="one or more settings varied, over seeds")
    heads = parser(
        description="Every long-tail head on the features of a run, and the choice among them on validation. Reads and "
        "writes a run folder; rows that were judged before stay in its tables."
    )
    heads.add_argument("run_dir", type=str, help="run folder")
    commands.add_subcommand("heads", heads, help="every long-tail head on the features of a run")


def _add_common(parser: Any) -> None:
    parser.add_argument("--out", type=str, required=True, help="folder for all runs and the report")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="seeds, and rows of a comparison, that run at the same time",
    )


def run_command(command: str, options: Any, settings: Mapping[str, Any]) -> str:
    """Run a sub-command and return what to say at its end.

    Args:
        command: One of ``COMMANDS``.
        options: What its parser understood.
        settings: Dotted name -> value, instead of what the recipe says; for compare and study.

    Raises:
        DebloraError: What the user has to mend.
    """
    if command == "heads":
        return _heads(options)
    _check_number("--jobs", options.jobs, highest=max(1, os.cpu_count() or 1))
    if options.seeds is not None:
        _check_number("--seeds", options.seeds, highest=1000)
    if command == "study":
        from deblora.pipeline.compare.study import read_study, run_study

        study = read_study(Path(options.study), n_seeds=options.seeds, settings=settings)
        return f"report: {run_study(study, Path(options.out), n_jobs=options.jobs)}"
    return _compare(options, settings)


def _compare(options: Any, settings: Mapping[str, Any]) -> str:
    from deblora.pipeline.classify.road import ROAD
    from deblora.pipeline.compare.seeds import chosen_methods, compare, short_road
    from deblora.recipe.classify import read_recipe, recipe_from, with_settings

    recipe = recipe_from(with_settings(read_recipe(Path(options.recipe)), settings))
    methods = chosen_methods(options.rows, recipe)
    if options.skip_deblora:
        if "deblora" in options.rows:
            raise RecipeError("--rows asks for deblora and --skip-deblora leaves it out; drop one of them")
        methods = tuple(name for name in methods if name != "deblora")
    road = short_road() if options.skip_deblora else ROAD
    page = compare(
        recipe, Path(options.out), n_seeds=options.seeds, methods=methods, n_jobs=options.jobs, road=road
    )
    return f"report: {page}"


def _heads(options: Any) -> str:
    from deblora.pipeline.compare.seeds import run_heads
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir

    run = RunDir.open(Path(options.run_dir))
    run_heads(run, recipe_from(read_recipe(run.recipe)))
    return f"heads: {run.evaluation('heads.csv')}"


def _check_number(name: str, value: int, *, highest: int) -> None:
    if not 1 <= value <= highest:
        raise RecipeError(f"{name} is {value}, allowed are 1 to {highest}")
