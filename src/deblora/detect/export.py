"""Detections as files that other programs read: COCO-style JSON, GeoJSON, GeoPackage, a table of pixels.

SQLite alone writes the GeoPackage, no GDAL; sections are those of GeoPackage 1.3 (OGC 12-128r17).
"""

import csv
import io
import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deblora.detect.task1 import QuadDetections
from deblora.errors import DataError
from deblora.files import write_atomic

EARTH = 6_371_008.8  # mean radius in meters (IUGG), for scenes in degrees
IN_PIXELS = "ask for task1, coco or csv (pixels) instead of geojson or geopackage"


@dataclass(frozen=True)
class PlacedQuads:
    """Corners of quads, in the order of the pixels.

    Attributes:
        world: Coordinates of the scene's reference system, x (east, longitude) before y whatever its axis order.
        degrees: Longitude and latitude, WGS 84.
        meters: East and north, up to a shift per quad.
    """

    world: Float[np.ndarray, "n 4 2"]
    degrees: Float[np.ndarray, "n 4 2"]
    meters: Float[np.ndarray, "n 4 2"]


def place_quads(quads: Float[np.ndarray, "n 4 2"], *, crs: Any, transform: Any, origin: str) -> PlacedQuads:
    """Place quads in pixels by ``x = a column + b row + c, y = d column + e row + f``.

    Args:
        quads: Pixels of the scene, not only inside it.
        crs: Its coordinate reference system, as rasterio gives it.
        transform: Affine map from pixels to coordinates.
        origin: Name of the scene for messages.

    Raises:
        DataError: If there is no reference system, or no way from it to longitude and latitude.
    """
    if crs is None:
        raise DataError(
            f"{origin} has no coordinate reference system (or rasterio is missing: install deblora[geo]), so its "
            f"detections have no place on the Earth; {IN_PIXELS}"
        )
    from rasterio.warp import transform as reproject

    x, y = quads[..., 0], quads[..., 1]
    a, b, c, d, e, f = (float(value) for value in tuple(transform)[:6])
    world = np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)
    try:
        lon, lat = reproject(crs, "EPSG:4326", world[..., 0].ravel().tolist(), world[..., 1].ravel().tolist())
        if not np.isfinite([lon, lat]).all():
            raise ValueError("points outside of the projection's domain")
    except Exception as error:  # rasterio hands on errors of GDAL, whose classes are private
        raise DataError(
            f"{origin}: its pixels cannot be brought to longitude and latitude ({str(error)[:200]}); correct its "
            f"reference system and affine transform, or {IN_PIXELS}"
        ) from error
    degrees = np.stack([lon, lat], axis=-1).reshape(-1, 4, 2)
    return PlacedQuads(world, degrees, _in_meters(world, crs, degrees))


def facts_of(
    detections: QuadDetections, meters: Float[np.ndarray, "n 4 2"], group_of: Mapping[str, str]
) -> list[dict[str, str | float]]:
    """Return class, score, group, ``length_m``, ``width_m`` and ``heading_deg`` of every detection.

    Sides are measured along the quad, so that rotated and unequal pixels are right: in meters of a projected system,
    or on the sphere for coordinates in degrees. ``heading_deg`` is the direction of the long side, clockwise from grid
    north (true north for degrees), in [0, 180).

    Args:
        detections: Of one scene.
        meters: Their corners, from :func:`place_quads`.
        group_of: Group of every class; may be empty.
    """
    return [
        {
            "class": name,
            "score": round(float(score), 6),
            "group": group_of.get(name, ""),
            **_shape(corners),
        }
        for name, score, corners in zip(detections.class_names, detections.scores, meters, strict=True)
    ]


def closed_rings(quads: Float[np.ndarray, "n 4 2"]) -> Float[np.ndarray, "n 5 2"]:
    """Return closed rings, counter-clockwise with y up: what RFC 7946 and OGC want of outer rings."""
    x, y = quads[..., 0], quads[..., 1]
    areas = np.sum(x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y, axis=1)
    turned = np.where((areas > 0)[:, None, None], quads, quads[:, ::-1])
    return np.concatenate([turned, turned[:, :1]], axis=1)


def _in_meters(
    world: Float[np.ndarray, "n 4 2"], crs: Any, degrees: Float[np.ndarray, "n 4 2"]
) -> Float[np.ndarray, "n 4 2"]:
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
        "heading_deg": round(math.degrees(math.atan2(east, north)) % 180, 3) % 180,
    }


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
    """Write polygons in longitude and latitude (RFC 7946) with the facts of :func:`facts_of`.

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


TABLE = "detections"
APPLICATION_ID, USER_VERSION = 0x47504B47, 10300  # "GPKG", version 1.3 (section 1.1.1.1)
OWN_SRS = 100_000  # id of a reference system that EPSG does not number (ours)
LITTLE_ENDIAN_XY = 0b00000011  # flags (2.1.3): byte order, envelope of x and y, not empty, standard type
POLYGON = 3  # in well-known binary

GEOMETRY = np.dtype(
    [
        ("magic", "S2"),
        ("version", "u1"),
        ("flags", "u1"),
        ("srs_id", "<i4"),
        ("envelope", "<f8", (4,)),  # min x, max x, min y, max y
        ("byte_order", "u1"),
        ("kind", "<u4"),
        ("n_rings", "<u4"),
        ("n_points", "<u4"),
        ("points", "<f8", (5, 2)),
    ]
)
"""A polygon of one closed ring of four corners: header (2.1.3), then well-known binary."""

SCHEMA = f"""
CREATE TABLE gpkg_spatial_ref_sys (
    srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (
    table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE, description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
    CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (
    table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL,
    z TINYINT NOT NULL, m TINYINT NOT NULL,
    CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name),
    CONSTRAINT uk_gc_table_name UNIQUE (table_name),
    CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE {TABLE} (
    fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON,
    "class" TEXT, score DOUBLE, "group" TEXT, length_m DOUBLE, width_m DOUBLE, heading_deg DOUBLE);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {USER_VERSION};
"""


def write_geopackage(
    path: Path,
    detections: QuadDetections,
    *,
    crs: Any,
    transform: Any,
    group_of: Mapping[str, str],
    origin: str,
) -> None:
    """Write the layer ``detections``: polygons in coordinates of the scene, with :func:`facts_of`.

    Args:
        path: File to write.
        detections: Of one scene.
        crs: Coordinate reference system of the scene, as rasterio gives it.
        transform: Affine map from pixels to coordinates.
        group_of: Group of every class; may be empty.
        origin: Name of the scene, for messages and as the description of the layer.

    Raises:
        DataError: If the scene has no reference system, or none that a GeoPackage can hold, or detections lie where
            it does not reach.
    """
    placed = place_quads(detections.quads, crs=crs, transform=transform, origin=origin)
    facts = facts_of(detections, placed.meters, group_of)
    system = _system(crs, origin)
    rings, srs_id = closed_rings(placed.world), system[1]
    bounds = (
        [*rings.min(axis=(0, 1)).tolist(), *rings.max(axis=(0, 1)).tolist()] if len(rings) else [None] * 4
    )
    with closing(sqlite3.connect(":memory:")) as file:
        file.executescript(SCHEMA)
        file.executemany(
            "INSERT OR IGNORE INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", [*_required(), system]
        )
        file.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, min_x, min_y, max_x, max_y, "
            "srs_id) VALUES (?, 'features', ?, ?, ?, ?, ?, ?, ?)",
            (TABLE, TABLE, f"oriented boxes in {origin}", *bounds, srs_id),
        )
        file.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)", (TABLE, srs_id)
        )
        file.executemany(
            f"INSERT INTO {TABLE} VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            [(shape, *row.values()) for shape, row in zip(_geometries(rings, srs_id), facts, strict=True)],
        )
        file.commit()
        content = file.serialize()
    write_atomic(path, content)


def _geometries(rings: Float[np.ndarray, "n 5 2"], srs_id: int) -> list[bytes]:
    table = np.zeros(len(rings), dtype=GEOMETRY)
    table["magic"], table["flags"], table["srs_id"] = b"GP", LITTLE_ENDIAN_XY, srs_id
    low, high = rings.min(axis=1), rings.max(axis=1)
    table["envelope"] = np.stack([low, high], axis=-1).reshape(-1, 4)
    table["byte_order"], table["kind"], table["n_rings"], table["n_points"] = 1, POLYGON, 1, 5
    table["points"] = rings
    return [row.tobytes() for row in table]


def _system(crs: Any, origin: str) -> tuple[str, int, str, int, str, str]:
    """Return the row of ``gpkg_spatial_ref_sys``: by its EPSG number, else under a number of our own."""
    from rasterio.errors import CRSError, RasterioError

    try:
        text, authority = crs.to_wkt(version="WKT1_GDAL"), crs.to_authority(confidence_threshold=90)
    except (RasterioError, CRSError) as error:
        raise DataError(
            f"{origin}: a GeoPackage cannot hold its reference system ({error}); ask for geojson instead"
        ) from error
    name = text.partition('"')[2].partition('"')[0]
    organization, code = authority or ("", "")
    if organization.upper() == "EPSG" and code.isdigit():
        return name, int(code), "EPSG", int(code), text, ""
    return name, OWN_SRS, "NONE", OWN_SRS, text, f"of {origin}"


def _required() -> list[tuple[str, int, str, int, str, str]]:
    """Return the reference systems that every GeoPackage names (1.1.2.1.2)."""
    from rasterio.crs import CRS

    text = CRS.from_epsg(4326).to_wkt(version="WKT1_GDAL")
    return [
        ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined", "undefined Cartesian coordinates"),
        ("Undefined geographic SRS", 0, "NONE", 0, "undefined", "undefined longitude and latitude"),
        ("WGS 84 geodetic", 4326, "EPSG", 4326, text, "longitude and latitude in degrees"),
    ]
