"""``deblora run DATA`` chooses a head, ``deblora predict`` uses it on new chips; bad input is refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deblora.pipeline.classify.evaluate.heads as heads
from builders import write_chips
from deblora.cli.main import main
from deblora.data.readers.reading import Reading
from deblora.data.readers.unlabeled import read_unlabeled
from deblora.evaluate.heads.trials import PRIOR_CLASSIFIERS


@pytest.fixture(scope="module")
def chosen(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("chosen") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)  # the cheap ones
        assert main(["run", "--resume", "--out", str(run), "--choose"]) == 0
    return run


def test_the_choice_is_the_best_on_validation(chosen: Path) -> None:
    record = json.loads((chosen / "eval" / "choice.json").read_text())
    scores = [row["macro_f1"] for row in record["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3 * 4 + 3 + 2  # moved features: no tau-norm; semi-supervised: two heads
    assert (record["method"], record["probe"]) == tuple(
        record["candidates"][0][k] for k in ("method", "probe")
    )
    assert "Expected gain over" in (chosen / "report" / "report.md").read_text()
    assert record["ci_lower"] <= record["gain"] <= record["ci_upper"]


def test_each_piece_of_a_run_is_made_once(chosen: Path) -> None:
    log = (chosen / "run.log").read_text()
    assert log.count("heads-semi-supervised: done") == 1
    assert log.count("have fewer than 10 validation chips") == 1
    assert log.count("report: done") == 2  # without the choice, and with it
    with (chosen / "eval" / "results.csv").open(newline="") as file:
        probed = {r["group"]: r["value"] for r in csv.DictReader(file) if r["method"] == "semi-supervised"}
    fitted = json.loads((chosen / "eval" / "heads" / "semi-supervised.json").read_text())["heads"]
    best = max(fitted, key=lambda name: fitted[name]["choice"]["macro_f1"])
    with (chosen / "eval" / "heads.csv").open(newline="") as file:
        judged = {
            r["group"]: r["value"]
            for r in csv.DictReader(file)
            if (r["method"], r["probe"], r["metric"]) == ("semi-supervised", best, "macro_f1")
        }
    assert probed == judged


def test_rows_stay_in_the_tables_whoever_asks_last(
    chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)
    run = Path(shutil.copytree(chosen, tmp_path / "run"))
    tables = [run / "eval" / name for name in ("heads.csv", "heads_predictions.csv", "choice.json")]
    few = json.loads(tables[-1].read_text())["candidates"]
    assert main(["heads", str(run)]) == 0
    after = [path.read_bytes() for path in tables]
    many = json.loads(tables[-1].read_text())["candidates"]
    assert {(c["method"], c["probe"]) for c in few} < {(c["method"], c["probe"]) for c in many}
    assert f"among {len(many)} candidates" in (run / "report" / "report.md").read_text()
    assert main(["run", "--resume", "--out", str(run), "--choose"]) == 0
    assert [path.read_bytes() for path in tables] == after


def test_without_a_recipe_the_data_get_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_chips(tmp_path / "toy")
    assert main(["run", str(data), "--print-recipe", "--out", str(tmp_path / "run")]) == 0
    assert f"source: {data}" in capsys.readouterr().out


def test_new_chips_get_classes(
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)
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
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)
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


def test_arrays_get_the_classes_that_their_images_get(
    chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)
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
    assert main(["predict", str(run), str(tmp_path / "chips"), "--out", str(tmp_path / "found")]) == 2
    assert "deblora heads" in capsys.readouterr().err
