"""The pipeline: its stages in the order they run, and the ways to run them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deblora.errors import ArtifactError, DataError, DebloraError, ModelError, RecipeError
from deblora.files import write_atomic
from deblora.pipeline.adapter import check_loss
from deblora.pipeline.classify import audit, cluster, look, report, train_deblora, train_lora
from deblora.pipeline.classify.audit import choose_groups, select_chips
from deblora.pipeline.classify.calibrate import CALIBRATE, CENTER, check_groups
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.evaluate import choose, fit, scores
from deblora.pipeline.classify.evaluate.costs import write_costs
from deblora.pipeline.classify.extract import stage_for
from deblora.pipeline.open_model import model_settings, note_weights
from deblora.recipe.classify import Recipe, recipe_from, to_yaml
from deblora.recipe.engine import is_recipe, values_from
from deblora.recipe.methods import METHODS, PLAIN, check_methods, default_list, short_list
from deblora.run.processes import device, is_first, on_first, start_log, world_size
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage, check_current, run_stage
from deblora.train.extract import check_precision

log = logging.getLogger("deblora")
FIRST = (audit.STAGE, train_lora.STAGE, stage_for("base"), stage_for("lora"))
CALIBRATION = (cluster.STAGE, CENTER, CALIBRATE)
SECOND = (train_deblora.STAGE, stage_for("deblora"))


def pipeline_of(
    recipe: Recipe, methods: Collection[str] | None = None, *, trained: Sequence[Stage] = ()
) -> tuple[Stage, ...]:
    """Return the stages in order: audit, features, calibration, second adapter, evaluation, choice, report.

    Args:
        recipe: Settings; its classifiers decide which methods have any to fit.
        methods: Methods to evaluate, those of the short list if None; ``lora`` always is. What none of them needs is
            left out.
        trained: Stages of methods with a training of their own.

    Raises:
        RecipeError: If a method is unknown.
    """
    names = _chosen(recipe, short_list() if methods is None else methods)
    reads = {table for name in names for table in METHODS[name].reads}
    is_calibrated = "deblora" in reads or any(METHODS[name].targets for name in names)
    second = SECOND if "deblora" in reads else ()
    page = (report.STAGE,) if "deblora" in reads else ()
    return (
        *FIRST,
        *(CALIBRATION if is_calibrated else ()),
        *second,
        *trained,
        *evaluation_of(names),
        *page,
    )


def _chosen(recipe: Recipe, methods: Collection[str]) -> tuple[str, ...]:
    check_methods(methods)
    return tuple(
        name for name in METHODS if name == PLAIN[0] or (name in methods and fit.can_fit(recipe, name))
    )


def evaluation_of(methods: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages that evaluate methods: one for each, the choice, and the tables over all of them."""
    return (*map(fit.stage_for, methods), choose.stage_for(methods), scores.stage_for(methods))


def check_inputs(recipe: Recipe) -> None:
    """Find what would stop the pipeline later, before anything is written: chips, splits, groups, clusters, weights.

    No image is decoded and no model is loaded.

    Raises:
        DebloraError: What is wrong and what to do.
    """
    read_source.cache_clear()
    chips = select_chips(recipe.data, recipe.seed)
    check_groups(choose_groups(chips, recipe.data), recipe)
    cluster.check_n_clusters(recipe.cluster, len(chips.split("train")))
    model_settings(recipe.backbone)
    check_loss(recipe)
    check_precision(recipe.extract.precision, device())
    for table in (recipe.lora, recipe.deblora):
        if table.train_batch_size < world_size():
            raise RecipeError(
                f"train_batch_size is {table.train_batch_size}, but {world_size()} processes share each batch; "
                "raise it or start fewer"
            )


def run_all(run: RunDir, recipe: Recipe, *, note: str = "") -> None:
    """Run every stage that is not finished, in order; methods that were evaluated before stay in the tables.

    Args:
        run: Where.
        recipe: Its settings.
        note: For the log, before anything else.
    """
    with _held(run):
        start_log(run)
        if note:
            log.warning("%s", note)
        on_first(lambda: write_atomic(run.recipe, to_yaml(recipe)))
        first, *_ = pipeline_of(recipe)
        run_stage(first, run, recipe)
        if recipe.look.enabled:
            run_stage(look.STAGE, run, recipe)
            recipe = look.settled(run, recipe)
            on_first(lambda: write_atomic(run.recipe, to_yaml(recipe)))
        for stage in pipeline_of(recipe)[1:]:
            if stage.run_by not in ("evaluate", report.STAGE.name):
                run_stage(stage, run, recipe)
        on_first(lambda: note_weights(run, recipe))
        _evaluate(run, recipe, short_list())
        run_stage(report.STAGE, run, recipe)
        on_first(lambda: write_costs(run, recipe))


def _held(run: RunDir) -> AbstractContextManager[None]:
    """Keep other commands out of the run folder; processes that share one run are let in by the first of them."""
    return run.hold() if is_first() else nullcontext()


def _evaluate(run: RunDir, recipe: Recipe, methods: Collection[str]) -> None:
    for stage in evaluation_of(on_first(lambda: list(fit.with_current(run, recipe, methods)))):
        run_stage(stage, run, recipe)


def run_named(command: str, run: RunDir, recipe: Recipe) -> None:
    """Run the stages of one command on a run folder.

    ``extract`` has one stage per adapter that exists. ``evaluate`` fits every method of the default list, and those
    with their own training, whose features are there, and makes the page anew if there is one.
    """
    with _held(run):
        start_log(run)
        read_source.cache_clear()
        if command != "extract":
            on_first(lambda: _check_before(command, run, recipe))
        if command == "evaluate":
            _evaluate(run, recipe, on_first(lambda: _present(run)))
            if run.record(report.STAGE.name):
                run_stage(report.STAGE, run, recipe)
            return
        for stage in pipeline_of(recipe):
            if stage.run_by == command:
                if command != "extract" or on_first(partial(_has_inputs, stage, run)):
                    run_stage(stage, run, recipe)
                else:
                    log.info("%s: its adapter is not trained yet", stage.name)
        on_first(lambda: note_weights(run, recipe))


def _present(run: RunDir) -> list[str]:
    wanted = [name for name, method in METHODS.items() if name in default_list() or method.trains]
    return [name for name in wanted if name == PLAIN[0] or fit.has_inputs(run, name)]


def _has_inputs(stage: Stage, run: RunDir) -> bool:
    return all(path.exists() for path in stage.inputs(run))


def _check_before(command: str, run: RunDir, recipe: Recipe) -> None:
    """Check that the stages before a command are current, up to the first one with a damaged file."""
    intact = True
    for stage in pipeline_of(recipe, fit.with_current(run, recipe, short_list())):
        if stage.run_by == command:
            return
        if intact:
            try:
                check_current(stage, run, recipe)
            except (
                ModelError
            ) as error:  # the weights are elsewhere; what lies in the run folder can be used all the same
                log.warning("%s: not known whether it is up to date (%s)", stage.name, error)
            intact = run.is_intact(stage.name)  # of a damaged file the stage that reads it tells more


def recipe_of(source: str | None, settings: Mapping[str, Any], *, adapt: bool = True) -> tuple[Recipe, str]:
    """Return the recipe for data or a recipe file, and a note on what was adapted to small data.

    Data take the default recipe with a first look, unless settings say something of size, views or the look.

    Args:
        source: Data or a recipe (``.yaml``); None if the data are among the settings.
        settings: By dotted name; they win over those of the recipe.
        adapt: Lower the default number of clusters to what the training chips can fill, for which they are listed.

    Raises:
        DebloraError: What is wrong with recipe or data.
    """
    values = values_from(source, settings)
    is_settled = (values.get("backbone") or {}).get("image_size") or (values.get("extract") or {}).get(
        "views"
    )
    if source is not None and not is_recipe(source) and not is_settled:
        values = {**values, "look": {"enabled": True, **(values.get("look") or {})}}
    recipe = recipe_from(values)
    if adapt and "n_clusters" not in (values.get("cluster") or {}):
        return fit_to_data(recipe)
    return recipe, ""


def start_run(
    out: Path, recipe: Recipe, *, resume: bool = False, overwrite: bool = False, note: str = ""
) -> RunDir:
    """Run all stages in a folder; where not even the audit finishes nothing is left behind.

    Args:
        out: Run folder.
        recipe: Settings.
        resume: Go on in an existing folder.
        overwrite: Empty an existing folder first.
        note: For the log.

    Raises:
        DebloraError: What is wrong with recipe, data or folder.
    """
    run = RunDir(out)

    def prepare() -> None:
        _check_apart(out, Path(recipe.data.source), overwrite=overwrite)
        check_inputs(recipe)
        RunDir.create(out, resume=resume, overwrite=overwrite)

    on_first(prepare)
    try:
        run_all(run, recipe, note=note)
    except (DebloraError, OSError):
        if is_first():
            run.forget_start()
        raise
    return run


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


MIN_PER_CLUSTER = 8
"""Training chips per cluster that the default number of clusters is lowered to (ours)."""


def fit_to_data(recipe: Recipe) -> tuple[Recipe, str]:
    """Return the recipe with no more clusters than a small data set can fill, and a note that says so.

    For recipes that leave ``cluster.n_clusters`` at its default; a number that was asked for is kept or refused.

    Raises:
        DebloraError: If the chips cannot be read or split.
    """
    read_source.cache_clear()
    n_train = len(select_chips(recipe.data, recipe.seed).split("train"))
    asked, most = recipe.cluster.n_clusters, max(2, n_train // MIN_PER_CLUSTER)
    if asked <= most:
        return recipe, ""
    note = f"cluster.n_clusters lowered from its default {asked} to {most} for {n_train} training chips"
    return replace(recipe, cluster=replace(recipe.cluster, n_clusters=most)), note
