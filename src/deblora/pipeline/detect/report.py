"""Stage ``report``: collects what the page of a detection run shows."""

import csv
from collections.abc import Mapping
from typing import Any

import numpy as np

from deblora.data.scenes.dota import Labels
from deblora.detect.files.task1 import QuadDetections, read_task1
from deblora.files import write_atomic
from deblora.pipeline.detect import model
from deblora.pipeline.detect.audit import Split, open_split
from deblora.pipeline.detect.model import evaluation_path, read_facts, shown_from
from deblora.pipeline.detect.predict import group_of, predictions_path
from deblora.pipeline.detect.train import NAME
from deblora.recipe.detect import DetectionRecipe, to_yaml
from deblora.report.overlays import data_uri, overlay, thumbnail
from deblora.report.page import Picture, render_html, render_markdown
from deblora.report.pictures import Detections, detection_page, most_frequent_first
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage

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


def stage_for(split: str) -> Stage[DetectionRecipe]:
    """Return the stage that reports ``val`` or ``test``."""

    def work(run: RunDir, recipe: Any) -> None:
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
