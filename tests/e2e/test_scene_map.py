"""A scene goes in and a map comes out: right classes at known places, gaps stay gaps, a kill changes nothing."""

import csv
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from builders import draw
from deblora.cli.main import main
from deblora.pipeline.classify import scene_map
from deblora.pipeline.classify.predict import Predictor
from deblora.pipeline.classify.scene_map import cells_covered, starts
from deblora.recipe.classify import read_recipe, recipe_from
from deblora.run.run_dir import RunDir

rasterio = pytest.importorskip("rasterio")
TILE, NAMES = 16, ("checks", "rows", "slope")
PLAN = np.array([[0, 1, 2, 0, 1], [2, 0, 1, 2, 0], [1, 2, 0, 1, 2]])  # class of every chip of the scene
PLACE = rasterio.Affine(10.0, 0, 500_000, 0, -10.0, 5_600_000)
FILES = ("classes.tif", "probabilities.tif", "finds.csv", "finds.gpkg", "overview.png", "map.json")


def write_scene(path: Path, *, right: int = 0, gap: bool = False, **more: object) -> Path:
    rng = np.random.default_rng(3)
    pixels = np.vstack([np.hstack([draw(NAMES[c], rng) for c in row]) for row in PLAN])
    pixels = np.maximum(np.pad(pixels, ((0, 0), (0, right), (0, 0)), mode="edge"), 1)
    if gap:
        pixels[:, :TILE] = 0
        more["nodata"] = 0
    height, width = pixels.shape[:2]
    options = {
        "driver": "GTiff",
        "crs": "EPSG:32633",
        "transform": PLACE,
        "count": 3,
        "dtype": "uint8",
        **more,
    }
    with rasterio.open(path, "w", height=height, width=width, **options) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path


def mapped(run: Path, scene: Path, out: Path, *more: str) -> Path:
    assert main(["predict", str(run), str(scene), "--tile", str(TILE), "--out", str(out), *more]) == 0
    return out / scene.stem


@pytest.mark.parametrize(("length", "tile", "stride"), [(80, 16, 16), (83, 16, 8), (16, 16, 5), (100, 17, 6)])
def test_every_cell_has_the_tiles_that_cover_its_middle(length: int, tile: int, stride: int) -> None:
    begin = starts(length, tile, stride)
    assert begin[0] == 0 and begin[-1] == length - tile and (np.diff(begin) <= stride).all()
    first, end = cells_covered(length, tile, stride)
    for i, (a, b) in enumerate(zip(first, end, strict=True)):
        middle = (i * stride + min((i + 1) * stride, length) - 1) // 2
        covering = np.flatnonzero((begin <= middle) & (middle < begin + tile))
        assert covering.tolist() == list(range(a, b)) and len(covering)


def test_the_map_says_of_every_place_what_the_chip_there_is_given(finished: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif")
    folder = mapped(finished, scene, tmp_path / "map", "--stride", str(TILE))
    run = RunDir.open(finished)
    predictor = Predictor.open(run, recipe_from(read_recipe(run.recipe)))
    with rasterio.open(scene) as file:
        pixels = np.moveaxis(file.read(), 0, 2)
    chips = [pixels[TILE * i : TILE * (i + 1), TILE * j : TILE * (j + 1)] for i, j in np.ndindex(*PLAN.shape)]
    from deblora.data.chips import ArrayPixels

    ids = tuple(map(str, range(len(chips))))
    expected = predictor.probabilities(ids, ArrayPixels(chips, ids)).reshape(*PLAN.shape, 3)
    with rasterio.open(folder / "probabilities.tif") as file:
        np.testing.assert_allclose(np.moveaxis(file.read(), 0, 2), expected, atol=1e-5)
        assert file.descriptions == NAMES and file.crs == "EPSG:32633"
        assert file.transform == rasterio.Affine(160, 0, 500_000, 0, -160, 5_600_000)
    with rasterio.open(folder / "classes.tif") as file:
        found = file.read(1)
        assert (
            file.profile["tiled"]
            and file.nodata == 255
            and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        )
    np.testing.assert_array_equal(found, expected.argmax(axis=2))
    assert (found == PLAN).mean() > 0.7

    # Rare finds: ranked, in coordinates of the scene.
    rare = [
        c for c in range(3) if json.loads((folder / "map.json").read_text())["groups"][NAMES[c]] == "tail"
    ]
    with (folder / "finds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == int(np.isin(found, rare).sum()) > 0
    scores = [float(row["probability"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    with sqlite3.connect(folder / "finds.gpkg") as file:
        listed = file.execute('SELECT "class", score, length_m FROM detections ORDER BY fid').fetchall()
    assert [row[0] for row in listed] == [row["class"] for row in rows]
    assert all(abs(length - 10 * TILE) < 1e-6 for *_, length in listed)


def test_overlapping_tiles_and_batches_change_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(tmp_path / "a.tif", right=5)  # the last tile is shifted back
    arrays = []
    for n_tiles in (128, 3):
        monkeypatch.setattr(scene_map, "N_TILES", n_tiles)
        with rasterio.open(mapped(finished, scene, tmp_path / str(n_tiles)) / "probabilities.tif") as file:
            arrays.append(file.read())
    assert arrays[0].shape == (3, 6, 11) and np.isfinite(arrays[0]).all()
    np.testing.assert_allclose(arrays[0].sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(arrays[0], arrays[1], atol=1e-5)


def test_what_is_missing_stays_missing(finished: Path, tmp_path: Path) -> None:
    folder = mapped(finished, write_scene(tmp_path / "a.tif", gap=True), tmp_path / "map")
    with rasterio.open(folder / "classes.tif") as file:
        found = file.read(1)
    with rasterio.open(folder / "probabilities.tif") as file:
        assert np.array_equal(np.isnan(file.read()).any(axis=0), found == 255)
    assert (found[:, :2] == 255).all() and (found[:, 2:] != 255).all()
    record = json.loads((folder / "map.json").read_text())
    # A tile may miss half of its pixels (data.max_missing).
    assert record["n_left_out"] == 5 and sum(record["n_cells"].values()) == (found != 255).sum()


def test_a_stopped_map_goes_on_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scenes").mkdir()
    for name in ("a", "b"):
        write_scene(tmp_path / "scenes" / f"{name}.tif")
    call = ["predict", str(finished), str(tmp_path / "scenes"), "--tile", str(TILE), "--out"]
    assert main([*call, str(tmp_path / "whole")]) == 0
    own, n_rows = scene_map._Mapping._tiles, []

    def stopped(self, columns, y):
        n_rows.append(y)
        if len(n_rows) == 3:
            raise KeyboardInterrupt
        return own(self, columns, y)

    monkeypatch.setattr(scene_map._Mapping, "_tiles", stopped)
    assert main([*call, str(tmp_path / "part")]) not in (0, 2)  # interrupted
    kept = tmp_path / "part" / ".a.work" / "probabilities.f32"
    row_size = 4 * 9 * 3
    assert kept.stat().st_size == 2 * row_size and not (tmp_path / "part" / "a").exists()
    with kept.open("ab") as file:
        file.write(b"half a row")
    n_rows.extend([0] * 10)
    assert main([*call, str(tmp_path / "part")]) == 0
    assert n_rows[13:][0] == TILE  # the third row of the first scene
    for name in ("a", "b"):
        for file_name in FILES:
            whole, part = (tmp_path / kind / name / file_name for kind in ("whole", "part"))
            dated = file_name == "finds.gpkg"  # holds the time at which it was written
            assert dated or whole.read_bytes() == part.read_bytes(), file_name
    assert not list((tmp_path / "part").glob(".*"))

    # A finished map is not made again; another one takes its place on request only.
    n_done = len(n_rows)
    assert main([*call, str(tmp_path / "part")]) == 0 and len(n_rows) == n_done
    assert main([*call, str(tmp_path / "part"), "--stride", "16"]) == 2
    assert main([*call, str(tmp_path / "part"), "--stride", "16", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tile", "100"], "less than a tile of 100; give a smaller --tile"),
        (["--tile", "16", "--stride", "17"], "--stride is 17, allowed are 1 to 16"),
        (["--stride", "8"], "give --tile too"),
    ],
)
def test_bad_tiles_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    scene = write_scene(tmp_path / "a.tif")
    assert main(["predict", str(finished), str(scene), "--out", str(tmp_path / "map"), *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "map").exists()


def test_a_scene_among_chips_is_noticed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(tmp_path / "a.tif", "w", height=2100, width=2100, **options) as file:
        file.write(np.zeros((3, 2100, 2100), np.uint8))
    assert main(["predict", str(finished), str(tmp_path / "a.tif"), "--out", str(tmp_path / "found")]) == 2
    assert "a.tif is a scene, not a chip; give --tile" in capsys.readouterr().err
