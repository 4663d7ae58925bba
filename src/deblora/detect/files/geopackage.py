"""Detections as an OGC GeoPackage, in the reference system of the scene; SQLite alone writes it, no GDAL.

Sections are those of GeoPackage 1.3 (OGC 12-128r17).
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deblora.detect.files.task1 import QuadDetections
from deblora.detect.files.writers import closed_rings, facts_of, place_quads
from deblora.errors import DataError
from deblora.files import write_atomic

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
    """Write the layer ``detections``: polygons in coordinates of the scene, with ``placed_quads.facts_of``.

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
