"""The road: the stages in the order they run."""

import logging
import sys

from deblora.artifacts import write_atomic
from deblora.config import Recipe, to_yaml
from deblora.run_dir import RunDir
from deblora.stages import audit, calibrate, center, cluster, probe, report, train_deblora, train_lora
from deblora.stages.chips import read_source
from deblora.stages.costs import write_costs
from deblora.stages.extract import stage_for
from deblora.stages.stage import Stage, check_current, run_stage

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
    chips = audit.select_chips(recipe.data, recipe.seed)
    center.check_groups(audit.choose_groups(chips, recipe.data), recipe)
    cluster.check_n_clusters(recipe.cluster, len(chips.split("train")))
    train_lora.model_settings(recipe.backbone)


def run_all(run: RunDir, recipe: Recipe) -> None:
    """Run every stage that is not finished, in order."""
    start_log(run)
    write_atomic(run.recipe, to_yaml(recipe))
    for stage in ROAD:
        run_stage(stage, run, recipe)
    write_costs(run, recipe)


def run_named(command: str, run: RunDir, recipe: Recipe) -> None:
    """Run the stages of one command on a run folder (``extract`` has one per adapter that exists)."""
    start_log(run)
    read_source.cache_clear()
    intact = True
    for stage in ROAD:
        if stage.name == command:
            run_stage(stage, run, recipe)
            return
        if command == "extract" and stage.name.startswith("extract-"):
            if all(path.exists() for path in stage.inputs(run)):
                run_stage(stage, run, recipe)
            else:
                logging.getLogger("deblora").info("%s: its adapter is not trained yet", stage.name)
        elif intact and command != "extract":
            check_current(stage, run, recipe)
            intact = run.is_intact(stage.name)  # of a damaged file the stage that reads it tells more


def start_log(run: RunDir) -> None:
    """Log to the terminal and to the run folder."""
    log = logging.getLogger("deblora")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.INFO)
    file = logging.FileHandler(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    log.addHandler(logging.StreamHandler(sys.stderr))
