"""A single stage never builds on stages that the recipe has left behind, and a method that does nothing says so."""

import csv
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.cli.main import main
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir


def test_a_stage_refuses_what_is_out_of_date(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["cluster"]["n_clusters"] = 3
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for command in ("report", "evaluate", "center"):
        assert main([command, str(run)]) == 2
        assert "cluster is out of date" in capsys.readouterr().err
    assert main(["cluster", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 2
    assert "center is out of date" in capsys.readouterr().err


def test_lists_can_be_set_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(tmp_path / "chips", tmp_path / "vit"))
    arguments = ["--data.groups", "names", "--data.head", "[checks]", "--data.tail", '["slope", "rows"]']
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), *arguments, "--print-recipe"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["head"] == ["checks"]
    assert printed["data"]["tail"] == ["slope", "rows"]


def test_one_test_chip_gives_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vit(tmp_path / "vit")
    write_chips(tmp_path / "chips", counts={"checks": 16, "rows": 12, "slope": 4})
    values = recipe_values(tmp_path / "chips", tmp_path / "vit")
    run = tmp_path / "run"
    assert main(["run", str(write_recipe(tmp_path / "r.yaml", values)), "--out", str(run)]) == 0
    said = "No interval (-) for tail, all: a class there has a single test chip"
    assert said in (run / "run.log").read_text()
    assert said in (run / "report" / "index.html").read_text()
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("lora "))
    assert re.fullmatch(r"lora +cross_entropy +(\S+ (-|\[\S+, \S+\]) +){2}\S+ - +\S+ -", printed)
    for name in ("scores.csv", "differences.csv"):
        with (run / "eval" / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert all(
            row["ci_lower"] == row["ci_upper"] == "" for row in rows if row["group"] in ("tail", "all")
        )
        assert not any("nan" in row.values() for row in rows)
    lines = (run / "report" / "report.md").read_text().splitlines()
    line = max((x for x in lines if x.startswith("| lora |") and "(-)" in x), key=len)
    assert line.count(" to ") + line.count("(-)") == 4 and line.count("(-)") >= 2
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 0


def test_a_balanced_set_is_told_that_nothing_moves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_vit(tmp_path / "vit")
    write_chips(tmp_path / "chips", counts={"checks": 12, "rows": 10, "slope": 8})
    values = recipe_values(tmp_path / "chips", tmp_path / "vit")
    del values["calibrate"]
    with caplog.at_level(logging.WARNING, logger="deblora"):
        assert (
            main(["run", str(write_recipe(tmp_path / "r.yaml", values)), "--out", str(tmp_path / "run")]) == 0
        )
    log = (tmp_path / "run" / "run.log").read_text()
    assert "moves no class" in log and "nothing is trained and deblora is the first adapter" in log
    assert (tmp_path / "run" / "adapters" / "deblora.history.csv").read_text() == "step,loss\n"
    page = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "Calibration of deblora moved no class" in page and "was not trained" in page
    assert page.count("The rarest class has") == 1
    run = RunDir.open(tmp_path / "run")
    lora = FeatureTable.load(run.features("lora")).features
    np.testing.assert_array_equal(FeatureTable.load(run.features("deblora")).features, lora)
    recipe = yaml.safe_load(run.recipe.read_text())
    for placement in ("continue", "fresh", "residual", "residual-mlp"):
        recipe["deblora"]["placement"] = placement
        run.recipe.write_text(yaml.safe_dump(recipe))
        run.features("deblora").unlink()
        assert main(["train-deblora", str(run.root)]) == main(["extract", str(run.root)]) == 0
        np.testing.assert_array_equal(FeatureTable.load(run.features("deblora")).features, lora)


def _zero(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_file({key: 0 * value for key, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("adapters/lora/adapter_model.safetensors", _zero),
        ("adapters/lora/adapter_config.json", lambda path: path.write_text(path.read_text() + " ")),
        ("eval/choice.json", lambda path: path.write_text(path.read_text() + " ")),
    ],
)
def test_predict_refuses_a_model_whose_files_were_changed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[Path], None]
) -> None:
    change(run / name)
    assert main(["predict", str(run), str(tmp_path / "new"), "--out", str(tmp_path / "found")]) == 2
    message = capsys.readouterr().err
    assert "stale: " in message and name in message and "--resume" in message
    assert not (tmp_path / "found").exists()


def test_predict_refuses_a_classifier_of_an_adapter_that_was_trained_anew(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["lora"]["learning_rate"] = 5e-3
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train-lora", str(run)]) == 0
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "new"), "--out", str(tmp_path / "found")]) == 2
    assert "stale: train-lora has written adapters/lora/" in capsys.readouterr().err


def test_a_run_that_another_process_works_in_is_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunDir.open(run).hold():
        assert main(["evaluate", str(run)]) == 2
    assert "another process works in" in capsys.readouterr().err
