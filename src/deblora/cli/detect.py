"""``deblora detect ...``: arguments of oriented detection and what they call. No logic lives here."""

import argparse
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from deblora.errors import DataError, DebloraError, RecipeError

DESCRIPTION = (
    "Oriented object detection: an FCOS head on any backbone, DOTA's protocol, mAP of head, middle and tail. "
    "Start with `deblora detect demo`."
)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of detection to a parser."""
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def add(name: str, text: str, **options: Any) -> argparse.ArgumentParser:
        formatter = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(
            name, help=text, description=text, formatter_class=formatter, allow_abbrev=False, **options
        )

    demo = add("demo", "two methods on simulated scenes, offline, in 5 to 10 minutes")
    demo.add_argument("--out", type=Path, default=Path("runs/detect-demo"), help="folder for scenes and runs")
    demo.add_argument("--seed", type=int, default=0, help="seed of scenes and training")
    demo.add_argument("--resume", action="store_true", help="go on in an existing folder")
    tile = add("tile", "cut scenes in DOTA format into tiles; finished scenes are skipped")
    tile.add_argument("source", type=Path, help="folder or zip with images/ and labelTxt/")
    tile.add_argument("--out", type=Path, required=True, help="folder for the tiles")
    tile.add_argument("--size", type=int, default=1024, help="side of a tile, pixels (default: 1024)")
    tile.add_argument("--overlap", type=int, default=200, help="pixels that neighbors share (default: 200)")
    tile.add_argument(
        "--rates", type=float, nargs="+", default=[1.0], help="zooms before tiling (default: 1)"
    )
    chips = add(
        "chips", "cut object chips of a training split, for `deblora run` (adapters of lora and deblora)"
    )
    chips.add_argument(
        "source", type=Path, help="the training split: folder or zip with images/ and labelTxt/"
    )
    chips.add_argument("--out", type=Path, required=True, help="one folder per class is written below OUT")
    chips.add_argument(
        "--context", type=float, help="side over the object's (default: 1.5 for squares, 1 for hulls)"
    )
    chips.add_argument(
        "--crop",
        choices=["square", "hull"],
        default="square",
        help="a square around the object, or the upright hull of its box (the authors' rule)",
    )
    chips.add_argument("--difficult", action="store_true", help="cut objects marked difficult too")
    chips.add_argument("--ignore", nargs="*", default=[], help="classes to leave out")
    train = add(
        "train",
        "audit, train, predict and judge the validation images, report",
        epilog="settings (--table.key VALUE overrides the recipe):\n" + _settings(),
    )
    train.add_argument("recipe", type=Path, help="recipe (YAML)")
    train.add_argument("run_dir", type=Path, help="run folder")
    train.add_argument("--method", help="zero-shot, fine-tune, lora, reweight, ecm, deblora or scratch")
    train.add_argument("--seed", help="overrides the seed of the recipe")
    train.add_argument("--resume", action="store_true", help="go on; what has not changed is skipped")
    train.add_argument("--overwrite", action="store_true", help="empty an existing run folder first")
    test = add("test", "predict and judge the test images of a finished run, once")
    test.add_argument("run_dir", type=Path, help="run folder")
    predict = add("predict", "detect in an image, a folder, a zip or a GeoTIFF larger than memory")
    predict.add_argument("run_dir", type=Path, help="run folder")
    predict.add_argument("source", type=Path, nargs="+", help="image(s), folder or zip")
    predict.add_argument("--out", type=Path, required=True, help="folder for the results")
    predict.add_argument(
        "--format",
        nargs="+",
        default=["task1", "coco", "overlay"],
        help="some of task1, coco, csv, overlay, thumbnails (pixels), geojson (degrees), geopackage (in the reference "
        "system of the scene) (default: task1 coco overlay)",
    )
    predict.add_argument(
        "--tiles", action="store_true", help="the images are tiles: put their detections together by name"
    )
    predict.add_argument(
        "--bands",
        type=_bands,
        default=(),
        help="bands to take, counted from 1, in the order of the model, for example 4,3,2 (default: all)",
    )
    predict.add_argument(
        "--across-classes",
        action="store_true",
        help="one class per object: detections of different classes suppress each other too",
    )
    predict.add_argument("--resume", action="store_true", help="go on with the windows that are missing")
    evaluate = add("eval", "judge Task-1 files, anybody's, by the protocol of DOTA")
    evaluate.add_argument("predictions", type=Path, help="folder or zip with Task1_<class>.txt")
    evaluate.add_argument("labels", type=Path, help="folder of label files, DOTA folder or zip")
    evaluate.add_argument("--protocol", choices=["dota1.0", "dota1.5"], default="dota1.0")
    evaluate.add_argument(
        "--groups",
        default="counts",
        help="reference (DOTA-v1.0), counts (thirds), or a YAML file with head and tail",
    )
    evaluate.add_argument("--out", type=Path, help="folder for report.json and report.md")
    compare = add(
        "compare", "one table over finished runs: parameters, head/middle/tail mAP, spread over seeds"
    )
    compare.add_argument("run_dirs", type=Path, nargs="+", help="run folders")
    compare.add_argument("--out", type=Path, help="file for the table (Markdown)")
    compare.add_argument("--csv", type=Path, help="file for every score of every run (CSV)")


def dispatch(arguments: Sequence[str]) -> int:
    """Run ``deblora detect ARGUMENTS``; return the exit code.

    Raises:
        DebloraError: If the user has something to mend.
    """
    parser = argparse.ArgumentParser(prog="deblora detect", description=DESCRIPTION)
    add_commands(parser)
    options, rest = parser.parse_known_args(list(arguments))
    overrides = _overrides(rest) if options.command == "train" else {}
    if rest and options.command != "train":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    commands = {
        "demo": _demo,
        "tile": _tile,
        "chips": _chips,
        "train": _train,
        "test": _test,
        "predict": _predict,
        "eval": _evaluate,
        "compare": _compare,
    }
    commands[options.command](options, overrides)
    return 0


def _train(options: Any, overrides: dict[str, Any]) -> None:
    from deblora.pipeline.detect.road import train_detector
    from deblora.recipe.classify import read_recipe
    from deblora.recipe.detect import detection_recipe_from
    from deblora.run.run_dir import RunDir

    values = read_recipe(options.recipe)
    if isinstance(values.get("method"), str):
        values["method"] = {"name": values["method"]}
    for name, value in overrides.items():
        table, _, key = name.partition(".")
        section = values.setdefault(table, {})
        if not isinstance(section, dict):
            raise RecipeError(f"{table} must be a table of settings in {options.recipe}")
        section[key] = value
    if options.method:
        values.setdefault("method", {})["name"] = options.method
    if options.seed is not None:
        values["seed"] = _value(options.seed)
    recipe = detection_recipe_from(values)
    run = RunDir.create(options.run_dir, resume=options.resume, overwrite=options.overwrite)
    try:
        train_detector(run, recipe)
    except (DebloraError, OSError):
        run.forget_start()  # the command can be given again as it is
        raise
    _print_scores(run, "val")


def _test(options: Any, _: dict[str, Any]) -> None:
    from deblora.pipeline.detect.model import open_run
    from deblora.pipeline.detect.road import test_detector

    run, recipe = open_run(options.run_dir)
    test_detector(run, recipe)
    _print_scores(run, "test")


def _predict(options: Any, _: dict[str, Any]) -> None:
    from deblora.pipeline.detect.model import open_run
    from deblora.pipeline.detect.predict import predict_source
    from deblora.run.log import start_log

    run, recipe = open_run(options.run_dir)
    start_log(run)
    if len(options.source) > 1 and len({path.stem for path in options.source}) < len(options.source):
        raise DataError("two of the images have the same name; predict them into different folders")
    for source in options.source:
        out = options.out if len(options.source) == 1 else options.out / source.stem
        found = predict_source(
            run,
            recipe,
            source,
            out,
            formats=options.format,
            resume=options.resume,
            tiles=options.tiles,
            bands=options.bands,
            across_classes=options.across_classes,
        )
        print(f"{source}: {len(found.scores)} detections in {out}")


def _evaluate(options: Any, _: dict[str, Any]) -> None:
    import json

    from deblora.files import write_atomic
    from deblora.pipeline.detect.evaluate import evaluate_files
    from deblora.report.page import render_markdown
    from deblora.report.pictures import Detections, detection_page

    summary = evaluate_files(
        options.predictions, options.labels, protocol=options.protocol, groups=options.groups
    )
    text = render_markdown(detection_page(Detections(f"Evaluation of {options.predictions.name}", summary)))
    print(text)
    if options.out:
        write_atomic(options.out / "report.json", json.dumps(summary, indent=1))
        write_atomic(options.out / "report.md", text)


def _compare(options: Any, _: dict[str, Any]) -> None:
    from deblora.files import write_atomic
    from deblora.pipeline.detect.compare import comparison_text

    text = comparison_text(options.run_dirs)
    print(text)
    if options.out:
        write_atomic(options.out, text)
    if options.csv:
        from deblora.pipeline.detect.compare import comparison_csv

        write_atomic(options.csv, comparison_csv(options.run_dirs))


def _tile(options: Any, _: dict[str, Any]) -> None:
    from deblora.pipeline.detect.prepare import tile_set

    counts = tile_set(
        options.source, options.out, size=options.size, overlap=options.overlap, rates=options.rates
    )
    print(
        f"{counts['n_scenes']} scenes ({counts['n_new']} cut now), {counts['n_tiles']} tiles with "
        f"{counts['n_objects']} objects in {options.out}"
    )


def _chips(options: Any, _: dict[str, Any]) -> None:
    from deblora.pipeline.detect.prepare import cut_chips

    counts = cut_chips(
        options.source,
        options.out,
        context=options.context,
        shape=options.crop,
        difficult=options.difficult,
        ignored=tuple(options.ignore),
    )
    for name, count in counts.items():
        print(f"{name:<28}{count:>8}")
    print(
        f"chips in {options.out}; adapt to them with: deblora run RECIPE.yaml --data.source {options.out} ..."
    )


def _demo(options: Any, _: dict[str, Any]) -> None:
    from deblora.pipeline.detect.demo import run_demo

    print("\n".join(run_demo(options.out, seed=options.seed, resume=options.resume)))


def _print_scores(run: Any, split: str) -> None:
    from deblora.pipeline.detect.model import evaluation_path, read_facts
    from deblora.pipeline.detect.report import report_path
    from deblora.report.page import markdown_table
    from deblora.report.pictures import group_table, say_detections

    summary = read_facts(evaluation_path(run, split))
    print("\n" + "\n".join([*say_detections(summary), "", markdown_table(group_table(summary))]))
    print(f"\nreport: {report_path(run, split, '.html')}")


def _bands(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of band numbers like 4,3,2") from None


def _overrides(rest: Sequence[str]) -> dict[str, Any]:
    """Read ``--table.key VALUE`` and ``--table.key=VALUE``."""
    found: dict[str, Any] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            raise RecipeError(
                f"{word} is no argument of detect train; settings are written --table.key VALUE"
            )
        if not equals:
            if not words:
                raise RecipeError(f"{word} has no value; write {word} VALUE")
            text = words.pop(0)
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    import yaml

    from deblora.recipe.engine import load_yaml

    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text


def _settings() -> str:
    from deblora.recipe.detect import DetectionRecipe

    recipe, lines = DetectionRecipe(), []
    for item in fields(recipe):
        table = getattr(recipe, item.name)
        if is_dataclass(table) and not isinstance(table, type):
            for inner in fields(table):
                value = getattr(table, inner.name)
                lines.append(f"  --{item.name}.{inner.name:<22} {'null' if value is None else value}")
    return "\n".join(lines)
