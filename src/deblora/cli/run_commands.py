"""The commands of a run: ``run``, ``demo``, one per stage, and what finished runs are for."""

from functools import partial
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
    check_number,
)
from deblora.errors import ArtifactError, RecipeError

STAGES = {
    "train-lora": "train the LoRA adapter (stage 0)",
    "extract": "features through every adapter that is trained",
    "cluster": "K-means with a size floor, labels ignored",
    "center": "de-biased centers of the rare classes",
    "calibrate": "move rare features toward their centers",
    "train-deblora": "train the adapter that produces the calibrated features",
    "evaluate": "fit the classifiers of every method, score them, choose one on validation",
    "report": "one self-contained HTML page",
}
GROUPS = ("head", "middle", "tail", "all")

# --- run and demo -----------------------------------------------------------------------------------------------


def _add_run(parser: Parser) -> None:
    add_source(parser, required=False)
    parser.add_argument("--out", type=Path, help="run folder")
    add_start(parser)
    parser.add_argument("--print-recipe", action="store_true", help="print the resolved recipe and stop")


def _run(options: Any) -> None:
    from deblora.pipeline.classify.road import recipe_of, start_run
    from deblora.recipe.classify import to_yaml
    from deblora.run.processes import is_first

    source = _source(options)
    if options.print_recipe or not options.out:
        plain, _ = recipe_of(source, options.settings, adapt=False)
        if options.print_recipe:
            if is_first():
                print(to_yaml(plain), end="")
            return
        raise RecipeError("--out is not set; name the run folder")
    recipe, note = recipe_of(source, options.settings)
    run = start_run(options.out, recipe, resume=options.resume, overwrite=options.overwrite, note=note)
    if is_first():
        _finish(run)


def _source(options: Any) -> str | None:
    """Return the data or recipe of ``run``; with ``--resume`` and neither of them, the recipe of the run folder."""
    if options.source is None and options.resume and options.out and "data.source" not in options.settings:
        kept: Path = options.out / "recipe.yaml"
        return str(kept) if kept.is_file() else None
    return options.source  # type: ignore[no-any-return]


def _finish(run: Any) -> None:
    from deblora.pipeline.audited import say_unjudged
    from deblora.pipeline.classify.evaluate.choose import read_choice
    from deblora.report.summary import say_choice

    print("\n" + "\n".join(_score_table(run.evaluation("scores.csv"))))
    if unjudged := say_unjudged(run):
        print(unjudged)
    print("\n" + "\n".join(say_choice(read_choice(run))))
    print(f"classify new chips with: deblora predict {quote(str(run.root))} CHIPS --out FOLDER")
    print(f"\nreport: {run.report('index.html')}")


def _score_table(path: Path) -> list[str]:
    import csv

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "macro_f1"]
    cells = {(r["method"], r["classifier"], r["group"]): r for r in rows}
    widths = [2 + max(len(row[key]) for row in rows) for key in ("method", "classifier")]
    lines = [
        "macro F1 in percent [95 % interval]",
        f"{'method':<{widths[0]}}{'classifier':<{widths[1]}}" + "".join(f"{g:>22}" for g in GROUPS),
    ]
    for method, classifier in dict.fromkeys((r["method"], r["classifier"]) for r in rows):
        texts = []
        for group in GROUPS:
            value, *ends = (
                100 * float(cells[method, classifier, group][k] or "nan")
                for k in ("value", "ci_lower", "ci_upper")
            )
            shown = "-" if any(end != end for end in ends) else "[{:.1f}, {:.1f}]".format(*ends)
            texts.append("-" if value != value else f"{value:.1f} {shown}")
        lines.append(
            f"{method:<{widths[0]}}{classifier:<{widths[1]}}" + "".join(f"{text:>22}" for text in texts)
        )
    return lines


def _add_demo(parser: Parser) -> None:
    add_out(parser, default="runs/demo")
    add_start(parser)


def _demo(options: Any) -> None:
    from deblora.recipe.classify import recipe_from
    from deblora.run.run_dir import RunDir

    recipe_from({**options.settings, "data": {"source": "simulated"}})
    run = RunDir.create(options.out, resume=options.resume, overwrite=options.overwrite)
    from deblora.pipeline.classify.demo import run_demo

    run_demo(run, options.settings)
    _finish(run)


# --- stages -----------------------------------------------------------------------------------------------------


def _add_run_dir(parser: Parser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder")


def _open(root: Path) -> tuple[Any, Any]:
    """Open a run of classification with its recipe.

    Raises:
        ArtifactError: If the folder holds no run, or one of detection.
    """
    from deblora.recipe.classify import read_recipe, recipe_from
    from deblora.run.run_dir import RunDir

    run = RunDir.open(root)
    values = read_recipe(run.recipe)
    if "head" in values:
        raise ArtifactError(
            f"{root} is a run of detection; its commands begin with deblora detect (deblora detect --help)"
        )
    return run, recipe_from(values)


def _stage(name: str, options: Any) -> None:
    from deblora.pipeline.classify.road import run_named

    run, recipe = _open(options.run_dir)
    run_named(name, run, recipe)


# --- what finished runs are for ---------------------------------------------------------------------------------


def _add_predict(parser: Parser) -> None:
    _add_run_dir(parser)
    parser.add_argument(
        "chips",
        type=Path,
        help="folder of images at any depth, one image, a list (.csv, .tsv, .txt), arrays (.npz, .npy) or Parquet; "
        "labels in them are not read; with --tile a scene (GeoTIFF, picture) or a folder of scenes",
    )
    parser.add_argument(
        "--tile",
        type=int,
        help="make a map of a scene: side of its tiles in pixels, that of the training chips",
    )
    parser.add_argument(
        "--stride", type=int, help="pixels from tile to tile, the cell of the map (default: half a tile)"
    )
    parser.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="chips that cannot be read, or have other bands or values: stop, or skip, count and name them",
    )
    add_out(parser, "folder for predictions.csv and index.html, or for one folder per scene")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier prediction in this folder"
    )
    parser.add_argument("--backbone.path", dest="weights", help="where the weights of the backbone are now")


def _predict(options: Any) -> None:
    from deblora.pipeline.classify.predict import predict

    run, recipe = _open(options.run_dir)
    if options.tile is not None:
        return _predict_scenes(run, recipe, options)
    if options.stride is not None:
        raise RecipeError("--stride belongs to a map of a scene; give --tile too")
    found = predict(
        run,
        recipe,
        options.chips,
        options.out,
        on_error=options.on_error,
        overwrite=options.overwrite,
        weights=options.weights,
    )
    skipped = f", {len(found.skipped)} left out (predictions.csv says why)" if found.skipped else ""
    if found.model.unjudged:
        print(f"classes that labeling has founded, not judged on any test: {', '.join(found.model.unjudged)}")
    print(f"{len(found.ids)} chips classified{skipped}\npage: {options.out / 'index.html'}")


def _add_suggest(parser: Parser) -> None:
    from deblora.evaluate.suggest import STRATEGIES

    _add_run_dir(parser)
    parser.add_argument("pool", type=Path, help="unlabeled chips: what deblora predict takes")
    parser.add_argument("--n", type=int, default=50, help="chips to choose (default: 50)")
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="half-sure",
        help="how (default: half-sure, the best one measured; docs/labeling.md)",
    )
    parser.add_argument(
        "--unlike",
        type=int,
        default=0,
        help="how many of them are to be unlike all classes, for classes without a label (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the strategy (default: 0)")
    parser.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="chips that cannot be used: stop, or skip",
    )
    add_out(parser, "new folder of the queue")
    parser.add_argument("--backbone.path", dest="weights", help="where the weights of the backbone are now")


def _suggest(options: Any) -> None:
    from collections import Counter

    from deblora.pipeline.classify.suggest import suggest_chips

    check_number("--n", options.n, highest=100_000)
    if not 0 <= options.unlike <= options.n:
        raise RecipeError(f"--unlike is {options.unlike}, allowed are 0 to --n ({options.n})")
    run, recipe = _open(options.run_dir)
    queue = suggest_chips(
        run,
        recipe,
        options.pool,
        options.out,
        n=options.n,
        strategy=options.strategy,
        n_unlike=options.unlike,
        seed=options.seed,
        on_error=options.on_error,
        weights=options.weights,
    )
    proposed = Counter(chip.proposed or "unlike all classes" for chip in queue.chips)
    print(
        f"{len(queue.chips)} chips to label next: " + ", ".join(f"{k} {name}" for name, k in proposed.items())
    )
    print(f"page: {options.out / 'index.html'}\nlabel them with: deblora label {options.out}")


def _predict_scenes(run: Any, recipe: Any, options: Any) -> None:
    from deblora.pipeline.classify.scene_map import map_scenes

    check_number("--tile", options.tile, highest=4096)
    stride = (options.tile + 1) // 2 if options.stride is None else options.stride
    check_number("--stride", stride, highest=options.tile)
    if options.on_error != "stop":
        raise RecipeError(
            "--on-error belongs to chips; tiles of a scene with missing pixels are left out by themselves"
        )
    for made in map_scenes(
        run,
        recipe,
        options.chips,
        options.out,
        tile=options.tile,
        stride=stride,
        overwrite=options.overwrite,
        weights=options.weights,
    ):
        print(
            f"{made.folder}: {made.n_tiles} tiles, {made.n_left_out} of them left out (missing pixels), "
            f"{made.n_finds} finds of rare classes"
        )


def _add_label(parser: Parser) -> None:
    parser.add_argument("queue", type=Path, help="folder that deblora suggest wrote")
    parser.add_argument(
        "--labeler",
        default="",
        help="who labels, for a file of their own; decided sees what others disagree on and has the last word",
    )
    parser.add_argument("--port", type=int, default=0, help="port on this machine (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def _label(options: Any) -> None:
    from deblora.pipeline.classify.label import open_server

    check_number("--port", options.port or 1, highest=65535)
    with open_server(options.queue, labeler=options.labeler, port=options.port) as server:
        print(f"label here, on this machine only: {server.address}\nCtrl-C ends it; all is saved", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            queue = server.labeling.queue
            print(
                f"\n{server.labeling.summary()}\nto the run: deblora update {queue.run_folder} {options.queue}"
            )


def _add_update(parser: Parser) -> None:
    _add_run_dir(parser)
    parser.add_argument(
        "queue",
        type=Path,
        nargs="?",
        help="labeled queue; left out, labels that were added before are fitted again",
    )
    parser.add_argument(
        "--adapt",
        type=Path,
        metavar="NEW_RUN",
        help="then train the adapters with them too, as a new run in this folder; given again, it goes on",
    )
    parser.add_argument("--backbone.path", dest="weights", help="where the weights of the backbone are now")


def _update(options: Any) -> None:
    from deblora.pipeline.classify.update import say_change, update
    from deblora.pipeline.open_model import find_noted_weights

    run, recipe = _open(options.run_dir)
    change = update(run, recipe, options.queue, weights=options.weights)
    print("\n".join(say_change(change)), flush=True)
    if options.adapt is not None:
        from deblora.pipeline.classify.adapt import adapt

        recipe = recipe
        _finish(adapt(run, find_noted_weights(run, recipe, options.weights), options.adapt))
        return
    print(f"classify new chips with: deblora predict {quote(str(run.root))} CHIPS --out FOLDER")


def _add_export(parser: Parser) -> None:
    parser.add_argument("source", type=Path, help="run folder or adapter folder")
    parser.add_argument(
        "--format",
        choices=["diffusers", "peft"],
        help="layout of the export; left out: diffusers for adapters of Stable Diffusion, else peft",
    )
    parser.add_argument(
        "--adapter", choices=["lora", "deblora"], default="deblora", help="of a run: which one"
    )
    add_out(parser, "new folder")


def _export(options: Any) -> None:
    from deblora.pipeline.classify.export import export

    out = export(options.source, options.out, kind=options.format, adapter=options.adapter)
    print(f"adapter: {out}")


COMMANDS = (
    Command(
        "run",
        "all stages in order, from data or a recipe",
        _run,
        _add_run,
        about="Finished stages whose inputs have not changed are skipped. Data take the default recipe, with a first "
        "look at input sizes and views.",
        settings="classify",
        in_processes=True,
        after_a_stop=RESUME,
    ),
    Command(
        "demo",
        "the whole method on simulated SAR chips, offline, in a few minutes",
        _demo,
        _add_demo,
        settings="classify",
        tables=("seed",),
        after_a_stop=RESUME,
    ),
    *(
        Command(
            name,
            says,
            partial(_stage, name),
            _add_run_dir,
            about="Reads and writes a run folder.",
            in_processes=True,
        )
        for name, says in STAGES.items()
    ),
    Command(
        "predict",
        "classes of new chips by a finished run",
        _predict,
        _add_predict,
        about="With the method and classifier that validation chose: a table with all probabilities, and a page with "
        "the best chips of every class, rare ones first. With --tile, of a scene: classes and probabilities as "
        "GeoTIFFs in its reference system, rare finds as polygons, a picture; given again, it goes on.",
    ),
    Command(
        "suggest",
        "choose the chips of an unlabeled pool to label next",
        _suggest,
        _add_suggest,
        about="Writes a queue: pictures by proposed class on a page, rare classes first, and a table. Labeled chips, "
        "those of validation and test, and copies are left out.",
        after_a_stop=NEW_FOLDER,
    ),
    Command(
        "label",
        "label a queue of chips on a page in the browser",
        _label,
        _add_label,
        about="Served to this machine only, behind a random token. Keys: a digit or letter for a class, Enter as "
        "proposed, Space skip, ? unsure, Backspace undo, / another or a new class. Every key press is saved before it "
        "is acknowledged; given again, it goes on.",
    ),
    Command(
        "update",
        "take the labels of a queue into the classifier of a run",
        _update,
        _add_update,
        about="Only new chips go through the model; the classifier is fitted again in seconds, and predict uses it. "
        "Says what the labels have changed. Validation and test stay as they are.",
    ),
    Command(
        "export",
        "an adapter in the layout of diffusers or peft",
        _export,
        _add_export,
        about="One LoRA of factor 1, stacked adapters joined. diffusers reads the one with load_lora_weights, peft the "
        "other.",
        after_a_stop=NEW_FOLDER,
    ),
)
