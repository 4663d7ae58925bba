"""A study through the command line, on toy chips."""

import csv
from pathlib import Path

import yaml

from deblora.cli.main import main

STUDY = {
    "variants": {
        "k2": {"cluster.n_clusters": 2},
        "numerator": {"cluster.n_clusters": 2, "calibrate.numerator": 0.5},
    },
    "seeds": 1,
    "rows": ["contract balanced_softmax", "shift balanced_softmax"],
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_computes_shared_stages_once(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"base": str(recipe), **STUDY}))
    out = tmp_path / "out"
    assert main(["study", str(path), "--out", str(out)]) == 0
    log = (out / "numerator" / "seed-0" / "run.log").read_text()
    for stage in ("train-lora", "extract-base", "extract-lora", "evaluate-lora", "evaluate-shift"):
        assert f"{stage}: taken over" in log
    assert "evaluate-contract: done" in log
    rows = rows_of(out / "summary.csv")
    assert {row["variant"] for row in rows} == {"k2", "numerator"}
    assert {(row["method"], row["classifier"]) for row in rows} == {
        ("contract", "balanced_softmax"),
        ("shift", "balanced_softmax"),
        ("lora", "balanced_softmax"),
    }
    assert "data:image/svg+xml" in (out / "index.html").read_text()
    assert str(tmp_path) not in (out / "results.json").read_text()
    assert main(["study", str(path), "--out", str(out)]) == 0
    assert (out / "numerator" / "seed-0" / "run.log").read_text() == log
    assert main(["study", str(path), "--out", str(out), "--lora.rank", "3", "--seeds", "1"]) == 0
    new = (out / "numerator" / "seed-0" / "run.log").read_text().removeprefix(log)
    assert "train-lora: taken over" in new and "extract-base: unchanged" in new
    ranks = [yaml.safe_load(file.read_text())["lora"]["rank"] for file in out.glob("*/seed-0/recipe.yaml")]
    assert ranks == [3, 3]
