"""The road of detection through the command line: every method, resume, prediction, evaluation, comparison."""

import contextlib
import csv
import json
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

from conftest import REPOSITORY_ROOT
from deblora.cli.main import main
from deblora.detect.task1 import read_task1
from deblora.pipeline.classify.road import pipeline_of
from deblora.recipe.classify import recipe_from
from deblora.recipe.detect import METHODS
from deblora.run.run_dir import RunDir
from deblora.run.stage import run_stage
from toy_scenes import NAMES, SIZE, recipe

DETECTOR = "detector/detector.safetensors"


def write(path: Path, values: dict[str, object]) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    threshold = {"score_threshold": 0.0, "max_detections": 20}
    assert (
        main(
            [
                "detect",
                "train",
                write(root / "r.yaml", recipe(scenes, predict=threshold)),
                "--out",
                str(root / "run"),
            ]
        )
        == 0
    )
    return root / "run"


@pytest.fixture(scope="module")
def chip_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters from the classification road on object chips."""
    root = tmp_path_factory.mktemp("chips")
    assert main(["detect", "chips", str(scenes / "train"), "--out", str(root / "chips")]) == 0
    values = {
        "data": {"source": str(root / "chips"), "val_fraction": 0.3, "test_fraction": 0.3},
        "lora": {"rank": 2, "max_train_steps": 2, "train_batch_size": 4},
        "cluster": {"n_clusters": 2, "rho": 2},
        "deblora": {"max_train_steps": 2, "train_batch_size": 2},
    }
    run, chip_recipe = RunDir.create(root / "run", resume=False, overwrite=False), recipe_from(values)
    stages = pipeline_of(chip_recipe)
    for stage in stages[: [stage.name for stage in stages].index("train-deblora") + 1]:
        run_stage(stage, run, chip_recipe)
    return run.root


@pytest.mark.parametrize("method", METHODS)
def test_every_row_of_the_table_starts_from_its_recipe(
    method: str, scenes: Path, chip_run: Path, tmp_path: Path
) -> None:
    file, run = REPOSITORY_ROOT / "recipes" / "detect" / "dota.yaml", tmp_path / "run"
    changes = {
        "data.train": scenes / "train", "data.val": scenes / "val", "data.groups": "thirds",
        "data.tile": 64, "data.overlap": 16, "backbone.name": "embedded", "backbone.path": "null",
        "head.n_channels": 16, "head.n_convs": 1, "train.max_train_steps": 1, "train.workers": 0,
    }  # fmt: skip
    if method == "deblora":
        changes["method.adapter"] = chip_run
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    assert main(["detect", "train", str(file), "--out", str(run), "--method", method, *words]) == 0
    facts = json.loads((run / "detector" / "detector.json").read_text())
    total, trained = facts["n_extractor"], facts["n_extractor_trained"]
    assert total > 1_000_000
    if method in ("zero-shot", "deblora"):
        assert trained == 0
    elif method in ("fine-tune", "scratch"):
        assert trained == total
    else:
        assert 0 < trained < 0.1 * total
    if method == "deblora":
        assert total > 1_223_000  # both adapters are there
    assert (facts["background_ratio"] is not None) == (method == "ecm")
    weights = load_file(run / DETECTOR)
    assert any(name.startswith("extractor.") for name in weights) == (method in ("fine-tune", "scratch"))


def test_the_outputs_of_a_run(trained: Path) -> None:
    page = (trained / "report" / "index.html").read_text()
    assert "dota1.0" in page and "data:image/jpeg" in page and "<script" not in page
    assert "1.2" in page  # parameters of the extractor in millions
    summary = json.loads((trained / "eval" / "val.json").read_text())
    assert summary["protocol"] == "dota1.0" and [row["class"] for row in summary["classes"]] == sorted(NAMES)
    assert (trained / "adapters" / "lora" / "adapter_model.safetensors").is_file()
    with zipfile.ZipFile(trained / "predictions" / "val" / "task1.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"Task1_{name}.txt" for name in NAMES)
    assert not (trained / "checkpoints").exists() or not any((trained / "checkpoints").rglob("*.safetensors"))
    with (trained / "audit" / "class_counts.csv").open() as file:
        assert [(row["class"], row["train"], row["group"]) for row in csv.DictReader(file)] == [
            ("long", "9", "head"),
            ("middling", "5", "middle"),
            ("square", "3", "tail"),
        ]


def test_nothing_is_done_twice_and_resume_is_asked_for(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file = str(trained.parent / "r.yaml")
    assert main(["detect", "train", recipe_file, "--out", str(trained)]) == 2
    assert "--resume" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (trained / "detector").iterdir()}
    assert main(["detect", "train", recipe_file, "--out", str(trained), "--resume"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (trained / "detector").iterdir()}


def test_a_killed_training_goes_on_to_the_same_weights(
    trained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deblora.detect.training import Detect

    forward, calls = Detect.forward, []

    def dying(self: Detect, **batch: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return forward(self, **batch)  # type: ignore[arg-type]

    monkeypatch.setattr(
        Detect,
        "forward",
        lambda self, pixels, boxes, labels, extents: dying(
            self, pixels=pixels, boxes=boxes, labels=labels, extents=extents
        ),
    )
    arguments = ["detect", "train", str(trained.parent / "r.yaml"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 130
    assert (tmp_path / "run" / "checkpoints" / "detector" / "checkpoint-2").is_dir()
    monkeypatch.setattr(Detect, "forward", forward)
    assert main([*arguments, "--resume"]) == 0
    for name in (DETECTOR, "adapters/lora/adapter_model.safetensors"):
        one, other = load_file(trained / name), load_file(tmp_path / "run" / name)
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_workers_change_nothing_but_time(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe_file = str(trained.parent / "r.yaml")
    assert main(["detect", "train", recipe_file, "--out", str(run), "--train.workers", "2"]) == 0
    one, other = load_file(trained / DETECTOR), load_file(run / DETECTOR)
    assert all(np.array_equal(one[key], other[key]) for key in one)
    before = (run / DETECTOR).stat().st_mtime_ns
    assert main(["detect", "train", recipe_file, "--out", str(run), "--resume"]) == 0
    assert (run / DETECTOR).stat().st_mtime_ns == before


def test_prediction_of_a_folder_and_evaluation_of_its_files(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    formats = ["task1", "coco", "csv", "overlay"]
    assert (
        main(
            ["detect", "predict", str(trained), str(scenes / "val"), "--out", str(out), "--format", *formats]
        )
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "detections.csv", "detections.json", "journal", "overlays", "task1.zip",
    ]  # fmt: skip
    one, other = read_task1(out / "task1.zip"), read_task1(trained / "predictions" / "val" / "task1.zip")
    assert one.image_names == other.image_names and np.array_equal(one.quads, other.quads)
    coco = json.loads((out / "detections.json").read_text())
    assert len(coco["annotations"]) == len(one.scores) > 0
    capsys.readouterr()
    assert (
        main(["detect", "eval", str(out), str(scenes / "val" / "labelTxt"), "--out", str(tmp_path / "ev")])
        == 0
    )
    assert "Protocol dota1.0" in capsys.readouterr().out
    judged = json.loads((tmp_path / "ev" / "report.json").read_text())
    mine = json.loads((trained / "eval" / "val.json").read_text())
    for one_class, same in zip(judged["classes"], mine["classes"], strict=True):
        assert one_class["ap50_area"] == same["ap50_area"]
    journal = sorted((out / "journal").iterdir())[0]
    before = journal.read_bytes()
    again = [
        "detect",
        "predict",
        str(trained),
        str(scenes / "val"),
        "--out",
        str(out),
        "--format",
        "csv",
        "--resume",
    ]
    assert main(again) == 0 and journal.read_bytes() == before


def test_bands_thumbnails_and_one_class_per_object(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted((scenes / "val" / "images").iterdir())[0]
    start = ["detect", "predict", str(trained), str(image), "--format", "task1", "thumbnails", "--out"]
    assert main([*start, str(tmp_path / "plain")]) == 0
    assert main([*start, str(tmp_path / "same"), "--bands", "1,2,3"]) == 0
    assert main([*start, str(tmp_path / "swapped"), "--bands", "3,2,1", "--across-classes"]) == 0
    plain, same, swapped = (
        read_task1(tmp_path / name / "task1.zip") for name in ("plain", "same", "swapped")
    )
    assert np.array_equal(plain.quads, same.quads) and not np.array_equal(
        plain.scores[:5], swapped.scores[:5]
    )
    folders = sorted(path.name for path in (tmp_path / "plain" / "thumbnails").iterdir())
    assert folders == sorted(set(plain.class_names)) and len(folders) > 1
    assert main([*start, str(tmp_path / "o"), "--bands", "4,3,2"]) == 2
    assert "bands 1 to 3" in capsys.readouterr().err


def test_weak_detections_are_left_out_on_request_without_predicting_again(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = sorted((scenes / "val" / "images").iterdir())[0], tmp_path / "out"
    start = ["detect", "predict", str(trained), str(image), "--format", "task1", "--out", str(out)]
    assert main(start) == 0
    every, (journal,) = read_task1(out / "task1.zip"), (out / "journal").iterdir()
    before, least = journal.read_bytes(), float(np.median(every.scores))
    assert main([*start, "--resume", "--min-score", str(least)]) == 0
    fewer = read_task1(out / "task1.zip")
    assert 0 < len(fewer.scores) < len(every.scores) and fewer.scores.min() >= least - 1e-5
    assert (every.scores > least + 1e-5).sum() <= len(fewer.scores) and journal.read_bytes() == before
    assert main([*start, "--resume", "--min-score", "1.5"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_class_losses_on_a_frozen_extractor_share_its_maps(scenes: Path, tmp_path: Path) -> None:
    method = {"name": "ecm", "adapter": "none"}
    cache = tmp_path / "maps"
    values = recipe(
        scenes,
        method=method,
        train={"map_cache": str(cache), "max_train_steps": 2, "flips": 0.0, "turns": False},
    )
    values["mixed_precision"] = "bf16"
    assert main(["detect", "train", write(tmp_path / "r.yaml", values), "--out", str(tmp_path / "ecm")]) == 0
    facts = json.loads((tmp_path / "ecm" / "detector" / "detector.json").read_text())
    assert facts["n_extractor_trained"] == 0 and facts["background_ratio"] > 1
    assert set(facts["share_unassigned"]) == set(NAMES)
    (folder,) = cache.iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert before
    again = [
        "detect",
        "train",
        str(tmp_path / "r.yaml"),
        "--out",
        str(tmp_path / "zero"),
        "--method",
        "zero-shot",
    ]
    assert main([*again, "--method.adapter", "null"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    values["method"] = {"name": "lora", "adapter": "none"}
    assert main(["detect", "train", write(tmp_path / "r.yaml", values), "--out", str(tmp_path / "o")]) == 2


@pytest.mark.parametrize("kind", ["geojson", "geopackage"])
def test_what_needs_a_place_is_refused_before_anything_is_predicted(
    kind: str, trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "detect",
        "predict",
        str(trained),
        str(scenes / "val"),
        "--out",
        str(tmp_path / "o"),
        "--format",
    ]
    assert main([*arguments, kind]) == 2
    assert "coco or csv" in capsys.readouterr().err and not (tmp_path / "o").exists()
    assert main([*arguments, "kml"]) == 2
    assert "kml" in capsys.readouterr().err


def test_a_folder_of_geotiffs_becomes_one_geopackage_each(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "tif").mkdir()
    for number, path in enumerate(sorted((scenes / "val" / "images").iterdir())[:2]):
        pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)
        profile = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 3, "dtype": "uint8"}
        place = rasterio.Affine(0.5, 0, 500_000 + 100 * number, 0, -0.5, 5_000_000)
        with rasterio.open(
            tmp_path / "tif" / f"s{number}.tif", "w", crs="EPSG:32633", transform=place, **profile
        ) as file:
            file.write(pixels)
    out = tmp_path / "out"
    start = ["detect", "predict", str(trained), str(tmp_path / "tif"), "--out", str(out)]
    assert main([*start, "--format", "geopackage", "geojson", "csv"]) == 0
    rows = list(csv.DictReader((out / "detections.csv").read_text().splitlines()))
    for number in range(2):
        mine = [row for row in rows if row["image"] == f"s{number}"]
        with contextlib.closing(sqlite3.connect(out / "geopackage" / f"s{number}.gpkg")) as layer:
            found = layer.execute('SELECT "class", score, length_m, width_m FROM detections').fetchall()
            bounds = layer.execute("SELECT min_x, max_x, srs_id FROM gpkg_contents").fetchone()
        assert len(found) == len(mine) > 0
        for (name, score, length, width), row in zip(found, mine, strict=True):
            sides = sorted((float(row["h"]), float(row["w"])))
            assert name == row["class"] and score == pytest.approx(float(row["score"]), abs=1e-6)
            assert [width, length] == pytest.approx([0.5 * side for side in sides], abs=2e-3)
        assert bounds[2] == 32633 and bounds[0] < 500_016 + 100 * number < bounds[1]
    with zipfile.ZipFile(tmp_path / "tif.zip", "w") as archive:
        archive.write(tmp_path / "tif" / "s0.tif", "s0.tif")
    capsys.readouterr()
    assert main([*start[:3], str(tmp_path / "tif.zip"), "--out", str(out), "--format", "geopackage"]) == 2
    assert "unpack it" in capsys.readouterr().err


def test_the_test_split_is_looked_at_on_request_and_compared(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (trained / "eval" / "test.json").exists()
    other = tmp_path / "seed1"
    recipe_file = str(trained.parent / "r.yaml")
    assert main(["detect", "train", recipe_file, "--out", str(other), "--seed", "1"]) == 0
    capsys.readouterr()
    assert main(["detect", "compare", str(trained), str(other)]) == 0
    table = capsys.readouterr().out
    assert "val images" in table and "0, 1" in table and "lora, embedded, joint" in table
    for run in (trained, other):
        assert main(["detect", "test", str(run)]) == 0
    before = (trained / "eval" / "test.json").stat().st_mtime_ns
    assert main(["detect", "test", str(trained)]) == 0
    assert (trained / "eval" / "test.json").stat().st_mtime_ns == before
    capsys.readouterr()
    table = ["--out", str(tmp_path / "t.md"), "--csv", str(tmp_path / "t.csv")]
    assert main(["detect", "compare", str(trained), str(other), *table]) == 0
    assert "test images" in capsys.readouterr().out
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0"] * 7 + ["1"] * 7  # four groups, three classes
    found = json.loads((other / "eval" / "test.json").read_text())["groups"]["map50"]["all"]
    (mine,) = (row for row in rows if row["seed"] == "1" and row["name"] == "all")
    assert float(mine["map50"]) == pytest.approx(found, abs=1e-5) and mine["split"] == "test"
    assert main(["detect", "compare", str(trained), str(trained)]) == 2
    assert "seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"tile": 60}}, "multiple of 8"),
        ({"data": {"train": "nowhere"}}, "nowhere"),
        ({"data": {"overlap": 64}}, "data.overlap"),
        ({"data": {"classes": ["long"]}}, "not trained"),
        ({"method": {"name": "deblora"}}, "method.adapter"),
        ({"method": {"adapter": "nowhere"}}, "nowhere"),
        ({"train": {"learning_rat": 1.0}}, "did you mean train.learning_rate"),
        ({"predict": {"score_threshold": 2.0}}, "allowed are 0 to 1"),
        ({"backbone": {"name": "galileo-nano"}}, "backbone.path"),
    ],
)
def test_what_can_be_mended_is_one_message(
    change: dict[str, dict[str, object]],
    message: str,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(
            [
                "detect",
                "train",
                write(tmp_path / "r.yaml", recipe(scenes, **change)),
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 2
    )
    assert message in capsys.readouterr().err


def test_training_images_may_not_be_judged(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = recipe(scenes, data={"val": str(scenes / "train")})
    assert main(["detect", "train", write(tmp_path / "r.yaml", values), "--out", str(tmp_path / "run")]) == 2
    assert "in data.train and in data.val" in capsys.readouterr().err
    tile = [
        "detect",
        "tile",
        str(scenes / "val"),
        "--out",
        str(tmp_path / "t"),
        "--size",
        "48",
        "--overlap",
        "8",
    ]
    assert main(tile) == 0
    values = recipe(scenes, data={"train": str(tmp_path / "t")})
    assert main(["detect", "train", write(tmp_path / "r.yaml", values), "--out", str(tmp_path / "run")]) == 2
    assert "5 images (or tiles of them)" in capsys.readouterr().err


def test_overrides_are_settings_or_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["detect", "train", write(tmp_path / "r.yaml", recipe(scenes)), "--out", str(tmp_path / "run")]
    assert main([*start, "--train.max_train_steps=0"]) == 2
    assert "train.max_train_steps" in capsys.readouterr().err
    assert main([*start, "--steps", "3"]) == 2
    assert "--steps" in capsys.readouterr().err
    assert main([*start, "--train.flips"]) == 2
    assert "no value" in capsys.readouterr().err
