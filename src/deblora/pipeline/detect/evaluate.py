"""Stages ``evaluate`` and ``report`` of a run's predictions, and the evaluation of anybody's Task-1 files."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deblora.data.longtail import Groups, groups_by_names, groups_by_thirds
from deblora.data.scenes.dota import CLASSES_V1_0, CLASSES_V1_5, Labels, reference_groups
from deblora.data.scenes.labeled_images import class_names_of, object_counts, read_label_source, restrict
from deblora.detect.average_precision import Protocol, summarize_detections
from deblora.detect.task1 import QuadDetections, read_task1
from deblora.errors import DataError
from deblora.files import write_atomic
from deblora.pipeline.audited import class_names, groups_of, train_counts
from deblora.pipeline.detect import model
from deblora.pipeline.detect.audit import Split, open_split
from deblora.pipeline.detect.model import evaluation_path, read_facts, shown_from
from deblora.pipeline.detect.predict import group_of, predictions_path
from deblora.pipeline.detect.train import NAME
from deblora.recipe.classify import read_recipe
from deblora.recipe.detect import DetectionRecipe, to_yaml
from deblora.report.overlays import data_uri, overlay, thumbnail
from deblora.report.page import Picture, render_html, render_markdown
from deblora.report.pictures import Detections, detection_page, most_frequent_first
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage


def stage_for(split: str) -> Stage[DetectionRecipe]:
    """Return the stage that evaluates ``val`` or ``test``."""

    def work(run: RunDir, recipe: DetectionRecipe) -> None:
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


N_OVERLAYS, N_THUMBNAILS = 6, 10
OVERLAY_SIDE = 640
NOTES = (
    "Scores come from merged full images; the difficult flag is honored under dota1.0 and ignored under "
    "dota1.5.",
    "One training has one seed; `deblora detect compare` shows the spread over seeds.",
)


def report_path(run: RunDir, split: str, suffix: str) -> Any:
    """A file of the report: ``val`` is the index."""
    return run.report(("index" if split == "val" else split) + suffix)


def report_stage_for(split: str) -> Stage[DetectionRecipe]:
    """Return the stage that reports ``val`` or ``test``."""

    def work(run: RunDir, recipe: DetectionRecipe) -> None:
        summary = read_facts(evaluation_path(run, split))
        facts = read_facts(model.facts_path(run))
        detections = read_task1(predictions_path(run, split))
        images = open_split(run, recipe.data, split)
        groups = group_of(run)
        title = f"Oriented detection: {facts['method']} on {facts['backbone']}"
        content = Detections(
            title=title,
            summary=summary,
            facts=facts,
            history=_history(run),
            recipe_yaml=to_yaml(recipe),
            overlays=_overlays(images, detections, groups, least_score=shown_from(run)),
            thumbnails=_thumbnails(images, detections, groups, summary),
            notes=NOTES,
        )
        page = detection_page(content)
        write_atomic(report_path(run, split, ".html"), render_html(page))
        write_atomic(report_path(run, split, ".md"), render_markdown(page))

    return Stage[DetectionRecipe](
        name=f"report-{split}",
        settings=lambda recipe: recipe,
        inputs=lambda run: [evaluation_path(run, split), predictions_path(run, split), model.facts_path(run)],
        outputs=lambda run: [report_path(run, split, ".html"), report_path(run, split, ".md")],
        work=work,
    )


def of_image(detections: QuadDetections, image: str) -> QuadDetections:
    """Return the detections of one image."""
    rows = [i for i, name in enumerate(detections.image_names) if name == image]
    return QuadDetections(
        tuple(detections.image_names[i] for i in rows),
        tuple(detections.class_names[i] for i in rows),
        detections.scores[rows],
        detections.quads[rows],
    )


def _history(run: RunDir) -> list[tuple[int, float]]:
    with run.history(NAME).open(newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def _overlays(
    images: Split, detections: QuadDetections, groups: Mapping[str, str], *, least_score: Mapping[str, float]
) -> list[Picture]:
    pictures = []
    for name in _chosen(images.labels):
        picture = overlay(
            images.files.open(name),
            of_image(detections, name),
            groups,
            least_score=least_score,
            truth=images.labels[name],
            largest_side=OVERLAY_SIDE,
        )
        pictures.append(Picture(data_uri(picture), name))
    return pictures


def _chosen(labels: Mapping[str, Labels]) -> list[str]:
    """Return the images that show the most classes, so that rare ones are seen; ties by name."""
    return sorted(labels, key=lambda name: (-len(set(labels[name].class_names)), name))[:N_OVERLAYS]


def _thumbnails(
    images: Split, detections: QuadDetections, groups: Mapping[str, str], summary: Mapping[str, Any]
) -> dict[str, list[Picture]]:
    names = np.array(detections.class_names)
    found: dict[str, list[Picture]] = {}
    for row in most_frequent_first(summary):
        name = row["class"]
        rows = np.flatnonzero(names == name) if len(names) else np.zeros(0, dtype=np.int64)
        best = rows[np.argsort(-detections.scores[rows], kind="stable")][:N_THUMBNAILS]
        found[name] = [
            Picture(
                data_uri(
                    thumbnail(
                        images.files.open(detections.image_names[i]),
                        detections.quads[i],
                        group=groups.get(name, ""),
                    )
                ),
                f"{detections.scores[i]:.2f}",
            )
            for i in best.tolist()
        ]
    return found
