"""Every reader through the command line: the audit of its layout, and whole runs on cut objects and on FUSRS."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders import COUNTS, recipe_values, write_recipe, write_vit
from data_builders import (
    FakeHubSplit,
    arrays,
    encoded,
    fake_datasets,
    write_dota,
    write_fusrs,
    write_geotiffs,
    write_text_lists,
    write_voc,
)
from deblora.cli.main import main

Capture = pytest.CaptureFixture[str]


def write_arrays(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays())
    return path.with_suffix(".npz")


@pytest.mark.parametrize(
    ("write", "settings", "train"),
    [
        (write_dota, [], (33, 16, 6)),  # one image of six gives to val: two would miss the share by more
        (write_voc, [], (33, 16, 6)),
        (write_text_lists, ["--data.format", "textlist"], (26, 13, 6)),
        (
            write_geotiffs,
            ["--data.format", "geotiff", "--data.bands", "[1, 2, 3]", "--data.scale", "2600"],
            (24, 12, 4),
        ),
        (write_arrays, [], (24, 12, 4)),
    ],
    ids=["dota", "voc", "textlist", "geotiff", "arrays"],
)
def test_the_audit_of_every_layout(
    write: Callable[[Path], Path], settings: list[str], train: tuple, tmp_path: Path, capsys: Capture
) -> None:
    source = write(tmp_path / "data")
    assert main(["audit", str(source), "--decode", *settings]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    counts = {row[0]: tuple(map(int, row[2:5])) for row in rows}
    assert list(counts) == list(COUNTS) and all(min(values) > 0 for values in counts.values())
    assert np.allclose([values[0] for values in counts.values()], train, atol=1)


def test_the_audit_of_a_set_of_the_hub(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:

    columns = {"image": [encoded(i % 200) for i in range(40)], "label": [0, 1] * 20}
    parts = {"train": FakeHubSplit(columns, ["car", "ship"]), "test": FakeHubSplit(columns, ["car", "ship"])}
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(parts))
    assert main(["audit", "owner/ships", "--data.format", "hub", "--decode"]) == 0
    assert "80 chips decoded" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(["audit", "owner/ships", "--data.format", "hub"]) == 2
    assert "deblora[hub]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vit(tmp_path_factory.mktemp("model") / "vit")


def test_a_run_on_objects_of_dota_that_skips_a_broken_image(
    vit: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = write_dota(tmp_path / "dota", n_scenes=8)
    broken = source / "train" / "images" / "train0003.png"
    broken.write_bytes(broken.read_bytes()[:400])
    values = recipe_values(source, vit)
    values["data"] |= {"groups": "names", "head": ["checks"], "tail": ["slope"], "context": 1.1}
    recipe, out = write_recipe(tmp_path / "r.yaml", values), tmp_path / "run"
    assert main(["run", str(recipe), "--out", str(out)]) == 2
    assert "train0003.png: unreadable image" in capsys.readouterr().err and not out.exists()
    assert main(["run", str(recipe), "--out", str(out), "--data.on_error", "skip"]) == 0
    with (out / "audit" / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not [row for row in rows if "train0003" in row["id"]]
    split_of = {row["unit"]: row["split"] for row in rows}
    assert all(split_of[row["unit"]] == row["split"] for row in rows)  # no image on both sides
    assert {split for unit, split in split_of.items() if unit.startswith("val/")} == {"test"}
    frozen = json.loads((out / "audit" / "groups.json").read_text())
    assert all("train0003" in chip_id and "unreadable" in why for chip_id, why in frozen["skipped"].items())
    n_skipped = len(frozen["skipped"])
    assert n_skipped == sum(chip_id.startswith("train/train0003") for chip_id in frozen["skipped"]) > 0
    for page in ("index.html", "report.md"):
        text = (out / "report" / page).read_text()
        assert f"{n_skipped} of 136 chips cannot be read and are left out" in text
    capsys.readouterr()
    assert main(["audit", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("class ") and f"{n_skipped} of 136 chips cannot be read" in shown
    assert "the validation split is the test" in shown


def test_a_run_on_fusrs_without_a_middle_group(vit: Path, tmp_path: Path) -> None:
    values = recipe_values(write_fusrs(tmp_path / "fusrs"), vit)
    values["data"] |= {
        "format": "fusrs",
        "offset": -9.03,
        "scale": 31.45,
        "groups": "names",
        "head": ["cargo", "fishing"],
        "tail": ["dredger"],
    }
    out = tmp_path / "run"
    assert main(["run", str(write_recipe(tmp_path / "r.yaml", values)), "--out", str(out)]) == 0
    frozen = json.loads((out / "audit" / "groups.json").read_text())
    assert frozen["class_names"] == ["cargo", "fishing", "dredger"] and frozen["groups"]["middle"] == []
    assert frozen["black_and_white"] == [-9.03, 31.45] and frozen["bands"] == {"1": "test/Cargo/000.png"}
