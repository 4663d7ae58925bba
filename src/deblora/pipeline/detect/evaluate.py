"""Evaluation of a run's predictions (a stage), or of anybody's Task-1 files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deblora.data.longtail import Groups, groups_by_names, groups_by_thirds
from deblora.data.scenes.dota import CLASSES_V1_0, CLASSES_V1_5, Labels, reference_groups
from deblora.data.scenes.labeled_images import class_names_of, object_counts, read_label_source, restrict
from deblora.detect.evaluate.average_precision import Protocol
from deblora.detect.evaluate.summary import summarize_detections
from deblora.detect.files.task1 import QuadDetections, read_task1
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.pipeline.audited import class_names, groups_of
from deblora.pipeline.detect.audit import open_split, train_counts
from deblora.pipeline.detect.model import evaluation_path
from deblora.pipeline.detect.predict import predictions_path
from deblora.recipe.classify import read_recipe
from deblora.recipe.detect import DetectionRecipe
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage


def stage_for(split: str) -> Stage[DetectionRecipe]:
    """Return the stage that evaluates ``val`` or ``test``."""

    def work(run: RunDir, recipe: Any) -> None:
        labels = open_split(run, recipe.data, split).labels
        summary = summarize_detections(
            read_task1(predictions_path(run, split)),
            labels,
            class_names(run),
            groups_of(run),
            protocol=recipe.data.protocol,
            train_counts=train_counts(run),
        )
        write_atomic(evaluation_path(run, split), json.dumps({"split": split, **summary}, indent=1))

    return Stage[DetectionRecipe](
        name=f"evaluate-{split}",
        settings=lambda recipe: recipe.data,
        inputs=lambda run: [run.samples, run.groups, predictions_path(run, split)],
        outputs=lambda run: [evaluation_path(run, split)],
        work=work,
    )


def evaluate_files(predictions: Path, labels: Path, *, protocol: Protocol, groups: str) -> dict[str, Any]:
    """Evaluate Task-1 files (a folder, a zip, or a folder that holds ``task1.zip``) against labels.

    Args:
        predictions: Where the files are.
        labels: Folder of label files, DOTA folder or zip.
        protocol: ``dota1.0`` or ``dota1.5``.
        groups: ``reference`` (DOTA-v1.0), ``counts`` (thirds of the counts in ``labels``), or a YAML file with lists
            ``head`` and ``tail`` of class names (the others are the middle).

    Raises:
        DataError: If files are missing or malformed, or classes do not fit.
    """
    detections = read_task1(
        predictions / "task1.zip" if (predictions / "task1.zip").is_file() else predictions
    )
    truth = read_label_source(labels)
    names = _class_names(detections, truth, protocol, whole=groups == "reference")
    counts = object_counts(truth.values(), names)
    truth = restrict(truth, names, where=str(labels))
    return {
        "predictions": str(predictions),
        "labels": str(labels),
        **summarize_detections(detections, truth, names, _groups(groups, names, counts), protocol=protocol),
    }


def _class_names(
    detections: QuadDetections, truth: Mapping[str, Labels], protocol: Protocol, *, whole: bool
) -> tuple[str, ...]:
    """Return what labels and detections hold, or all of DOTA's classes where the ``whole`` list is asked for."""
    found = set(class_names_of(truth.values())) | set(detections.class_names)
    known = CLASSES_V1_0 if protocol == "dota1.0" else CLASSES_V1_5
    return known if whole and found <= set(known) else tuple(sorted(found))


def _groups(rule: str, names: tuple[str, ...], counts: np.ndarray) -> Groups:
    if rule == "reference":
        return reference_groups(names)
    if rule == "counts":
        return groups_by_thirds(counts)
    table = read_recipe(Path(rule))
    lists = {key: table.get(key, []) for key in ("head", "tail")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise DataError(f"{rule} must hold lists of class names under head and tail")
    return groups_by_names(names, lists["head"], lists["tail"])
