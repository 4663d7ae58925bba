"""The commands over several runs: ``compare``, ``study`` and ``merge``."""

import os
from pathlib import Path
from typing import Any

from deblora.cli.options import Command, Parser, add_jobs, add_out, add_source, check_number
from deblora.errors import RecipeError


def _add_compare(parser: Parser) -> None:
    add_source(parser)
    add_out(parser, "folder for all runs and the report")
    add_jobs(parser)
    parser.add_argument(
        "--seeds", type=int, default=5, help="number of seeds, from the recipe's seed on (default: 5)"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="methods; when not given, all but transductive that need no training of their own. With a training of "
        f"their own: {', '.join(_trained())} (also rows.names of the recipe). all: every method",
    )
    parser.add_argument(
        "--skip-deblora", action="store_true", help="no second adapter, and no method that needs it"
    )


def _trained() -> tuple[str, ...]:
    from deblora.recipe.methods import TRAINED

    return tuple(TRAINED)


def _check_numbers(options: Any) -> None:
    check_number("--jobs", options.jobs, highest=max(1, os.cpu_count() or 1))
    if options.seeds is not None:
        check_number("--seeds", options.seeds, highest=1000)


def _compare(options: Any) -> None:
    from deblora.pipeline.classify.road import recipe_of
    from deblora.pipeline.compare.seeds import chosen_methods, compare

    _check_numbers(options)
    recipe, note = recipe_of(options.source, options.settings)
    if note:
        print(note)
    if options.skip_deblora and "deblora" in options.methods:
        raise RecipeError("--methods asks for deblora and --skip-deblora leaves it out; drop one of them")
    methods = chosen_methods(options.methods, recipe, skip_deblora=options.skip_deblora)
    page = compare(recipe, options.out, n_seeds=options.seeds, methods=methods, n_jobs=options.jobs)
    print(f"report: {page}")


def _add_study(parser: Parser) -> None:
    parser.add_argument("study", type=Path, help="the study (YAML): base, vary or variants, seeds")
    add_out(parser, "folder for all runs and the report")
    add_jobs(parser)
    parser.add_argument("--seeds", type=int, help="number of seeds instead of the study's")


def _study(options: Any) -> None:
    from deblora.pipeline.compare.study import read_study, run_study

    _check_numbers(options)
    study = read_study(options.study, n_seeds=options.seeds, settings=options.settings)
    print(f"report: {run_study(study, options.out, n_jobs=options.jobs)}")


def _add_merge(parser: Parser) -> None:
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="run_dir", help="folder of a finished run")
    add_out(parser, "folder for the merged report")


def _merge(options: Any) -> None:
    from deblora.pipeline.compare.merge import merge_runs

    print(f"report: {merge_runs(options.run_dirs, options.out)}")


COMMANDS = (
    Command(
        "compare",
        "all methods and classifiers over several seeds",
        _compare,
        _add_compare,
        about="With paired differences and their intervals. Finished seeds are skipped.",
        settings="classify",
    ),
    Command(
        "study",
        "one or more settings varied, over seeds, with sensitivity curves",
        _study,
        _add_study,
        about="What variants share is computed once.",
        settings="classify",
    ),
    Command(
        "merge",
        "one report over several runs (seeds, data sets, backbones)",
        _merge,
        _add_merge,
        about="Mean and spread over seeds, and differences paired run by run.",
    ),
)
