"""The road: the stages in the order they run."""

import logging
import sys
from collections.abc import Callable
from functools import partial

from deblora.artifacts import write_atomic
from deblora.config import Recipe, to_yaml
from deblora.errors import RecipeError
from deblora.processes import device, is_first, on_first, world_size
from deblora.progress import name_bars, titled
from deblora.run_dir import RunDir
from deblora.stages import audit, calibrate, center, cluster, heads, probe, report, train_deblora, train_lora
from deblora.stages.chips import read_source
from deblora.stages.costs import write_costs
from deblora.stages.extract import stage_for
from deblora.stages.first_objective import check_loss
from deblora.stages.open_model import model_settings
from deblora.stages.selection import choose_groups, select_chips
from deblora.stages.stage import Stage, check_current, run_stage
from deblora.stages.unlabeled_rows import SEMI_SUPERVISED
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
    run: RunDir, recipe: Recipe, *, before_report: Callable[[RunDir, Recipe], None] | None = None
) -> None:
    """Run every stage that is not finished, in order.

    Args:
        run: Where.
        recipe: Its settings.
        before_report: Makes what else the page is to show, after the probe.
    """
    start_log(run)
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


def start_log(run: RunDir, *, name: str = "") -> None:
    """Log to the terminal and to the run folder, from the first process.

    Args:
        run: Where.
        name: What lines and bars on the terminal begin with, where it shows several runs.
    """
    name_bars(name)
    log = logging.getLogger("deblora")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    if not is_first():
        log.setLevel(logging.CRITICAL + 1)
        return
    log.setLevel(logging.INFO)
    file = logging.FileHandler(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter(titled("").replace("%", "%%") + "%(message)s"))
    log.addHandler(terminal)
    if world_size() > 1:
        log.info("%d processes share training and extraction, on %s", world_size(), device().type)
