"""A run chooses a classifier, ``deblora predict`` uses it on new chips, wherever the run lies; bad input is refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from builders import write_chips
from deblora.cli.main import main
from deblora.data.readers.registry import read_unlabeled
from deblora.data.sources import Reading
from deblora.errors import ArtifactError
from deblora.evaluate.classifiers.files import load_classifier
from deblora.evaluate.classifiers.names import FLOOR
from deblora.evaluate.intervals import ENOUGH_TO_CHOOSE
from deblora.pipeline.classify.predict import load_chosen
from deblora.recipe.methods import FLOORS
from deblora.run.run_dir import RunDir


@pytest.fixture
def chosen(finished: Path) -> Path:
    return finished


def test_with_few_validation_chips_the_floor_is_chosen(finished: Path) -> None:
    record = json.loads((finished / "eval" / "choice.json").read_text())
    scores = [row["macro_f1"] for row in record["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 5 * 3 + 3 + 2  # the floors of three methods; semi-supervised has two of its own
    first = record["candidates"][0]
    assert record["best"] == [first["method"], first["classifier"]]
    assert record["fewest_val"] < ENOUGH_TO_CHOOSE
    assert [record["method"], record["classifier"]] == record["floor"]
    floors = record["floor_scores"]
    assert record["floor"] == [min(floors, key=floors.__getitem__), FLOOR] and len(floors) == len(FLOORS)
    text = (finished / "report" / "report.md").read_text()
    assert "nothing is chosen by its score" in text and "fitted again" in text
    for gain in record["gains"].values():
        assert gain["ci_lower"] <= gain["value"] <= gain["ci_upper"]


def test_the_model_for_new_chips_has_a_line_in_the_scores(finished: Path) -> None:
    record = json.loads((finished / "eval" / "choice.json").read_text())
    with (finished / "eval" / "scores.csv").open(newline="") as file:
        methods = {(row["method"], row["classifier"]) for row in csv.DictReader(file)}
    assert ("shipped", record["classifier"]) in methods
    _, notes = load_classifier(finished / "classifiers" / "shipped" / f"{record['classifier']}.safetensors")
    assert notes["method"] == record["method"] and notes["is_refitted"]
    assert notes["settings"]["temperature"] > 0


def test_each_classifier_is_kept_with_what_it_is(finished: Path) -> None:
    frozen = json.loads((finished / "audit" / "groups.json").read_text())
    for candidate in json.loads((finished / "eval" / "choice.json").read_text())["candidates"]:
        path = finished / "classifiers" / candidate["method"] / f"{candidate['classifier']}.safetensors"
        _, notes = load_classifier(path)
        assert (notes["method"], notes["classifier"]) == (candidate["method"], candidate["classifier"])
        assert notes["class_names"] == frozen["class_names"] and notes["n_trials"] >= 1
        assert set(notes["tables"]) <= {"base", "lora", "deblora"}


def test_methods_stay_in_the_tables_whoever_asks_last(finished: Path, recipe: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    tables = [run / "eval" / name for name in ("scores.csv", "predictions.csv", "choice.json")]
    few = json.loads(tables[-1].read_text())["candidates"]
    assert main(["evaluate", str(run)]) == 0
    after = [path.read_bytes() for path in tables]
    many = json.loads(tables[-1].read_text())["candidates"]
    more = {(c["method"], c["classifier"]) for c in many} - {(c["method"], c["classifier"]) for c in few}
    assert {method for method, _ in more} == {
        "contract-class-mean",
        "contract-random-head-mean",
        "contract-kernel-neighbors",
    }
    assert main(["run", str(recipe), "--resume", "--out", str(run)]) == 0
    assert [path.read_bytes() for path in tables] == after


def test_a_run_is_used_where_neither_its_chips_nor_its_folder_are(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is copied, its chips and its weights are gone from their places, and the current folder is another."""
    new = write_chips(tmp_path / "new", seed=7, counts={"checks": 2, "slope": 2})
    assert main(["predict", str(finished), str(new), "--out", str(tmp_path / "here")]) == 0
    copied = Path(shutil.copytree(finished, tmp_path / "elsewhere" / "copy"))
    recipe = yaml.safe_load((copied / "recipe.yaml").read_text())
    weights = Path(shutil.copytree(recipe["backbone"]["path"], tmp_path / "weights"))
    recipe["data"]["source"] = str(tmp_path / "gone")
    recipe["backbone"]["path"] = "not/here"
    (copied / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path / "elsewhere")

    def predicted(out: str, *more: str) -> str:
        assert main(["predict", "copy", str(new), "--out", out, *more]) == 0
        return (Path(out) / "predictions.csv").read_text()

    expected = (tmp_path / "here" / "predictions.csv").read_text()
    assert predicted("noted") == expected  # the weights are still where the run noted them
    (copied / "adapters" / "weights.json").write_text(json.dumps({"path": str(tmp_path / "moved")}))
    capsys.readouterr()
    assert main(["predict", "copy", str(new), "--out", "none"]) == 2
    message = capsys.readouterr().err
    assert "neither at not/here, seen from here, nor at" in message and "--backbone.path PATH" in message
    assert predicted("given", "--backbone.path", str(weights)) == expected
    (tmp_path / "elsewhere" / "not").mkdir()
    weights.rename(tmp_path / "elsewhere" / "not" / "here")
    assert predicted("relative") == expected


def test_what_follows_the_extraction_needs_no_chips(finished: Path, recipe: Path, tmp_path: Path) -> None:
    """Every stage after the features is made again from the run folder alone, with the same result."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    toy = Path(values["data"]["source"])
    for name in ("clusters", "centers", "calibration", "classifiers", "eval", "report"):
        shutil.rmtree(run / name)
    hidden = toy.rename(toy.with_name("hidden"))
    try:
        for command in ("cluster", "center", "calibrate", "evaluate", "report"):
            assert main([command, str(run)]) == 0
    finally:
        hidden.rename(toy)
    for name in ("clusters/clusters.safetensors", "calibration/shift.safetensors", "eval/separation.csv"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
    assert (run / "report" / "index.html").is_file()


def test_without_a_recipe_the_data_get_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_chips(tmp_path / "toy")
    assert main(["run", str(data), "--print-recipe", "--out", str(tmp_path / "run")]) == 0
    assert f"source: {data}" in capsys.readouterr().out


def test_new_chips_get_classes(chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = write_chips(tmp_path / "new", seed=7, counts={"checks": 6, "rows": 6, "slope": 6})
    (new / "notes.txt").write_text("no image")
    out = tmp_path / "found"
    assert main(["predict", str(chosen), str(new), "--out", str(out)]) == 0
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    for row in rows:
        p = {name.removeprefix("p_"): float(value) for name, value in row.items() if name.startswith("p_")}
        assert np.isclose(sum(p.values()), 1, atol=1e-4)
        assert row["predicted"] == max(p, key=p.__getitem__)
    right = np.mean([row["predicted"] == row["id"].split("/")[0] for row in rows])
    assert right > 0.5
    page = (out / "index.html").read_text()
    assert "slope" in page and "data:image/jpeg" in page and str(tmp_path) not in page

    # An earlier prediction is replaced on request only, and not before the new one is complete.
    call = ["predict", str(chosen), str(new / "slope"), "--out", str(out)]
    capsys.readouterr()
    assert main(call) == 2
    assert f"{out} already holds a prediction; add --overwrite to replace it" in capsys.readouterr().err
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    assert main([*call[:2], str(tmp_path / "broken"), *call[3:], "--overwrite"]) == 2
    assert (out / "index.html").read_text() == page and len(rows_of(out)) == 18
    assert main([*call, "--overwrite"]) == 0
    assert len(rows_of(out)) == 6

    # Names of files and folders mean nothing.
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i, row in enumerate(rows):
        shutil.copy(new / row["id"], mixed / f"{i:03d}.png")
    assert main(["predict", str(chosen), str(mixed), "--out", str(tmp_path / "again")]) == 0
    with (tmp_path / "again" / "predictions.csv").open(newline="") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == [row["predicted"] for row in rows]


@pytest.mark.parametrize(
    ("chips", "out", "message"),
    [
        ("missing", "found", "does not exist"),
        ("empty", "found", "no images"),
        ("toy", "toy/found", "lies inside the chips"),
        ("toy", "full", "is no part of a prediction"),
        ("notes.txt", "found", "notes.txt:1: text does not exist below"),
    ],
)
def test_bad_input(
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], chips: str, out: str, message: str
) -> None:
    write_chips(tmp_path / "toy", counts={"checks": 1})
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "notes.txt").write_text("text")
    assert main(["predict", str(chosen), str(tmp_path / chips), "--out", str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "found").exists()


def test_chips_of_another_type_are_refused(
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(new / "deep.png")
    assert main(["predict", str(chosen), str(new), "--out", str(tmp_path / "found")]) == 2
    message = capsys.readouterr().err
    assert "deep.png: pixels are uint16, the model was trained on uint8" in message
    assert not (tmp_path / "found").exists()


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_unusable_chips_are_skipped_counted_and_named(
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = write_chips(tmp_path / "new", seed=7, counts={"checks": 3, "slope": 3})
    assert main(["predict", str(chosen), str(new), "--out", str(tmp_path / "whole")]) == 0
    assert "6 chips classified\npage: " in capsys.readouterr().out
    (new / "checks" / "999.png").write_bytes((new / "checks" / "000.png").read_bytes()[:60])
    np.save(new / "slope" / "deep.npy", np.zeros((4, 4), dtype=np.uint16))
    np.save(new / "slope" / "four.npy", np.zeros((4, 4, 4), dtype=np.uint8))
    np.save(
        new / "slope" / "gray.npy", np.zeros((4, 4), dtype=np.uint8)
    )  # the model would repeat it, and err
    call = ["predict", str(chosen), str(new), "--out", str(tmp_path / "found")]
    assert main(call) == 2
    message = capsys.readouterr().err
    assert message.startswith("deblora: 4 of 10 chips cannot be used:\n")
    for words in (
        "999.png: unreadable",
        "deep.npy: pixels are uint16",
        "four.npy: 4 bands, the model was trained on chips with 3;",
        "gray.npy: 1 bands, the model was trained on chips with 3;",
    ):
        assert words in message
    assert "--on-error skip" in message and not (tmp_path / "found").exists()
    assert main([*call, "--on-error", "skip"]) == 0
    assert "6 chips classified, 4 left out (predictions.csv says why)" in capsys.readouterr().out
    whole, found = rows_of(tmp_path / "whole"), rows_of(tmp_path / "found")
    skipped = {name: row for name, row in found.items() if row["skipped"]}
    assert list(found) == [*whole, *skipped] and {name: found[name] for name in whole} == whole
    assert set(skipped) == {"checks/999.png", "slope/deep.npy", "slope/four.npy", "slope/gray.npy"}
    assert all(row["predicted"] == row["p_slope"] == row["probability"] == "" for row in skipped.values())
    assert skipped["slope/deep.npy"]["skipped"] == "pixels are uint16, the model was trained on uint8"
    page = (tmp_path / "found" / "index.html").read_text()
    assert "4 chips were left out" in page and "slope/four.npy" in page and str(tmp_path) not in page
    assert "left out" not in (tmp_path / "whole" / "index.html").read_text()
    for name in ("checks", "slope"):
        for path in (new / name).glob("0*.png"):
            path.write_bytes(b"")
    assert main([*call, "--on-error", "skip", "--overwrite"]) == 2
    assert "none of the 10 chips can be used, first: " in capsys.readouterr().err


def test_arrays_get_the_classes_that_their_images_get(chosen: Path, tmp_path: Path) -> None:
    new = write_chips(tmp_path / "new", seed=7, counts={"checks": 3, "slope": 3})
    stack = np.stack([np.asarray(Image.open(path)) for path in sorted(new.rglob("*.png"))])
    np.savez(tmp_path / "new.npz", images=stack)
    (new / "list.txt").write_text("\n".join(f"{p.relative_to(new)} 0" for p in sorted(new.rglob("*.png"))))
    found = {}
    for name, source in {"folder": new, "arrays": tmp_path / "new.npz", "list": new / "list.txt"}.items():
        assert main(["predict", str(chosen), str(source), "--out", str(tmp_path / name)]) == 0
        found[name] = [list(row.values())[1:] for row in rows_of(tmp_path / name).values()]
    assert found["folder"] == found["arrays"] == found["list"] and len(found["list"]) == 6


def test_geotiffs_are_read_as_the_run_read_its_own(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6) * 20
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=5, width=6, count=4, dtype="uint16"
    ) as file:
        file.write(values)
    ids, pixels = read_unlabeled(tmp_path, geotiff=Reading(bands=(3, 1)))
    assert ids == ("a.tif",)
    np.testing.assert_array_equal(pixels.read(0), np.moveaxis(values[[2, 0]], 0, 2))


def test_what_is_neither_data_nor_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "nope"), "--out", str(tmp_path / "run")]) == 2
    assert "nope does not exist; give a recipe (YAML), or the folder" in capsys.readouterr().err


def test_a_run_without_a_choice_says_how_to_make_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "eval" / "choice.json").unlink()
    assert main(["predict", str(run), str(tmp_path / "chips"), "--out", str(tmp_path / "found")]) == 2
    assert "deblora evaluate" in capsys.readouterr().err


def test_a_classifier_of_other_classes_is_refused(run: Path) -> None:
    choice = json.loads((run / "eval" / "choice.json").read_text())
    path = run / "classifiers" / "shipped" / f"{choice['classifier']}.json"
    path.write_text(path.read_text().replace('"slope"', '"slop"'))
    with pytest.raises(
        ArtifactError, match="for the classes of this run; fit it again with: deblora evaluate"
    ):
        load_chosen(RunDir.open(run), choice["method"], choice["classifier"])
