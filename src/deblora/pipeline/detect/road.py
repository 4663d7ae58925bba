"""The roads of detection: what training runs, and the one look at the test images."""

import logging

from deblora.files import write_atomic
from deblora.pipeline.detect import audit, evaluate, predict, train
from deblora.recipe.detect import DetectionRecipe, to_yaml
from deblora.run.processes import start_log
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage, run_stage

ROAD: tuple[Stage[DetectionRecipe], ...] = (
    audit.STAGE,
    train.STAGE,
    predict.stage_for("val"),
    evaluate.stage_for("val"),
    evaluate.report_stage_for("val"),
)
TEST: tuple[Stage[DetectionRecipe], ...] = (
    predict.stage_for("test"),
    evaluate.stage_for("test"),
    evaluate.report_stage_for("test"),
)


def train_detector(run: RunDir, recipe: DetectionRecipe) -> None:
    """Audit, train, predict and judge the validation images, write the report; finished stages are skipped."""
    with run.hold():
        start_log(run)
        write_atomic(run.recipe, to_yaml(recipe))
        for stage in ROAD:
            run_stage(stage, run, recipe)


def test_detector(run: RunDir, recipe: DetectionRecipe) -> None:
    """Predict and judge the test images; unless the detector changes, a second call changes nothing."""
    with run.hold():
        start_log(run)
        for stage in TEST:
            if run_stage(stage, run, recipe) and stage.name == "predict-test":
                logging.getLogger("deblora").info(
                    "the test images were looked at: make no further choice by their scores"
                )
