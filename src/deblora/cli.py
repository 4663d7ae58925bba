"""The command line: one sub-command per stage; errors become one message and exit code 2. No logic lives here."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deblora import __version__
from deblora.errors import DebloraError

STAGES = {
    "train-lora": "train the LoRA adapter (stage 0)",
    "extract": "features through every adapter that is trained",
    "cluster": "K-means with a size floor, labels ignored",
    "center": "de-biased centers of the rare classes",
    "calibrate": "move rare features toward their centers",
    "train-deblora": "train the adapter that produces the calibrated features",
    "probe": "linear probe: macro F1 of head, middle and tail with intervals",
    "report": "one self-contained HTML page",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 when the user has something to mend."""
    arguments = _recipe_first(list(sys.argv[1:] if argv is None else argv))
    try:
        if arguments[:1] == ["detect"]:
            from deblora import detect_cli

            return detect_cli.dispatch(arguments[1:])
        return _dispatch(_parse(arguments))
    except DebloraError as error:
        print(f"deblora: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"deblora: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deblora: interrupted; go on with --resume", file=sys.stderr)
        return 130


def _recipe_first(arguments: list[str]) -> list[str]:
    """Let ``deblora run RECIPE`` stand for ``deblora run --config RECIPE``."""
    if len(arguments) > 1 and arguments[0] == "run" and not arguments[1].startswith("-"):
        return [arguments[0], "--config", *arguments[1:]]
    return arguments


def _parse(arguments: list[str]) -> Any:
    from jsonargparse import ActionConfigFile, ArgumentParser

    from deblora.config import Recipe, read_recipe, recipe_from

    parser = ArgumentParser(
        prog="deblora",
        description="De-biased LoRA adapters for long-tailed remote-sensing imagery.",
        version=f"deblora {__version__}",
        epilog="Start with `deblora demo`, or `deblora audit DATA` to see the long tail of your own data.",
    )
    commands = parser.add_subcommands(required=True, dest="command")
    run = ArgumentParser(
        description="All stages in order: deblora run RECIPE.yaml --out RUN_DIR [--table.key value ...]. "
        "Finished stages whose inputs have not changed are skipped."
    )
    run.add_argument("--config", action=ActionConfigFile, help="the recipe (YAML)")
    _add_out(run, required=True)
    run.add_class_arguments(Recipe, fail_untyped=False)
    commands.add_subcommand("run", run, help="all stages in order, from a recipe")
    demo = ArgumentParser(description="The whole method on simulated SAR chips, offline, in a few minutes.")
    _add_out(demo, default="runs/demo")
    demo.add_argument("--seed", type=int, default=0, help="seed of chips, adapters and clusters")
    commands.add_subcommand("demo", demo, help="the whole method on simulated SAR chips")
    audit = ArgumentParser(
        description="Class counts, imbalance ratio and head/middle/tail, before anything is trained."
    )
    audit.add_argument(
        "data", type=str, help="folder per class, CSV/TSV list, Parquet file or folder, or a run folder"
    )
    audit.add_argument("--groups", type=str, default="thirds", help="thirds or counts")
    audit.add_argument("--seed", type=int, default=0, help="seed of the split")
    commands.add_subcommand("audit", audit, help="class counts and groups of a data set")
    detect = ArgumentParser(description="Oriented object detection; see `deblora detect --help`.")
    commands.add_subcommand("detect", detect, help="oriented object detection: deblora detect --help")
    for name, text in STAGES.items():
        stage = ArgumentParser(description=text[0].upper() + text[1:] + ". Reads and writes a run folder.")
        stage.add_argument("run_dir", type=str, help="run folder")
        commands.add_subcommand(name, stage, help=text)
    if arguments[:2] == ["run", "--config"] and len(arguments) > 2:
        recipe_from(_with_overrides(read_recipe(Path(arguments[2])), arguments[3:]))
    return parser.parse_args(arguments)


def _with_overrides(values: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """Add the names set on the command line, so that a recipe completed there passes the check of whole recipes."""
    import yaml

    for position, argument in enumerate(arguments):
        table, dot, key = argument.removeprefix("--").partition(".")
        if not argument.startswith("--") or not dot:
            continue
        key, equals, value = key.partition("=")
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        section = values.setdefault(table, {})
        if isinstance(section, dict):
            section[key] = yaml.safe_load(value if equals else following)
    return values


def _add_out(parser: Any, *, required: bool = False, default: str | None = None) -> None:
    parser.add_argument("--out", type=str, required=required, default=default, help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on in an existing run folder")
    parser.add_argument("--overwrite", action="store_true", help="empty an existing run folder first")


def _dispatch(arguments: Any) -> int:
    command = arguments.command
    options = arguments[command]
    logging.captureWarnings(True)
    if command == "audit" and not (Path(options.data) / "run.json").is_file():
        return _audit(options)
    from deblora.config import read_recipe, recipe_from
    from deblora.run_dir import RunDir

    if command in ("run", "demo"):
        recipe = recipe_from(_plain(options)) if command == "run" else None
        run = RunDir.create(Path(options.out), resume=options.resume, overwrite=options.overwrite)
        if recipe is None:
            from deblora.demo import run_demo

            run_demo(run, {"seed": options.seed})
        else:
            from deblora.pipeline import run_all

            run_all(run, recipe)
        return _finish(run)
    run = RunDir.open(Path(options.data if command == "audit" else options.run_dir))
    from deblora.pipeline import run_named

    run_named(command, run, recipe_from(read_recipe(run.recipe)))
    return 0


def _plain(options: Any) -> dict[str, Any]:
    values = dict(options.as_dict())
    return {
        key: value for key, value in values.items() if key not in ("config", "out", "resume", "overwrite")
    }


def _finish(run: Any) -> int:
    print("\n" + "\n".join(_score_table(run.evaluation("results.csv"))))
    print(f"\nreport: {run.report('index.html')}")
    return 0


def _score_table(path: Path) -> list[str]:
    import csv

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "macro_f1"]
    cells = {(r["method"], r["probe"], r["group"]): r for r in rows}
    lines = [
        "macro F1 in percent [95 % interval]",
        f"{'method':<18}{'probe':<18}" + "".join(f"{g:>20}" for g in GROUPS),
    ]
    for method, probe in dict.fromkeys((r["method"], r["probe"]) for r in rows):
        texts = []
        for group in GROUPS:
            value, low, high = (
                100 * float(cells[method, probe, group][k]) for k in ("value", "ci_lower", "ci_upper")
            )
            texts.append("-" if value != value else f"{value:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"{method:<18}{probe:<18}" + "".join(f"{text:>20}" for text in texts))
    return lines


GROUPS = ("head", "middle", "tail", "all")


def _audit(options: Any) -> int:
    from deblora.config import DataRecipe
    from deblora.stages.audit import choose_groups, describe, select_chips

    recipe = DataRecipe(source=options.data, groups=options.groups)
    chips = select_chips(recipe, options.seed)
    print(f"{'class':<28}{'group':<8}{'train':>8}{'val':>8}{'test':>8}{'ratio':>8}")
    for row in describe(chips, choose_groups(chips, recipe)):
        print(
            f"{row['class']:<28}{row['group']:<8}{row['train']:>8}{row['val']:>8}{row['test']:>8}"
            f"{row['imbalance_ratio']:>8}"
        )
    return 0
