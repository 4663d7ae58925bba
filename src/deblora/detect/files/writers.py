"""Detections as files that other programs read: COCO-style JSON with rotated boxes, GeoJSON, a table of pixels.

GeoPackage is in ``geopackage``.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deblora.detect.files.georeference import closed_rings, facts_of, place_quads
from deblora.detect.files.task1 import QuadDetections
from deblora.files import write_atomic


def write_coco(
    path: Path,
    detections: QuadDetections,
    boxes: Float[np.ndarray, "n 5"],
    *,
    class_names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
) -> None:
    """Write images, categories and detections as one JSON file.

    ``bbox`` is the upright box ``[x, y, w, h]``, ``segmentation`` the quad, ``rbox`` is
    ``[cx, cy, w, h, theta]`` in pixels and radians, clockwise on the screen.

    Args:
        path: File to write.
        detections: Of all images.
        boxes: The same as boxes, row by row.
        class_names: Category ids count from 1 in this order.
        sizes: Height and width of every image, in the order of image ids (from 1).
    """
    image_ids = {name: i + 1 for i, name in enumerate(sizes)}
    class_ids = {name: i + 1 for i, name in enumerate(class_names)}
    low, high = detections.quads.min(axis=1), detections.quads.max(axis=1)
    entries = [
        {
            "id": i + 1,
            "image_id": image_ids[image],
            "category_id": class_ids[name],
            "score": float(detections.scores[i]),
            "bbox": [*low[i].tolist(), *(high[i] - low[i]).tolist()],
            "segmentation": [detections.quads[i].ravel().tolist()],
            "rbox": boxes[i].tolist(),
            "area": float(boxes[i, 2] * boxes[i, 3]),
        }
        for i, (image, name) in enumerate(zip(detections.image_names, detections.class_names, strict=True))
    ]
    content = {
        "images": [
            {"id": image_ids[name], "file_name": name, "height": height, "width": width}
            for name, (height, width) in sizes.items()
        ],
        "categories": [{"id": index, "name": name} for name, index in class_ids.items()],
        "annotations": entries,
    }
    write_atomic(path, json.dumps(content))


def write_pixel_table(path: Path, detections: QuadDetections, boxes: Float[np.ndarray, "n 5"]) -> None:
    """Write one row per detection: image, class, score, box in pixels and radians."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("image", "class", "score", "cx", "cy", "w", "h", "theta"))
    rows = zip(
        detections.image_names,
        detections.class_names,
        detections.scores.tolist(),
        boxes.tolist(),
        strict=True,
    )
    writer.writerows((image, name, score, *box) for image, name, score, box in rows)
    write_atomic(path, buffer.getvalue())


def write_geojson(
    path: Path,
    detections: QuadDetections,
    *,
    crs: Any,
    transform: Any,
    group_of: Mapping[str, str],
    origin: str,
) -> None:
    """Write polygons in longitude and latitude (RFC 7946) with the facts of ``placed_quads.facts_of``.

    Args:
        path: File to write.
        detections: Of one scene.
        crs: Coordinate reference system of the scene, as rasterio gives it.
        transform: Affine map from pixels to coordinates.
        group_of: Group of every class; may be empty.
        origin: Name of the scene for messages.

    Raises:
        DataError: If the scene has no reference system, or detections lie where it does not reach.
    """
    placed = place_quads(detections.quads, crs=crs, transform=transform, origin=origin)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]},
            "properties": facts,
        }
        for ring, facts in zip(
            closed_rings(placed.degrees), facts_of(detections, placed.meters, group_of), strict=True
        )
    ]
    write_atomic(path, json.dumps({"type": "FeatureCollection", "features": features}))
