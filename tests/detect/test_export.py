"""COCO, GeoJSON and the table of pixels; windows of georeferenced scenes."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deblora.data.scenes.rasters import RasterScene, open_scene
from deblora.detect.boxes import boxes_from_quads, corners
from deblora.detect.export import write_coco, write_geojson, write_pixel_table
from deblora.detect.overlap import pairwise_iou
from deblora.detect.task1 import QuadDetections
from deblora.errors import DataError

BOXES = np.array([[30.0, 20, 20, 8, 0.4], [50, 60, 12, 6, -1.2]])


def detections() -> QuadDetections:
    quads = corners(torch.from_numpy(BOXES)).numpy()
    return QuadDetections(("a", "b"), ("ship", "car"), np.array([0.9, 0.4]), quads)


def test_coco_reads_back(tmp_path: Path) -> None:
    write_coco(
        tmp_path / "d.json",
        detections(),
        BOXES,
        class_names=("car", "ship"),
        sizes={"a": (100, 80), "b": (90, 70)},
    )
    content = json.loads((tmp_path / "d.json").read_text())
    first, second = content["annotations"]
    assert (first["image_id"], first["category_id"], second["category_id"]) == (1, 2, 1)
    quad = torch.tensor(first["segmentation"], dtype=torch.float64).reshape(1, 4, 2)
    rbox = torch.tensor([first["rbox"]], dtype=torch.float64)
    assert float(pairwise_iou(boxes_from_quads(quad), rbox)) > 1 - 1e-9
    x, y, w, h = first["bbox"]
    assert x == quad[..., 0].min() and y + h == pytest.approx(float(quad[..., 1].max()))
    assert w * h > first["area"] == pytest.approx(160)


def test_the_table_of_pixels(tmp_path: Path) -> None:
    write_pixel_table(tmp_path / "d.csv", detections(), BOXES)
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert [float(rows[1][key]) for key in ("cx", "cy", "w", "h", "theta")] == BOXES[1].tolist()


def geo(tmp_path: Path, transform: object, crs: str) -> list[dict[str, object]]:
    rasterio = pytest.importorskip("rasterio")
    write_geojson(
        tmp_path / "d.geojson",
        detections(),
        crs=rasterio.crs.CRS.from_string(crs),
        transform=transform,
        group_of={"ship": "head"},
        origin="a.tif",
    )
    return list(json.loads((tmp_path / "d.geojson").read_text())["features"])


def test_sizes_and_headings_come_from_the_transform(tmp_path: Path) -> None:
    affine = pytest.importorskip("affine")
    turn = 25.0
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    transform = affine.Affine(0.5 * cos, 0.5 * sin, 500_000, 0.5 * sin, -0.5 * cos, 5_000_000)
    ship, _ = geo(tmp_path, transform, "EPSG:32633")
    facts = ship["properties"]
    assert facts["class"] == "ship" and facts["group"] == "head"
    assert (facts["length_m"], facts["width_m"]) == (10.0, 4.0)
    # theta is clockwise from the columns, which point turn degrees north of east.
    assert facts["heading_deg"] == pytest.approx((90 + math.degrees(0.4) - turn) % 180, abs=0.01)
    ring = np.array(ship["geometry"]["coordinates"][0])
    assert np.array_equal(ring[0], ring[-1]) and 14.9 < ring[:, 0].mean() < 15.1
    x, y = ring[:-1, 0], ring[:-1, 1]
    assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0  # counter-clockwise


def test_unequal_pixels_and_degrees(tmp_path: Path) -> None:
    affine = pytest.importorskip("affine")
    meter = 1 / 111_194.93  # degrees of latitude
    transform = affine.Affine(2 * meter, 0, 20, 0, -meter, 60)  # square at 60 north
    for feature, box in zip(geo(tmp_path, transform, "EPSG:4326"), BOXES, strict=True):
        facts = feature["properties"]
        assert facts["length_m"] == pytest.approx(box[2], rel=2e-3)
        assert facts["width_m"] == pytest.approx(box[3], rel=2e-3)
        assert facts["heading_deg"] == pytest.approx((90 + math.degrees(box[4])) % 180, abs=0.2)


def test_a_scene_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif has no coordinate reference system.*coco or csv"):
        write_geojson(
            tmp_path / "d.geojson", detections(), crs=None, transform=None, group_of={}, origin="a.tif"
        )


def test_windows_of_a_geotiff(tmp_path: Path, rng: np.random.Generator) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = rng.integers(1, 255, (3, 90, 120)).astype(np.uint8)
    pixels[:, :, :40] = 0
    profile = {"driver": "GTiff", "width": 120, "height": 90, "count": 3, "dtype": "uint8", "nodata": 0}
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with rasterio.open(tmp_path / "s.tif", "w", crs="EPSG:32633", transform=transform, **profile) as file:
        file.write(pixels)
    scene = open_scene(tmp_path / "s.tif")
    assert isinstance(scene, RasterScene) and scene.crs is not None
    assert (scene.height, scene.width) == (90, 120)
    assert np.array_equal(scene.read(50, 10, 20, 30), pixels[:, 10:40, 50:70].transpose(1, 2, 0))
    assert scene.is_empty(0, 0, 40, 90) and not scene.is_empty(0, 0, 41, 90)
    (tmp_path / "bad.tif").write_bytes(b"II*\0 broken")
    with pytest.raises(DataError, match=r"bad\.tif"):
        open_scene(tmp_path / "bad.tif")
