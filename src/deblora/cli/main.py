"""The command line: one sub-command per stage; errors become one message and exit code 2. No logic lives here."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from deblora import __version__
from deblora.cli import data as data_cli
from deblora.cli import models as models_cli
from deblora.cli.compare import COMMANDS, add_commands, run_command
from deblora.cli.data import add_audit, hide_appending, show_most_used
from deblora.errors import ArtifactError, DataError, DebloraError, LauncherError, RecipeError
from deblora.run.processes import (
    is_first,
    is_lost_connection,
    join,
    leave,
    on_first,
    speaks_of_failure,
    world_size,
)

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


LISTS = (".csv", ".tsv", ".parquet", ".pq", ".txt", ".npz", ".npy", ".zip")  # files of chips, not recipes
RECIPE_YAML = "recipe"  # our name for the YAML of recipes, among the parsers of jsonargparse
_RESUME = ("run", "demo", "detect demo", "detect train", "detect predict")  # commands that have --resume
_NEW = ("export", "detect chips")  # those that take new folders only
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 when the user has something to mend."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _recipe_first(given)
        join()
        code = _run_command(arguments)
        leave()
        return code
    except DebloraError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; {_advice(error, given)}")
    except Exception as error:
        if not is_lost_connection(error):
            speaks_of_failure()  # a traceback follows; the other processes need not wonder
            raise
        return _fail(f"another process of this run has ended without a word; {_how_to_go_on(given)}")
    except KeyboardInterrupt:
        if is_first():
            print(f"deblora: interrupted; {_how_to_go_on(given)}", file=sys.stderr)
        return 130


def _advice(error: OSError, arguments: Sequence[str]) -> str:
    """Say what to do about a file that cannot be read or written."""
    if error.errno in _DENIED:
        return "check its permissions or name another folder"
    first = "free space" if error.errno in _FULL else "check the path and the disk"
    return f"{first}, then {_how_to_go_on(arguments)}"


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """Say how a command that was cut short is given again."""
    command = " ".join(arguments[: 2 if arguments[:1] == ["detect"] else 1])
    if command in _RESUME:
        return "go on with --resume"
    return "give the command again" + " with a new folder" * (command in _NEW)


def _run_command(arguments: list[str]) -> int:
    if world_size() > 1 and arguments and arguments[0] not in {"run", *STAGES}:
        raise LauncherError(f"deblora {arguments[0]} runs in one process; start it without a launcher")
    if arguments[:1] == ["data"]:
        return data_cli.dispatch(arguments[1:])
    if arguments[:1] == ["detect"]:
        from deblora.cli import detect as detect_cli

        return detect_cli.dispatch(arguments[1:])
    settings: dict[str, Any] = {}
    if arguments[:1] in (["compare"], ["study"]):
        from deblora.cli.overrides import take_settings

        settings, arguments = take_settings(arguments)
    return _dispatch(_parse(arguments), settings)


def _fail(message: str) -> int:
    """Say what is wrong, once for all processes, and return the exit code."""
    if speaks_of_failure():
        print(f"deblora: {message}", file=sys.stderr, flush=True)
    return 2


def _recipe_first(arguments: list[str]) -> list[str]:
    """Let ``deblora run RECIPE`` stand for ``--config RECIPE``, and ``deblora run DATA`` for the default recipe.

    With ``--resume`` and neither of them, the recipe of the run folder goes on.
    """
    if arguments[:1] != ["run"]:
        return arguments
    first, rest = arguments[1:2], arguments[2:]
    if first and not first[0].startswith("-"):
        if Path(first[0]).is_dir() or Path(first[0]).suffix.lower() in LISTS:
            return ["run", "--data.source", first[0], "--choose", *rest]
        if not Path(first[0]).exists():
            raise RecipeError(
                f"{first[0]} does not exist; give a recipe (YAML), or the folder or file of your chips"
            )
        return ["run", "--config", first[0], *rest]
    given = {argument.partition("=")[0] for argument in arguments}
    if "--resume" in given and "--out" in arguments[:-1] and not given & {"--config", "--data.source"}:
        kept = Path(arguments[arguments.index("--out") + 1]) / "recipe.yaml"
        if kept.is_file():
            return ["run", "--config", str(kept), *arguments[1:]]
    return arguments


def _parse(arguments: list[str]) -> Any:
    import jsonargparse

    from deblora.recipe.engine import load_yaml

    jsonargparse.set_loader(RECIPE_YAML, load_yaml)
    # Complaints become one message in main; the recipe is printed by deblora, so that run can read it again.
    ArgumentParser = partial(
        jsonargparse.ArgumentParser, exit_on_error=False, print_config=None, parser_mode=RECIPE_YAML
    )
    parser = ArgumentParser(
        prog="deblora",
        description="De-biased LoRA adapters for long-tailed remote-sensing imagery.",
        version=f"deblora {__version__}",
        epilog="Start with `deblora demo`, or `deblora audit DATA` to see the long tail of your own data.",
    )
    commands = parser.add_subcommands(required=True, dest="command")
    _add_road(commands, ArgumentParser)
    add_audit(commands, ArgumentParser)
    data = ArgumentParser(description="Readers and the catalog of open data sets; see `deblora data --help`.")
    commands.add_subcommand("data", data, help="readers and the catalog of open data sets")
    merge = ArgumentParser(
        description="One report over finished runs: mean and spread over seeds, and differences paired run by run."
    )
    merge.add_argument("run_dirs", type=str, nargs="+", metavar="run_dir", help="folder of a finished run")
    merge.add_argument("--out", type=str, required=True, help="folder for the merged report")
    commands.add_subcommand("merge", merge, help="one report over several runs (seeds, data sets, backbones)")
    _add_uses(commands, ArgumentParser)
    add_commands(commands, ArgumentParser)
    models_cli.add_commands(commands, ArgumentParser)
    detect = ArgumentParser(description="Oriented object detection; see `deblora detect --help`.")
    commands.add_subcommand("detect", detect, help="oriented object detection: deblora detect --help")
    for name, text in STAGES.items():
        stage = ArgumentParser(description=text[0].upper() + text[1:] + ". Reads and writes a run folder.")
        stage.add_argument("run_dir", type=str, help="run folder")
        commands.add_subcommand(name, stage, help=text)
    if arguments[:1] == ["run"]:
        if "--help.all" in arguments:
            arguments = ["run", "--help"]
        elif {"-h", "--help"} & set(arguments):
            show_most_used(commands.choices["run"])
        else:
            from deblora.cli.overrides import check_recipe

            check_recipe(arguments[1:])
    try:
        return parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        named = f"deblora {arguments[0]}" if arguments and arguments[0] in commands.choices else "deblora"
        raise RecipeError(f"{' '.join(str(error).split())}; see {named} --help") from error


def _add_road(commands: Any, ArgumentParser: Any) -> None:
    """Add what runs all stages."""
    import jsonargparse

    from deblora.recipe.classify import Recipe

    run = ArgumentParser(
        usage="deblora run RECIPE.yaml|DATA --out RUN_DIR [--resume] [--overwrite] [--choose] [--table.key VALUE ...]",
        description="All stages in order: deblora run RECIPE.yaml --out RUN_DIR [--table.key value ...]. "
        "Finished stages whose inputs have not changed are skipped. deblora run DATA --out RUN_DIR takes the default "
        "recipe and lets validation choose among all heads. The most used settings follow, table by table; "
        "--help.all shows all of them.",
    )
    run.add_argument("--config", action=jsonargparse.ActionConfigFile, help="the recipe (YAML)")
    run.add_argument("--print_config", action="store_true", help="print the resolved recipe and stop")
    run.add_argument(
        "--choose", action="store_true", help="also fit every long-tail head, and choose one on validation"
    )
    _add_out(run)
    run.add_class_arguments(Recipe, fail_untyped=False)
    hide_appending(run)
    commands.add_subcommand("run", run, help="all stages in order, from a recipe")
    demo = ArgumentParser(description="The whole method on simulated SAR chips, offline, in a few minutes.")
    _add_out(demo, default="runs/demo")
    demo.add_argument("--seed", type=int, default=0, help="seed of chips, adapters and clusters")
    commands.add_subcommand("demo", demo, help="the whole method on simulated SAR chips")


def _add_uses(commands: Any, ArgumentParser: Any) -> None:
    """Add what finished runs are for."""
    predict = ArgumentParser(
        description="Classes of new chips by a finished run, with the row and head that validation chose: a table with "
        "all probabilities, and a page with the best chips of every class, rare ones first."
    )
    predict.add_argument("run_dir", type=str, help="run folder")
    predict.add_argument(
        "chips",
        type=str,
        help="folder of images at any depth, one image, a list (.csv, .tsv, .txt), arrays (.npz, .npy) or Parquet; "
        "labels in them are not read",
    )
    predict.add_argument(
        "--on-error",
        type=Literal["stop", "skip"],
        default="stop",
        help="chips that cannot be read, or have other bands or values: stop, or skip, count and name them",
    )
    predict.add_argument("--out", type=str, required=True, help="folder for predictions.csv and index.html")
    predict.add_argument(
        "--overwrite", action="store_true", help="replace an earlier prediction in this folder"
    )
    commands.add_subcommand("predict", predict, help="classes of new chips by a finished run")
    export = ArgumentParser(
        description="An adapter for other tools: one LoRA of factor 1, stacked adapters joined. diffusers reads the "
        "one with load_lora_weights, peft the other."
    )
    export.add_argument("source", type=str, help="run folder or adapter folder")
    export.add_argument(
        "--format",
        type=Literal["diffusers", "peft"] | None,
        default=None,
        help="layout of the export; left out: diffusers for adapters of Stable Diffusion, else peft",
    )
    export.add_argument(
        "--adapter", type=Literal["lora", "deblora"], default="deblora", help="of a run: which one"
    )
    export.add_argument("--out", type=str, required=True, help="new folder")
    commands.add_subcommand("export", export, help="an adapter in the layout of diffusers or peft")


def _add_out(parser: Any, *, default: str | None = None) -> None:
    parser.add_argument("--out", type=str, default=default, help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on in an existing run folder")
    parser.add_argument("--overwrite", action="store_true", help="empty an existing run folder first")


def _dispatch(arguments: Any, settings: Mapping[str, Any]) -> int:
    command = arguments.command
    options = arguments[command]
    logging.captureWarnings(True)
    if command == "audit" and not (Path(options.source) / "run.json").is_file():
        data_cli.audit_source(options)
        return 0
    if command == "merge":
        from deblora.pipeline.compare.merge import merge_runs

        print(f"report: {merge_runs([Path(name) for name in options.run_dirs], Path(options.out))}")
        return 0
    if command in models_cli.COMMANDS:
        print(models_cli.run_command(options))
        return 0
    if command == "export":
        from deblora.pipeline.classify.export import export

        out = export(Path(options.source), Path(options.out), kind=options.format, adapter=options.adapter)
        print(f"adapter: {out}")
        return 0
    if command in COMMANDS:
        print(run_command(command, options, settings))
        return 0
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir

    if command == "run":
        return _run(options)
    if command == "demo":
        recipe_from({"seed": options.seed, "data": {"source": "simulated"}})
        run = RunDir.create(Path(options.out), resume=options.resume, overwrite=options.overwrite)
        from deblora.pipeline.classify.demo import run_demo

        run_demo(run, {"seed": options.seed})
        return _finish(run)
    run = RunDir.open(Path(options.source if command == "audit" else options.run_dir))
    if command == "predict":
        from deblora.pipeline.classify.predict import predict

        recipe, chips, out = recipe_from(read_recipe(run.recipe)), Path(options.chips), Path(options.out)
        found = predict(run, recipe, chips, out, on_error=options.on_error, overwrite=options.overwrite)
        skipped = f", {len(found.skipped)} left out (predictions.csv says why)" if found.skipped else ""
        print(f"{len(found.ids)} chips classified{skipped}\npage: {out / 'index.html'}")
        return 0
    from deblora.pipeline.classify.road import run_named

    run_named(command, run, recipe_from(read_recipe(run.recipe)))
    if command == "audit":
        data_cli.audit_run(run)
    return 0


def _run(options: Any) -> int:
    from deblora.recipe.classify import recipe_from, to_yaml
    from deblora.run.run_dir import RunDir

    given = dict(options.as_dict())
    for name in ("config", "out", "resume", "overwrite", "print_config", "choose"):
        given.pop(name, None)
    recipe = recipe_from(given)
    if options.print_config:
        if is_first():
            print(to_yaml(recipe), end="")
        return 0
    if not options.out:
        raise RecipeError("--out is not set; name the run folder")
    if options.choose and not options.config:
        from deblora.pipeline.classify.road import fit_to_data

        recipe = fit_to_data(recipe)
    run = RunDir(Path(options.out))
    _run_road(run, recipe, resume=options.resume, overwrite=options.overwrite, choose=options.choose)
    return _finish(run, chosen=options.choose) if is_first() else 0


def _run_road(run: Any, recipe: Any, *, resume: bool, overwrite: bool, choose: bool) -> None:
    from deblora.pipeline.classify.road import check_inputs, judge_short_list, run_all

    def prepare() -> None:
        _check_apart(run.root, Path(recipe.data.source), overwrite=overwrite)
        check_inputs(recipe)
        type(run).create(run.root, resume=resume, overwrite=overwrite)

    on_first(prepare)
    try:
        run_all(run, recipe, before_report=judge_short_list if choose else None)
    except (DebloraError, OSError):
        if is_first():
            run.forget_start()  # nothing is left behind where not even the audit finished
        raise


def _check_apart(out: Path, source: Path, *, overwrite: bool) -> None:
    """Check that a run neither lands among the chips nor deletes them.

    Raises:
        ArtifactError: If the run folder lies in the folder of the data.
        DataError: If the data lie in the run folder that is to be deleted.
    """
    home, data = out.resolve(), source.resolve()
    if data.is_dir() and home.is_relative_to(data):
        raise ArtifactError(f"{out} lies inside the data, {source}; name a run folder outside")
    if overwrite and data.is_relative_to(home):
        raise DataError(
            f"{source} lies inside {out}, which --overwrite deletes; move the data or use --resume"
        )


def _finish(run: Any, *, chosen: bool = False) -> int:
    print("\n" + "\n".join(_score_table(run.evaluation("results.csv"))))
    if chosen:
        from deblora.pipeline.classify.evaluate.choose import read_choice, say_choice

        print("\n" + "\n".join(say_choice(read_choice(run))))
        print(f"classify new chips with: deblora predict {run.root} CHIPS --out FOLDER")
    print(f"\nreport: {run.report('index.html')}")
    return 0


def _score_table(path: Path) -> list[str]:
    import csv

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "macro_f1"]
    cells = {(r["method"], r["probe"], r["group"]): r for r in rows}
    lines = [
        "macro F1 in percent [95 % interval]",
        f"{'method':<18}{'probe':<18}" + "".join(f"{g:>22}" for g in GROUPS),
    ]
    for method, probe in dict.fromkeys((r["method"], r["probe"]) for r in rows):
        texts = []
        for group in GROUPS:
            value, *ends = (
                100 * float(cells[method, probe, group][k] or "nan")
                for k in ("value", "ci_lower", "ci_upper")
            )
            shown = "-" if any(end != end for end in ends) else "[{:.1f}, {:.1f}]".format(*ends)
            texts.append("-" if value != value else f"{value:.1f} {shown}")
        lines.append(f"{method:<18}{probe:<18}" + "".join(f"{text:>22}" for text in texts))
    return lines


GROUPS = ("head", "middle", "tail", "all")
