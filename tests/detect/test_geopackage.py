"""GeoPackage read by SQLite and shapely, which know nothing of how it was written."""

import json
import math
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from shapely import wkb
from shapely.geometry import Polygon, shape

from deblora.detect.boxes import corners
from deblora.detect.export import write_geojson, write_geopackage
from deblora.detect.task1 import QuadDetections
from deblora.errors import DataError

rasterio = pytest.importorskip("rasterio")
BOXES = np.array([[30.0, 20, 20, 8, 0.4], [50, 60, 12, 6, -1.2], [200, 10, 9, 9, 0.0]])
TURN = math.radians(25.0)
TURNED = rasterio.Affine(
    0.5 * math.cos(TURN), 0.5 * math.sin(TURN), 5e5, 0.5 * math.sin(TURN), -0.5 * math.cos(TURN), 5e6
)
DEGREES = rasterio.Affine(1e-5, 0, 20, 0, -1e-5, 60)
GROUPS = {"ship": "head"}


def detections(n: int = 3) -> QuadDetections:
    quads = corners(torch.from_numpy(BOXES[:n])).numpy()
    return QuadDetections(
        ("a",) * n, ("ship", "car", 'o\'ring "x"')[:n], np.array([0.9, 0.4, 0.1])[:n], quads
    )


def written(path: Path, crs: str, transform: object, *, n: int = 3) -> sqlite3.Connection:
    system = rasterio.crs.CRS.from_string(crs)
    write_geopackage(path, detections(n), crs=system, transform=transform, group_of=GROUPS, origin="a.tif")
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def polygons(file: sqlite3.Connection) -> list[tuple[int, tuple[float, ...], Polygon]]:
    """Reference system, envelope and polygon of every row, from the bytes."""
    found = []
    for (content,) in file.execute("SELECT geom FROM detections ORDER BY fid"):
        magic, version, flags, srs_id = struct.unpack_from("<2sBBi", content)
        assert (magic, version) == (b"GP", 0)
        assert flags & 1 and (flags >> 1) & 7 == 1 and not flags >> 4  # little endian, envelope of x and y
        found.append((srs_id, struct.unpack_from("<4d", content, 8), wkb.loads(content[40:])))
    return found


@pytest.mark.parametrize(
    ("crs", "transform", "srs_id", "organization"),
    [
        ("EPSG:32633", TURNED, 32633, "EPSG"),
        ("EPSG:4326", DEGREES, 4326, "EPSG"),
        ("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80 +units=m", TURNED, 100_000, "NONE"),
    ],
)
def test_it_reads_back(
    crs: str, transform: rasterio.Affine, srs_id: int, organization: str, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "d.gpkg"
    file = written(path, crs, transform)
    assert path.read_bytes()[:16] == b"SQLite format 3\0" and path.read_bytes()[68:72] == b"GPKG"
    assert file.execute("PRAGMA user_version").fetchone() == (10300,)
    assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    found = polygons(file)
    for (own, envelope, polygon), box in zip(found, BOXES, strict=True):
        quad = corners(torch.from_numpy(box[None]))[0].tolist()
        expected = Polygon(
            [
                (
                    transform.a * x + transform.b * y + transform.c,
                    transform.d * x + transform.e * y + transform.f,
                )
                for x, y in quad
            ]
        )
        assert own == srs_id and polygon.is_valid and polygon.exterior.is_ccw
        assert polygon.symmetric_difference(expected).area < 1e-9 * expected.area
        assert envelope == (*polygon.bounds[::2], *polygon.bounds[1::2])
    contents = file.execute("SELECT * FROM gpkg_contents").fetchall()
    assert len(contents) == 1 and contents[0][:4] == (
        "detections", "features", "detections", "oriented boxes in a.tif"
    )  # fmt: skip
    bounds = np.array([polygon.bounds for _, _, polygon in found])
    assert contents[0][5:] == (*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0), srs_id)
    columns = file.execute("SELECT * FROM gpkg_geometry_columns").fetchall()
    assert columns == [("detections", "geom", "POLYGON", srs_id, 0, 0)]
    systems = {row[1]: row for row in file.execute("SELECT * FROM gpkg_spatial_ref_sys")}
    assert set(systems) == {-1, 0, 4326, srs_id} and systems[srs_id][2] == organization
    assert rasterio.crs.CRS.from_wkt(systems[srs_id][4]) == rasterio.crs.CRS.from_string(crs)


@pytest.mark.parametrize(("crs", "transform"), [("EPSG:32633", TURNED), ("EPSG:4326", DEGREES)])
def test_facts_and_places_are_those_of_geojson(crs: str, transform: rasterio.Affine, tmp_path: Path) -> None:
    from rasterio.warp import transform_geom

    file = written(tmp_path / "d.gpkg", crs, transform)
    system = rasterio.crs.CRS.from_string(crs)
    write_geojson(
        tmp_path / "d.json", detections(), crs=system, transform=transform, group_of=GROUPS, origin="a.tif"
    )
    file.row_factory = sqlite3.Row
    rows = file.execute("SELECT * FROM detections ORDER BY fid").fetchall()
    features = json.loads((tmp_path / "d.json").read_text())["features"]
    for row, (_, _, polygon), feature in zip(rows, polygons(file), features, strict=True):
        assert {key: row[key] for key in feature["properties"]} == feature["properties"]
        mine = shape(transform_geom(system, "EPSG:4326", polygon.__geo_interface__))
        theirs = shape(feature["geometry"])
        assert mine.symmetric_difference(theirs).area < 1e-6 * theirs.area
    assert [row["class"] for row in rows] == list(detections().class_names)


def test_a_scene_without_detections_is_an_empty_layer(tmp_path: Path) -> None:
    file = written(tmp_path / "d.gpkg", "EPSG:32633", TURNED, n=0)
    assert polygons(file) == []
    assert file.execute("SELECT min_x, max_y, srs_id FROM gpkg_contents").fetchone() == (None, None, 32633)


@pytest.mark.parametrize(
    ("crs", "transform", "message"),
    [
        (None, TURNED, r"a\.tif has no coordinate reference system.*task1, coco or csv"),
        ("LOCAL", TURNED, "cannot be brought to longitude"),
        ("EPSG:32633", rasterio.Affine(1e9, 0, 1e12, 0, -1e9, 1e12), "projection"),
    ],
)
def test_what_has_no_place_is_refused(
    crs: str | None, transform: rasterio.Affine, message: str, tmp_path: Path
) -> None:
    system = None
    if crs:
        local = 'LOCAL_CS["shed",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
        system = rasterio.crs.CRS.from_string(local if crs == "LOCAL" else crs)
    with pytest.raises(DataError, match=message):
        write_geopackage(
            tmp_path / "d.gpkg", detections(), crs=system, transform=transform, group_of={}, origin="a.tif"
        )
    assert not any(tmp_path.iterdir())
