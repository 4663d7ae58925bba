"""Detections as files that other programs read: COCO-style JSON with rotated boxes, GeoJSON, a table of pixels."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deblora.artifacts import write_atomic
from deblora.data.task1 import QuadDetections
from deblora.errors import DataError

EARTH = 6_371_008.8  # mean radius in meters (IUGG), for scenes in degrees


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
    """Write polygons in longitude and latitude (RFC 7946) with class, score, group, length, width and heading.

    Sides are measured along the quad through the transform, so that rotated and unequal pixels are right: in meters
    of a projected system, or on the sphere for coordinates in degrees. ``heading_deg`` is the direction of the long
    side, clockwise from grid north (true north for degrees), in [0, 180).

    Args:
        path: File to write.
        detections: Of one scene.
        crs: Coordinate reference system of the scene, as rasterio gives it.
        transform: Affine map from pixels to coordinates.
        group_of: Group of every class; may be empty.
        origin: Name of the scene for messages.

    Raises:
        DataError: If the scene has no reference system.
    """
    if crs is None:
        raise DataError(
            f"{origin} has no coordinate reference system, so its detections have no place on the Earth; "
            "ask for csv or coco (pixels) instead of geojson"
        )
    from rasterio.warp import transform as reproject

    x, y = detections.quads[..., 0], detections.quads[..., 1]
    a, b, c, d, e, f = (float(value) for value in tuple(transform)[:6])
    world = np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)
    lon, lat = reproject(crs, "EPSG:4326", world[..., 0].ravel().tolist(), world[..., 1].ravel().tolist())
    degrees = np.stack([lon, lat], axis=-1).reshape(-1, 4, 2)
    meters = _in_meters(world, crs, degrees)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_ring(degrees[i])]},
            "properties": {
                "class": name,
                "score": round(float(detections.scores[i]), 6),
                "group": group_of.get(name, ""),
                **_shape(meters[i]),
            },
        }
        for i, name in enumerate(detections.class_names)
    ]
    write_atomic(path, json.dumps({"type": "FeatureCollection", "features": features}))


def _in_meters(
    world: Float[np.ndarray, "n 4 2"], crs: Any, degrees: Float[np.ndarray, "n 4 2"]
) -> Float[np.ndarray, "n 4 2"]:
    """Return corners in meters east and north, up to a shift per object."""
    if not crs.is_geographic:
        return np.asarray(world * float(crs.linear_units_factor[1]))
    radians = np.deg2rad(degrees)
    east = np.cos(radians[..., 1].mean(axis=1, keepdims=True)) * radians[..., 0]
    return np.asarray(EARTH * np.stack([east, radians[..., 1]], axis=-1))


def _shape(corners: Float[np.ndarray, "4 2"]) -> dict[str, float]:
    first, second = corners[1] - corners[0], corners[2] - corners[1]
    lengths = float(np.hypot(*first)), float(np.hypot(*second))
    east, north = (first if lengths[0] >= lengths[1] else second).tolist()
    return {
        "length_m": round(max(lengths), 3),
        "width_m": round(min(lengths), 3),
        "heading_deg": round(math.degrees(math.atan2(east, north)) % 180, 3),
    }


def _ring(quad: Float[np.ndarray, "4 2"]) -> list[list[float]]:
    """Return a closed ring, counter-clockwise as RFC 7946 wants outer rings."""
    x, y = quad[:, 0], quad[:, 1]
    area = float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    points = quad if area > 0 else quad[::-1]
    return [[float(v) for v in point] for point in (*points, points[0])]
