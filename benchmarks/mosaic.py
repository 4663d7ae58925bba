"""Whether a detector finds on a scene what it finds on images: its test images one by one, and laid out as one scene.

Images that are smaller than a tile once were filled up in training and in both evaluations, so that no score showed how
the detector failed on scenes, which have no such filling (docs/log.md).

    python benchmarks/mosaic.py RUN
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deblora.data.scenes.rasters import ArrayScene
from deblora.detect.average_precision import summarize_detections
from deblora.detect.predict import SceneDetections
from deblora.pipeline.audited import class_names, groups_of
from deblora.pipeline.detect.audit import open_split
from deblora.pipeline.detect.model import open_run
from deblora.pipeline.detect.predict import as_quads, open_predictor


def lay_out(images: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Return images side by side in one picture, about square, and the left, top corner of each."""
    n_columns = math.ceil(math.sqrt(len(images)))
    height, width = (max(image.shape[i] for image in images.values()) for i in (0, 1))
    n_rows = math.ceil(len(images) / n_columns)
    first = next(iter(images.values()))
    whole = np.zeros((n_rows * height, n_columns * width, first.shape[2]), dtype=first.dtype)
    places = {}
    for i, (name, image) in enumerate(images.items()):
        x, y = i % n_columns * width, i // n_columns * height
        whole[y : y + image.shape[0], x : x + image.shape[1]] = image
        places[name] = (x, y)
    return whole, places


def take_apart(
    found: SceneDetections, places: Mapping[str, tuple[int, int]], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, SceneDetections]:
    """Return the detections of every image, by their centers, in its own pixels."""
    parts = {}
    for name, (x, y) in places.items():
        height, width = sizes[name]
        own = found.boxes[:, :2] - (x, y)
        inside = ((own >= 0) & (own < (width, height))).all(axis=1)
        boxes = found.boxes[inside].copy()
        boxes[:, :2] = own[inside]
        parts[name] = SceneDetections(boxes, found.scores[inside], found.labels[inside])
    return parts


def main() -> None:
    """Print mAP on images and on their mosaic, by group, and of every class."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run of `deblora detect train`")
    run, recipe = open_run(parser.parse_args().run)
    split, predictor = open_split(run, recipe.data, "test"), open_predictor(run, recipe)
    scenes = {name: split.files.open(name) for name in split.files.members}
    images = {name: scene.read(0, 0, scene.width, scene.height) for name, scene in scenes.items()}
    whole, places = lay_out(images)
    sizes = {name: image.shape[:2] for name, image in images.items()}
    found = {
        "images": {name: predictor.scene(scene) for name, scene in scenes.items()},
        "mosaic": take_apart(predictor.scene(ArrayScene(whole)), places, sizes),
    }
    report = {
        "run": run.root.name,
        "method": recipe.method.name,
        "seed": recipe.seed,
        "mosaic": list(whole.shape[:2]),
    }
    for name, detections in found.items():
        summary = summarize_detections(
            as_quads(detections, predictor.class_names), split.labels, class_names(run), groups_of(run),
            protocol=recipe.data.protocol,
        )  # fmt: skip
        report[name] = {
            "map50": summary["groups"]["map50"],
            "classes": {row["class"]: row["ap50"] for row in summary["classes"]},
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
