"""The road: the stages in the order they run."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from deblora.errors import RecipeError
from deblora.files import write_atomic
from deblora.pipeline.adapter import check_loss
from deblora.pipeline.classify import audit, calibrate, center, cluster, report, train_deblora, train_lora
from deblora.pipeline.classify.audit import choose_groups, select_chips
from deblora.pipeline.classify.chips import read_source
from deblora.pipeline.classify.evaluate import heads
from deblora.pipeline.classify.evaluate import heads as probe
from deblora.pipeline.classify.evaluate.choose import SHORT_LIST
from deblora.pipeline.classify.evaluate.costs import write_costs
from deblora.pipeline.classify.evaluate.samples import SEMI_SUPERVISED
from deblora.pipeline.classify.extract import stage_for
from deblora.pipeline.open_model import model_settings
from deblora.recipe.classify import Recipe, to_yaml
from deblora.run.log import start_log
from deblora.run.processes import device, on_first, world_size
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage, check_current, run_stage
from deblora.train.extract import check_precision

ROAD: tuple[Stage, ...] = (
    audit.STAGE,
    train_lora.STAGE,
    stage_for("base"),
    stage_for("lora"),
    cluster.STAGE,
    center.STAGE,
    calibrate.STAGE,
    train_deblora.STAGE,
    stage_for("deblora"),
    heads.stage_for(SEMI_SUPERVISED),
    probe.STAGE,
    report.STAGE,
)


def check_inputs(recipe: Recipe) -> None:
    """Find what would stop the road later, before anything is written: chips, splits, groups, clusters, weights.

    No image is decoded and no model is loaded.

    Raises:
        DebloraError: What is wrong and what to do.
    """
    read_source.cache_clear()
    chips = select_chips(recipe.data, recipe.seed)
    center.check_groups(choose_groups(chips, recipe.data), recipe)
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


def run_all(
    run: RunDir,
    recipe: Recipe,
    *,
    before_report: Callable[[RunDir, Recipe], None] | None = None,
    note: str = "",
) -> None:
    """Run every stage that is not finished, in order.

    Args:
        run: Where.
        recipe: Its settings.
        before_report: Makes what else the page is to show, after the probe.
        note: For the log, before anything else.
    """
    start_log(run)
    if note:
        logging.getLogger("deblora").warning("%s", note)
    on_first(lambda: write_atomic(run.recipe, to_yaml(recipe)))
    for stage in ROAD:
        if stage is report.STAGE and before_report is not None:
            before_report(run, recipe)
        run_stage(stage, run, recipe)
    write_costs(run, recipe)


def run_named(command: str, run: RunDir, recipe: Recipe) -> None:
    """Run the stages of one command on a run folder (``extract`` has one per adapter that exists)."""
    start_log(run)
    read_source.cache_clear()
    if command != "extract":
        on_first(lambda: _check_before(command, run, recipe))
    for stage in ROAD:
        if stage.run_by == command:
            if command != "extract" or on_first(partial(_has_inputs, stage, run)):
                run_stage(stage, run, recipe)
            else:
                logging.getLogger("deblora").info("%s: its adapter is not trained yet", stage.name)


def _has_inputs(stage: Stage, run: RunDir) -> bool:
    return all(path.exists() for path in stage.inputs(run))


def _check_before(command: str, run: RunDir, recipe: Recipe) -> None:
    """Check that the stages before a command are current, up to the first one with a damaged file."""
    intact = True
    for stage in ROAD:
        if stage.run_by == command:
            return
        if intact:
            check_current(stage, run, recipe)
            intact = run.is_intact(stage.name)  # of a damaged file the stage that reads it tells more


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


def judge_short_list(run: RunDir, recipe: Recipe) -> None:
    """Fit the heads of the short list on the features of a run, and choose one of them."""
    from deblora.pipeline.compare.seeds import judge_rows

    judge_rows(run, recipe, SHORT_LIST)
