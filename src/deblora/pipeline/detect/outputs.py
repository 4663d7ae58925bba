"""The files that a prediction writes, by the names of their formats."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deblora.data.scenes.rasters import Scene
from deblora.detect.files.geopackage import write_geopackage
from deblora.detect.files.task1 import QuadDetections, write_task1
from deblora.detect.files.writers import write_coco, write_geojson, write_pixel_table
from deblora.report.overlays import overlay, thumbnail

ON_THE_EARTH = {"geojson": (write_geojson, ".geojson"), "geopackage": (write_geopackage, ".gpkg")}
"""Formats that need a coordinate reference system: their writer and the ending of their files, one per image."""

FORMATS = ("task1", "coco", *ON_THE_EARTH, "csv", "overlay", "thumbnails")
N_THUMBNAILS = 20  # per image and class
THUMBNAIL_SIDE = 128  # pixels


def write_image(
    out: Path,
    name: str,
    scene: Scene,
    quads: QuadDetections,
    groups: Mapping[str, str],
    formats: Sequence[str],
    *,
    least_score: Mapping[str, float],
) -> None:
    """Write what belongs to one image: ``geojson/``, ``geopackage/``, ``overlays/``, ``thumbnails/<class>/``.

    Args:
        out: Folder of the prediction.
        name: Of the image, without extension.
        scene: The image.
        quads: Its detections.
        groups: Class to group.
        formats: Some of ``FORMATS``; the others are passed over.
        least_score: By class; detections below are not drawn.
    """
    for kind, (write, ending) in ON_THE_EARTH.items():
        if kind in formats:
            write(
                out / kind / f"{name}{ending}",
                quads,
                crs=getattr(scene, "crs", None),
                transform=getattr(scene, "transform", None),
                group_of=groups,
                origin=name,
            )
    if "overlay" in formats:
        (out / "overlays").mkdir(parents=True, exist_ok=True)
        picture = overlay(scene, quads, groups, least_score=least_score)
        picture.save(out / "overlays" / f"{name}.png")
    if "thumbnails" in formats:
        _write_thumbnails(out / "thumbnails", name, scene, quads, groups)


def write_all(
    out: Path,
    quads: QuadDetections,
    boxes: Float[np.ndarray, "n 5"],
    names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    formats: Sequence[str],
) -> None:
    """Write what speaks of all images: ``task1.zip``, ``detections.json``, ``detections.csv``."""
    if "task1" in formats:
        write_task1(out / "task1.zip", quads, class_names=names)
    if "coco" in formats:
        write_coco(out / "detections.json", quads, boxes, class_names=names, sizes=sizes)
    if "csv" in formats:
        write_pixel_table(out / "detections.csv", quads, boxes)


def _write_thumbnails(
    folder: Path, name: str, scene: Scene, quads: QuadDetections, groups: Mapping[str, str]
) -> None:
    """Write the best detections of every class as ``<class>/<image>_<rank>_<score>.png``."""
    names = np.array(quads.class_names)
    for class_name in sorted(set(quads.class_names)):
        rows = np.flatnonzero(names == class_name)
        best = rows[np.argsort(-quads.scores[rows], kind="stable")][:N_THUMBNAILS]
        target = folder / re.sub(r"[^\w.-]+", "_", class_name)
        target.mkdir(parents=True, exist_ok=True)
        for rank, row in enumerate(best.tolist()):
            picture = thumbnail(
                scene, quads.quads[row], group=groups.get(class_name, ""), side=THUMBNAIL_SIDE
            )
            picture.save(target / f"{name}_{rank:02d}_{quads.scores[row]:.2f}.png")
