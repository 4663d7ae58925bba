"""The document of results: what it prints comes from the files, and it notices that it is out of date."""

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import REPOSITORY_ROOT

GROUPS = ("head", "middle", "tail", "all")
ABOUT = {"seeds": [0, 1], "deblora": "1.0", "machine": "x, 2 cores"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = REPOSITORY_ROOT / "scripts" / "render_results.py"
    spec = importlib.util.spec_from_file_location("render_results", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, name: str, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / f"{name}.json").write_text(json.dumps({**ABOUT, **about}))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    strong = "minus_lora_chosen_on_validation_"
    found = {
        f"{strong}mean": 0.031,
        f"{strong}ci_lower": 0.01,
        f"{strong}ci_upper": 0.052,
        f"{strong}n_wins": 2,
    }
    row = {"method": "shift", "probe": "chosen", "metric": "macro_f1", "mean": 0.5, "sd": 0.01, **found}
    about = {
        "dataset": "toy",
        "backbone": "vit",
        "chosen": {"shift chosen": ["a", "b"]},
        "data_sha256": {"0": "a" * 64, "1": "b" * 64},
    }
    write(tmp_path, "bench", [{**row, "group": group} for group in GROUPS], about)
    point = {"method": "deblora", "probe": "ce", "mean": 0.4, "sd": 0.02}
    first = {"minus_first_mean": "", "minus_lora_mean": -0.1, "minus_lora_ci_lower": -0.2}
    rest = {"minus_lora_ci_upper": 0.1, "minus_lora_n_wins": 1}
    lines = [{"variant": "k8", **point, "group": group, **first, **rest} for group in GROUPS]
    write(tmp_path, "clusters", lines, {"study": "K", "data_sha256": {"k8": {"0": "c" * 64}}})
    return tmp_path


def test_tables_hold_the_numbers(script: ModuleType, results: Path) -> None:
    text = script.render(results)
    assert "| shift | chosen | 50.0 ± 1.0 |" in text
    assert "+3.1 [+1.0, +5.2], 2 wins" in text
    assert "| deblora ce | k8 | 40.0 ± 2.0 |" in text
    assert "-10.0 [-20.0, +10.0], 1 wins" in text
    assert "`aaaaaaaaaaaaaaaa`" in text and "`cccccccccccccccc`" in text


def test_a_folder_of_a_comparison_is_a_section_with_its_costs(script: ModuleType, results: Path) -> None:
    folder = results / "rows"
    folder.mkdir()
    (results / "bench.csv").rename(folder / "summary.csv")
    about = json.loads((results / "bench.json").read_text())
    (results / "bench.json").unlink()
    costs = {"lora": {"n_trained": 2_500_000.0, "stored_bytes": 1e7, "train_cpu_seconds": None}}
    (folder / "results.json").write_text(json.dumps({**about, "costs": costs}))
    (results / "by-hand").mkdir()  # without notes: not a result
    (results / "by-hand" / "summary.csv").write_text("method\n")
    text = script.render(results)
    assert "## rows" in text and "| shift | chosen | 50.0 ± 1.0 |" in text
    assert "| lora | 2.500 | 10.00 | - | - | - |" in text
    assert "by-hand" not in text
    (folder / "summary.csv").unlink()
    with pytest.raises(SystemExit, match=r"summary\.csv is missing"):
        script.render(results)


def test_a_result_without_notes_is_refused(script: ModuleType, results: Path) -> None:
    (results / "bench.json").unlink()
    with pytest.raises(SystemExit, match=r"bench\.json is missing"):
        script.render(results)


def test_check_notices_an_old_document(
    script: ModuleType, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.md"
    arguments = ["render", "--results", str(results), "--out", str(out)]
    for extra, code in ((["--check"], 1), ([], 0), (["--check"], 0)):
        monkeypatch.setattr(sys, "argv", [*arguments, *extra])
        assert script.main() == code


def test_a_simulated_regime_is_compared_draw_by_draw(script: ModuleType, tmp_path: Path) -> None:
    own = tmp_path / "regime"
    own.mkdir()
    (own / "about.md").write_text("## Regime\n")
    tails = {"none": (50, 60), "shift-kernel": (53, 61)}
    lines = [
        f"{seed},0.5,{features},cross_entropy,90,70,{tail},70"
        for features, by_seed in tails.items()
        for seed, tail in enumerate(by_seed)
    ]
    (own / "regime.csv").write_text("seed,coverage,features,probe,head,middle,tail,all\n" + "\n".join(lines))
    text = script.render(tmp_path)
    assert "Coverage 0.5:" in text
    assert "| none | cross_entropy | 90.0 ± 0.0 | 70.0 ± 0.0 | 55.0 ± 7.1 | 70.0 ± 0.0 | - |" in text
    assert (
        "| 57.0 ± 5.7 | 70.0 ± 0.0 | +2.0 [-10.7, +14.7], 2 wins |" in text
    )  # t(.975, 1) = 12.7, sd / sqrt(2) = 1
