"""The commands of oriented detection, ``deblora detect ...``."""

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

from deblora.cli.options import (
    NEW_FOLDER,
    RESUME,
    Command,
    Parser,
    add_out,
    add_source,
    add_start,
)
from deblora.errors import DataError, DebloraError, RecipeError

ABOUT = (
    "Oriented object detection: an FCOS head on any backbone, DOTA's protocol, mAP of head, middle and tail."
)


def _add_demo(parser: Parser) -> None:
    add_out(parser, "folder for scenes and runs", default="runs/detect-demo")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and training")
    parser.add_argument("--resume", action="store_true", help="go on in an existing folder")


def _add_tile(parser: Parser) -> None:
    parser.add_argument("source", type=Path, help="folder or zip with images/ and labelTxt/")
    add_out(parser, "folder for the tiles")
    parser.add_argument("--size", type=int, default=1024, help="side of a tile, pixels (default: 1024)")
    parser.add_argument("--overlap", type=int, default=200, help="pixels that neighbors share (default: 200)")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1.0], help="zooms before tiling (default: 1)"
    )


def _add_chips(parser: Parser) -> None:
    parser.add_argument(
        "source", type=Path, help="the training split: folder or zip with images/ and labelTxt/"
    )
    add_out(parser, "one folder per class is written below OUT")
    parser.add_argument(
        "--context", type=float, help="side over the object's (default: 1.5 for squares, 1 for hulls)"
    )
    parser.add_argument(
        "--crop",
        choices=["square", "hull"],
        default="square",
        help="a square around the object, or the upright hull of its box (the authors' rule)",
    )
    parser.add_argument("--difficult", action="store_true", help="cut objects marked difficult too")
    parser.add_argument("--ignore", nargs="*", default=[], help="classes to leave out")


def _add_train(parser: Parser) -> None:
    add_source(parser)
    add_out(parser)
    parser.add_argument(
        "--method", help="zero-shot, fine-tune, lora, reweight, ecm, deblora or scratch, as --method.name"
    )
    add_start(parser)


def _add_run_dir(parser: Parser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder")


def _add_predict(parser: Parser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder")
    parser.add_argument("source", type=Path, nargs="+", help="image(s), folder or zip")
    add_out(parser, "folder for the results")
    parser.add_argument(
        "--format",
        nargs="+",
        default=["task1", "coco", "overlay"],
        help="some of task1, coco, csv, overlay, thumbnails (pixels), geojson (degrees), geopackage (in the reference "
        "system of the scene) (default: task1 coco overlay)",
    )
    parser.add_argument(
        "--tiles", action="store_true", help="the images are tiles: put their detections together by name"
    )
    parser.add_argument(
        "--bands",
        type=_bands,
        default=(),
        help="bands to take, counted from 1, in the order of the model, for example 4,3,2 (default: all)",
    )
    parser.add_argument(
        "--across-classes",
        action="store_true",
        help="one class per object: detections of different classes suppress each other too",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        help="leave detections below this score out of all files (default: 0)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the windows that are missing")


def _add_evaluate(parser: Parser) -> None:
    parser.add_argument("predictions", type=Path, help="folder or zip with Task1_<class>.txt")
    parser.add_argument("labels", type=Path, help="folder of label files, DOTA folder or zip")
    parser.add_argument("--protocol", choices=["dota1.0", "dota1.5"], default="dota1.0")
    parser.add_argument(
        "--groups",
        default="counts",
        help="reference (DOTA-v1.0), counts (thirds), or a YAML file with head and tail",
    )
    parser.add_argument("--out", type=Path, help="folder for report.json and report.md")


def _add_compare(parser: Parser) -> None:
    parser.add_argument("run_dirs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", type=Path, help="file for the table (Markdown)")
    parser.add_argument("--csv", type=Path, help="file for every score of every run (CSV)")


def _train(options: Any) -> None:
    from deblora.pipeline.detect.road import train_detector
    from deblora.recipe.detect import detection_recipe_from
    from deblora.run.run_dir import RunDir

    method = {} if options.method is None else {"method.name": options.method}
    recipe = detection_recipe_from(_values(options.source, {**options.settings, **method}))
    run = RunDir.create(options.out, resume=options.resume, overwrite=options.overwrite)
    try:
        train_detector(run, recipe)
    except (DebloraError, OSError):
        run.forget_start()  # the command can be given again as it is
        raise
    _print_scores(run, "val")


def _values(source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe, or of the default recipe for a folder with the splits train, val and test."""
    from deblora.recipe.engine import is_recipe, values_from, with_settings

    if is_recipe(source):
        values = values_from(source, {})
        if isinstance(values.get("method"), str):
            values["method"] = {"name": values["method"]}
        return with_settings(values, settings)
    splits = {}
    for name in ("train", "val", "test"):
        found = [path for path in (Path(source) / name, Path(source) / f"{name}.zip") if path.exists()]
        splits.update({f"data.{name}": str(path) for path in found[:1]})
    if not splits:
        raise RecipeError(
            f"{source} holds no train and val (folders or zips); give such a folder, or a recipe (YAML)"
        )
    return with_settings({}, {**splits, **settings})


def _test(options: Any) -> None:
    from deblora.pipeline.detect.model import open_run
    from deblora.pipeline.detect.road import test_detector

    run, recipe = open_run(options.run_dir)
    test_detector(run, recipe)
    _print_scores(run, "test")


def _predict(options: Any) -> None:
    from deblora.pipeline.detect.model import open_run
    from deblora.pipeline.detect.predict import predict_source
    from deblora.run.processes import start_log

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
            min_score=options.min_score,
        )
        print(f"{source}: {len(found.scores)} detections in {out}")


def _evaluate(options: Any) -> None:
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


def _compare(options: Any) -> None:
    from deblora.files import write_atomic
    from deblora.pipeline.detect.compare import comparison_text

    text = comparison_text(options.run_dirs)
    print(text)
    if options.out:
        write_atomic(options.out, text)
    if options.csv:
        from deblora.pipeline.detect.compare import comparison_csv

        write_atomic(options.csv, comparison_csv(options.run_dirs))


def _tile(options: Any) -> None:
    from deblora.pipeline.detect.prepare import tile_set

    counts = tile_set(
        options.source, options.out, size=options.size, overlap=options.overlap, rates=options.rates
    )
    print(
        f"{counts['n_scenes']} scenes ({counts['n_new']} cut now), {counts['n_tiles']} tiles with "
        f"{counts['n_objects']} objects in {options.out}"
    )


def _chips(options: Any) -> None:
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
    source = quote(str(options.out))
    print(f"chips in {options.out}; adapt to them with: deblora run {source} --out FOLDER")


def _demo(options: Any) -> None:
    from deblora.pipeline.detect.demo import run_demo

    print("\n".join(run_demo(options.out, seed=options.seed, resume=options.resume)))


def _print_scores(run: Any, split: str) -> None:
    from deblora.pipeline.detect.evaluate import report_path
    from deblora.pipeline.detect.model import evaluation_path, read_facts
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


COMMANDS = (
    Command(
        "detect demo",
        "two methods on simulated scenes, offline, in 5 to 10 minutes",
        _demo,
        _add_demo,
        after_a_stop=RESUME,
    ),
    Command(
        "detect tile", "cut scenes in DOTA format into tiles; finished scenes are skipped", _tile, _add_tile
    ),
    Command(
        "detect chips",
        "cut object chips of a training split, for `deblora run`",
        _chips,
        _add_chips,
        about="They train the adapters of the methods lora and deblora.",
        after_a_stop=NEW_FOLDER,
    ),
    Command(
        "detect train",
        "train a detector and judge it on the validation images",
        _train,
        _add_train,
        about="Data are a folder with the splits train, val and test, each a folder or zip with images/ and labelTxt/; "
        "they take the default recipe.",
        settings="detect",
        after_a_stop=RESUME,
    ),
    Command("detect test", "predict and judge the test images of a finished run, once", _test, _add_run_dir),
    Command(
        "detect predict",
        "detect in an image, a folder, a zip or a GeoTIFF larger than memory",
        _predict,
        _add_predict,
        after_a_stop=RESUME,
    ),
    Command(
        "detect eval",
        "judge Task-1 files, anybody's, by the protocol of DOTA",
        _evaluate,
        _add_evaluate,
    ),
    Command(
        "detect compare",
        "one table over finished runs: parameters, head/middle/tail mAP, spread over seeds",
        _compare,
        _add_compare,
    ),
)
