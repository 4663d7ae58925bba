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
ABOUT = {"deblora": "1.0", "machine": "x, 2 cores"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = REPOSITORY_ROOT / "scripts" / "render_results.py"
    spec = importlib.util.spec_from_file_location("render_results", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "results.json").write_text(json.dumps({**ABOUT, **about}))


def score(method: str, classifier: str, mean: float, gain: float | str) -> list[dict[str, Any]]:
    known = gain != ""
    paired = {
        "minus_strong_mean": gain,
        "minus_strong_ci_lower": gain - 0.021 if known else "",  # type: ignore[operator]
        "minus_strong_ci_upper": gain + 0.021 if known else "",  # type: ignore[operator]
        "minus_strong_n_wins": 2 if known else 0,
        "minus_strong_n_ties": 0,
        "minus_strong_n": 2 if known else 0,
    }
    names = {
        "dataset": "toy",
        "backbone": "vit",
        "method": method,
        "classifier": classifier,
        "metric": "macro_f1",
    }
    own = {"n_seeds": 2, "mean": mean, "sd": 0.01, "ci_lower": mean - 0.09, "ci_upper": mean + 0.09}
    return [{**names, "group": group, **own, **paired} for group in GROUPS]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    hashes = {"0": "a" * 64, "1": "b" * 64}
    study = {"dataset": "toy", "backbone": "vit", "seeds": [0, 1], "data_sha256": hashes}
    chosen = [
        {
            "method": "strong",
            "classifier": "chosen",
            "choice": "chosen",
            "seed 0": "lora sade",
            "seed 1": "lora lift",
        }
    ]
    costs = {"lora": {"n_trained": 2_500_000.0, "stored_bytes": 1e7, "train_cpu_seconds": None}}
    rows = [*score("shift", "balanced_softmax", 0.5, 0.031), *score("strong", "chosen", 0.469, "")]
    write(tmp_path / "1-bench", rows, {"studies": [study], "chosen": chosen, "costs": costs})
    point = {
        "method": "deblora",
        "classifier": "ce",
        "metric": "macro_f1",
        "n_seeds": 2,
        "mean": 0.4,
        "sd": 0.02,
    }
    ends = {
        "ci_lower": 0.3,
        "ci_upper": 0.5,
        "minus_first_mean": "",
        "minus_first_ci_lower": "",
        "minus_first_ci_upper": "",
    }
    rest = {
        "minus_first_n_wins": "",
        "minus_lora_mean": -0.1,
        "minus_lora_ci_lower": -0.2,
        "minus_lora_ci_upper": 0.1,
    }
    lines = [
        {"variant": "k8", **point, "group": group, **ends, **rest, "minus_lora_n_wins": 1} for group in GROUPS
    ]
    about = {"study": "K", "variants": {"k8": {}}, "seeds": [0, 1], "data_sha256": {"k8": {"0": "c" * 64}}}
    write(tmp_path / "2-clusters", lines, about)
    return tmp_path


def test_tables_hold_the_numbers(script: ModuleType, results: Path) -> None:
    text = script.render(results)
    assert "## 1-bench" in text
    assert r"| shift | balanced\_softmax | **50.0 ± 1.0** |" in text
    assert "| +3.1 (+1.0 to +5.2; 2 of 2) |" in text
    assert "Chosen on validation, by seed: strong: lora sade, lora lift." in text
    assert "| lora | 2.500 | 10.00 | - |" in text
    assert "| deblora · ce | k8 | 40.0 ± 2.0 |" in text
    assert "| deblora · ce | k8 | −10.0 (−20.0 to +10.0; 1 higher) |" in text
    assert "`aaaaaaaaaaaaaaaa`" in text and "`cccccccccccccccc`" in text


def test_a_result_without_notes_or_table_is_refused(script: ModuleType, results: Path) -> None:
    (results / "1-bench" / "results.json").unlink()
    with pytest.raises(SystemExit, match=r"results\.json is missing"):
        script.render(results)
    (results / "1-bench" / "summary.csv").rename(results / "1-bench" / "old.csv")
    assert "1-bench" not in script.render(results)  # no result
    (results / "2-clusters" / "summary.csv").unlink()
    with pytest.raises(SystemExit, match=r"summary\.csv is missing"):
        script.render(results)


def test_marked_tables_are_filled_in(
    script: ModuleType, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SHORT", {"toy": ("1-bench", ("strong", "shift balanced_softmax"))})
    text = "before\n\n<!-- table: toy -->\nstale text\n<!-- end -->\n\nafter\n"
    filled = script.fill(text, results)
    assert filled.startswith("before\n\n<!-- table: toy -->\n| Method | Classifier | Head |")
    assert "old" not in filled and filled.endswith("|\n<!-- end -->\n\nafter\n")
    assert filled.index("| strong |") < filled.index("| shift |")
    assert script.fill(filled, results) == filled
    with pytest.raises(SystemExit, match="no table is called other"):
        script.fill(text.replace("toy", "other"), results)
    monkeypatch.setattr(script, "SHORT", {"toy": ("1-bench", ("lora sade",))})
    with pytest.raises(SystemExit, match="the result of table toy has no lora sade"):
        script.fill(text, results)


def test_scores_of_a_single_run_are_shown_with_their_intervals(script: ModuleType, tmp_path: Path) -> None:
    own = tmp_path / "demo"
    own.mkdir()
    header = "dataset,backbone,method,classifier,metric,group,value,ci_lower,ci_upper\n"
    (own / "scores.csv").write_text(
        header + "".join(f"d,b,lora,sade,macro_f1,{g},0.5,0.4,0.6\n" for g in GROUPS)
    )
    assert "| lora | sade | **50.0 (40.0 to 60.0)** |" in script.render(tmp_path)


def test_check_notices_an_old_document(
    script: ModuleType, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, readme = tmp_path / "results.md", tmp_path / "README.md"
    readme.write_text("<!-- table: toy -->\n<!-- end -->\n")
    monkeypatch.setattr(script, "SHORT", {"toy": ("1-bench", ("strong",))})
    arguments = ["render", "--results", str(results), "--out", str(out), "--readme", str(readme)]
    for extra, code in ((["--check"], 1), ([], 0), (["--check"], 0)):
        monkeypatch.setattr(sys, "argv", [*arguments, *extra])
        assert script.main() == code
    readme.write_text(readme.read_text().replace("46.9", "99.9"))
    assert script.main() == 1


def test_a_simulated_regime_is_compared_draw_by_draw(script: ModuleType, tmp_path: Path) -> None:
    own = tmp_path / "regime"
    own.mkdir()
    (own / "about.md").write_text("## Regime\n")
    tails = {"none": (50, 60), "shift": (53, 61)}
    lines = [
        f"{seed},0.5,{features},cross_entropy,90,70,{tail},70"
        for features, by_seed in tails.items()
        for seed, tail in enumerate(by_seed)
    ]
    header = "seed,coverage,features,classifier,head,middle,tail,all\n"
    (own / "regime.csv").write_text(header + "\n".join(lines))
    text = script.render(tmp_path)
    assert "Coverage 0.5:" in text
    assert r"| none | cross\_entropy | 90.0 ± 0.0 | 70.0 ± 0.0 | 55.0 ± 7.1 | 70.0 ± 0.0 | - |" in text
    # t(.975, 1) = 12.7, sd / sqrt(2) = 1
    assert "| 57.0 ± 5.7 | 70.0 ± 0.0 | +2.0 (−10.7 to +14.7; 2 higher) |" in text


def test_the_default_on_folders_is_a_table_with_what_is_simple_beside_it(
    script: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "0-own-folder"
    folder.mkdir()
    lines = ["folder,n_labels,n_classes,chosen,image_size,views,method,group,value"]
    for method, tail, every in (("zero-shot", 0.4, 0.6), ("lora", 0.5, 0.7), ("shipped", 0.45, 0.65)):
        lines += [f"mine,90,3,lora,112,4,{method},{g},{v}" for g, v in (("tail", tail), ("all", every))]
    (folder / "folders.csv").write_text("\n".join(lines) + "\n")
    text = script.fill("<!-- table: folders -->\nstale text\n<!-- end -->", tmp_path)
    assert "| mine | 90 | 3 | 112 px, 4 | lora | 40.0 / 60.0 | **50.0 / 70.0** | 45.0 / 65.0 |" in text
    assert "45.0 / 65.0" in script.render(tmp_path) and "stale text" not in text
