"""Merging run folders that hold only what the merge may read, with scores that are known by construction."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml

from deblora.cli.main import main
from deblora.errors import ArtifactError
from deblora.files import file_sha256
from deblora.pipeline.compare.merge import merge_runs
from deblora.recipe.classify import recipe_from, to_yaml

CLASSES = ["ship", "plane", "tank"]
GROUPS = ("head", "middle", "tail", "all")
BASELINES = (("lora", "cross_entropy"), ("lora", "balanced_softmax"))
METHODS = (*BASELINES, ("deblora", "cross_entropy"), ("deblora", "balanced_softmax"))
Write = Callable[..., Path]


def value_of(method: str, probe: str, group: str, seed: int) -> float:
    """Return a score whose gain of deblora over lora is 0.1, 0.12, 0.08 on the tail and varies in sign overall."""
    base = {"head": 0.8, "middle": 0.6, "tail": 0.2, "all": 0.5}[group] + 0.05 * seed
    base += 0.05 if probe == "balanced_softmax" else 0.0
    if method == "deblora":
        base += {"tail": (0.1, 0.12, 0.08), "all": (0.1, -0.1, 0.02)}.get(group, (-0.05, -0.06, -0.04))[
            seed % 3
        ]
    return base


def csv_text(rows: list[dict[str, Any]]) -> str:
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    return "\n".join(lines) + "\n"


def write_run(root: Path, *, seed: int, dataset: str = "aid", **settings: Any) -> Path:
    values = {
        "seed": seed,
        "data": {"source": f"/somewhere/{dataset}"},
        "backbone": {"name": "embedded"},
        "lora": {"rank": 8},
    }
    for key, value in settings.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    (root / "eval").mkdir(parents=True)
    (root / "audit").mkdir()
    (root / "recipe.yaml").write_text(to_yaml(recipe_from(values)))
    frozen = {
        "class_names": CLASSES,
        "groups": {"head": [0], "middle": [1], "tail": [2]},
        "rule": "thirds",
        "counts": {"train": [90, 30, 3], "val": [5, 5, 5], "test": [2, 2, 2]},
        "data_sha256": f"{seed:064x}",
    }
    (root / "audit" / "groups.json").write_text(json.dumps(frozen))
    results = [
        {
            "dataset": dataset,
            "backbone": "embedded",
            "method": method,
            "classifier": probe,
            "metric": "macro_f1",
            "group": group,
            "value": value_of(method, probe, group, seed),
            "standard_error": 0.02,
            "ci_lower": 0.0,
            "ci_upper": 1.0,
            "n_classes": 3,
            "n_test": 6,
            "test_set": f"drawn with seed {seed}",
            "split": "test",
            "n_trials": 8,
            "seed": seed,
        }
        for method, probe in METHODS
        for group in GROUPS
    ]
    differences = []
    for method, probe in METHODS:
        for baseline in BASELINES:
            for group in GROUPS if (method, probe) != baseline else ():
                gain = value_of(method, probe, group, seed) - value_of(*baseline, group, seed)
                ends = {
                    "value": gain,
                    "standard_error": 0.03,
                    "ci_lower": gain - 0.07,
                    "ci_upper": gain + 0.07,
                }
                names = {"baseline": baseline[0], "baseline_classifier": baseline[1], "group": group}
                differences.append({"method": method, "classifier": probe, **names, **ends})
    predictions = [
        {"id": f"{name}/{i}", "true": name, "method": method, "classifier": probe, "predicted": "ship"}
        for method, probe in METHODS
        for name in CLASSES
        for i in range(2)
    ]
    choices = [
        {"method": method, "classifier": probe, "choice": "l2", "value": 0.1 * (1 + seed)}
        for method, probe in METHODS
    ]
    tables = {"scores": results, "differences": differences, "predictions": predictions, "choices": choices}
    for name, rows in tables.items():
        (root / "eval" / f"{name}.csv").write_text(csv_text(rows))
    record(root)
    return root


def record(root: Path) -> None:
    """Note the files as finished by their stages."""
    stages = {
        "audit": ["audit/groups.json"],
        "scores": [f"eval/{name}.csv" for name in ("scores", "differences", "predictions", "choices")],
    }
    manifest = {
        stage: {"fingerprint": "f", "seconds": 1.0, "outputs": {n: file_sha256(root / n) for n in names}}
        for stage, names in stages.items()
    }
    (root / "run.json").write_text(json.dumps({"stages": manifest}))


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time and has its own tests."""
    monkeypatch.setattr("deblora.report.figures.draw", lambda *_, **__: None)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "runs" / f"seed{seed}", seed=seed) for seed in range(3)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_the_summary_holds_the_spread_over_seeds(three: list[Path], tmp_path: Path) -> None:
    merge_runs(three, tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "summary.csv")
    assert len(rows) == len(METHODS) * len(GROUPS)
    row = one(rows, method="deblora", classifier="cross_entropy", group="tail")
    x = np.array([value_of("deblora", "cross_entropy", "tail", seed) for seed in range(3)])
    assert (row["dataset"], row["backbone"], row["metric"], row["n_seeds"]) == (
        "aid",
        "embedded",
        "macro_f1",
        "3",
    )
    low, high = scipy.stats.t.interval(0.95, 2, loc=x.mean(), scale=scipy.stats.sem(x))
    for key, value in {"mean": x.mean(), "sd": x.std(ddof=1), "ci_lower": low, "ci_upper": high}.items():
        assert float(row[key]) == pytest.approx(value)


def test_the_summary_holds_paired_differences_and_wins(three: list[Path], tmp_path: Path) -> None:
    merge_runs(three, tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "summary.csv")
    row = one(rows, method="deblora", classifier="cross_entropy", group="tail")
    d = np.array([0.1, 0.12, 0.08])
    low, high = scipy.stats.t.interval(0.95, 2, loc=d.mean(), scale=scipy.stats.sem(d))
    found = {
        key.removeprefix("minus_lora_cross_entropy_"): float(value)
        for key, value in row.items()
        if key.startswith("minus_lora_cross_entropy_")
    }
    assert found == pytest.approx(
        {"mean": 0.1, "sd": 0.02, "ci_lower": low, "ci_upper": high, "n_wins": 3, "n_ties": 0, "n": 3}
    )
    overall = one(rows, method="deblora", classifier="cross_entropy", group="all")
    assert (overall["minus_lora_cross_entropy_n_wins"], overall["minus_lora_cross_entropy_n"]) == ("2", "3")
    baseline = one(rows, method="lora", classifier="cross_entropy", group="tail")
    assert baseline["minus_lora_cross_entropy_mean"] == "" and baseline["minus_lora_cross_entropy_n"] == "0"


def test_the_results_are_all_rows_one_below_the_other(three: list[Path], tmp_path: Path) -> None:
    merge_runs(three, tmp_path / "out")
    apart = [row for run in three for row in rows_of(run / "eval" / "scores.csv")]
    together = rows_of(tmp_path / "out" / "results.csv")
    assert [float(row["value"]) for row in together] == [float(row["value"]) for row in apart]
    assert [row["classifier"] for row in together] == [row["classifier"] for row in apart]


def test_the_report_says_gains_losses_and_what_stays_open(three: list[Path], tmp_path: Path) -> None:
    page = merge_runs(three, tmp_path / "out").read_text()
    text = (tmp_path / "out" / "report.md").read_text().replace("\\", "")
    for shown in (text, page):
        assert "On the tail classes, deblora · balanced_softmax scores highest" in shown
        assert "10.0 points above lora · balanced_softmax (higher in 3 of 3 seeds), and the" in shown
        assert "It is 0.7 points above lora · balanced_softmax (higher in 2 of 3 seeds), but" in shown
        assert "the seeds cannot tell them apart" in shown
        assert "Losses whose interval excludes zero: deblora" in shown
    # Each run alone sees the tail gain of about 0.1 beyond its 0.07.
    assert re.search(
        r"deblora · cross_entropy \| lora · cross_entropy \| tail \| higher \| 3 of 3 \| 3 higher", text
    )


def test_no_path_of_this_machine_is_shown(three: list[Path], tmp_path: Path) -> None:
    merge_runs(three, tmp_path / "out")
    for name in ("index.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in text and "/somewhere" not in text
        assert "seed2" in text and f"{2:016x}"[:8] in text


def test_one_seed_has_no_spread(three: list[Path], tmp_path: Path) -> None:
    page = merge_runs(three[:1], tmp_path / "out").read_text()
    assert "One seed: no spread can be given" in page
    row = one(
        rows_of(tmp_path / "out" / "summary.csv"), method="deblora", classifier="cross_entropy", group="tail"
    )
    assert (row["n_seeds"], row["sd"], row["ci_lower"]) == ("1", "", "")


def test_data_sets_stand_side_by_side(three: list[Path], tmp_path: Path) -> None:
    other = [write_run(tmp_path / "mstar" / f"seed{seed}", seed=seed, dataset="mstar") for seed in (1, 0)]
    text = merge_runs([*three, *other], tmp_path / "out").with_name("report.md").read_text()
    rows = rows_of(tmp_path / "out" / "summary.csv")
    assert {(row["dataset"], row["n_seeds"]) for row in rows} == {("aid", "3"), ("mstar", "2")}
    assert "## Over all runs" in text and re.search(r"tail \| higher \| 5 of 5 \|", text)
    assert "mstar/seed1" in text  # the folder name alone is not unique


def test_the_command_names_the_page(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *map(str, three), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'out' / 'index.html'}\n"
    assert main(["merge", str(three[0]), str(three[0]), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("deblora: ")


def test_merging_again_replaces_the_report(three: list[Path], tmp_path: Path) -> None:
    merge_runs(three, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    merge_runs(three, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert sorted(first) == ["index.html", "report.md", "results.csv", "results.json", "summary.csv"]


def test_the_order_of_the_runs_does_not_matter(three: list[Path], tmp_path: Path) -> None:
    merge_runs(three, tmp_path / "out")
    merge_runs(three[::-1], tmp_path / "back")
    for name in ("index.html", "report.md", "summary.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


def test_chips_inside_the_run_folder_are_no_other_source(tmp_path: Path) -> None:
    """Runs of the demo simulate their chips into their own folder."""
    runs = []
    for seed in (0, 1):
        root = tmp_path / f"demo{seed}"
        runs.append(write_run(root, seed=seed, dataset="chips", data={"source": str(root / "chips")}))
    merge_runs(runs, tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text()


def test_differing_settings_are_all_named(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", seed=0),
        write_run(tmp_path / "b", seed=1, lora={"rank": 16, "alpha": 4.0}),
        write_run(tmp_path / "c", seed=2),
    ]
    with pytest.raises(ArtifactError) as caught:
        merge_runs(runs, tmp_path / "out")
    message = str(caught.value)
    assert "lora.rank: 8 in a and c, 16 in b" in message
    assert "lora.alpha: null in a and c, 4.0 in b" in message
    assert "seed:" not in message
    assert not (tmp_path / "out").exists()


def test_the_same_seed_twice_is_refused(three: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(three[0], tmp_path / "copy"))
    with pytest.raises(ArtifactError, match="are the same run .aid on embedded, seed 0.; a seed counts once"):
        merge_runs([*three, copy], tmp_path / "out")
    with pytest.raises(ArtifactError, match="are the same run"):
        merge_runs([three[0], three[0]], tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_names", ["ship", "plane", "truck"], "other classes .the class tank is in one only"),
        ("counts", {"train": [91, 30, 3], "val": [5, 5, 5], "test": [2, 2, 2]}, "other numbers of chips"),
    ],
)
def test_other_data_under_the_same_name_are_refused(
    three: list[Path], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = three[1] / "audit" / "groups.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    record(three[1])
    with pytest.raises(ArtifactError, match=message):
        merge_runs(three, tmp_path / "out")


@pytest.mark.parametrize("same", [True, False])
def test_groups_that_the_seed_draws_are_said(three: list[Path], tmp_path: Path, same: bool) -> None:
    if not same:
        path = three[1] / "audit" / "groups.json"
        groups = {"head": [2], "middle": [1], "tail": [0]}
        path.write_text(json.dumps({**json.loads(path.read_text()), "groups": groups}))
        record(three[1])
    page = merge_runs(three, tmp_path / "out").read_text()
    assert ("head, middle and tail are the same classes in every seed" in page) == same
    assert ("other classes in each seed" in page) != same


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("eval/scores.csv", "deblora evaluate "),
        ("eval/differences.csv", "deblora evaluate "),
        ("eval/predictions.csv", "deblora evaluate "),
        ("audit/groups.json", "deblora audit "),
        ("recipe.yaml", "deblora run RECIPE --out "),
    ],
)
@pytest.mark.parametrize("harm", ["missing", "half", "binary", "empty"])
def test_a_missing_or_damaged_file_is_named_with_the_command_that_makes_it(
    three: list[Path], tmp_path: Path, name: str, command: str, harm: str
) -> None:
    path = three[1] / name
    if harm == "missing":
        path.unlink()
    else:
        half = path.read_bytes()[: path.stat().st_size // 2 + 3]
        path.write_bytes({"half": half + b"\n[", "binary": b"\xff\xfe\x00\x93", "empty": b""}[harm])
        record(three[1])  # the content itself must be judged, not only its hash
    with pytest.raises(ArtifactError) as caught:
        merge_runs(three, tmp_path / "out")
    message = str(caught.value)
    assert str(path) in message and f"{command}{three[1]}" in message
    assert ("is missing" if harm == "missing" else "is damaged") in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ci_upper", "upper", "the column ci_upper is missing"),
        (str(value_of("lora", "cross_entropy", "tail", 1)), "high", "value is 'high', not a number"),
        (str(value_of("lora", "cross_entropy", "tail", 1)), "3.5", "value is 3.5, a score lies in 0..1"),
        ("cross_entropy,macro_f1,tail", "cross_entropy,macro_f1,head", "stands twice"),
        ("aid,embedded,lora,cross_entropy,macro_f1,tail", "tail", "another number of columns"),
    ],
)
def test_scores_that_cannot_be_are_refused(
    three: list[Path], tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = three[1] / "eval" / "scores.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    record(three[1])
    with pytest.raises(ArtifactError, match=message):
        merge_runs(three, tmp_path / "out")


def test_a_file_changed_after_its_stage_is_refused(three: list[Path], tmp_path: Path) -> None:
    path = three[2] / "eval" / "scores.csv"
    path.write_text(path.read_text().replace("0.", "0.9", 1))
    with pytest.raises(ArtifactError, match="it is not what scores wrote"):
        merge_runs(three, tmp_path / "out")


def test_predictions_must_cover_the_test_chips(three: list[Path], tmp_path: Path) -> None:
    path = three[0] / "eval" / "predictions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    record(three[0])
    with pytest.raises(ArtifactError, match="deblora with balanced_softmax does not cover the 6 test chips"):
        merge_runs(three, tmp_path / "out")


def test_a_recipe_of_another_run_is_refused(three: list[Path], tmp_path: Path) -> None:
    values = yaml.safe_load((three[0] / "recipe.yaml").read_text())
    (three[0] / "recipe.yaml").write_text(yaml.safe_dump({**values, "seed": 7}))
    with pytest.raises(ArtifactError, match="does not belong to"):
        merge_runs(three, tmp_path / "out")


def test_a_run_without_a_finished_probe_is_refused(three: list[Path], tmp_path: Path) -> None:
    manifest = json.loads((three[1] / "run.json").read_text())
    del manifest["stages"]["scores"]
    (three[1] / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=f"the evaluation of {three[1]} is not finished.*--resume"):
        merge_runs(three, tmp_path / "out")


def test_what_is_no_run_or_no_free_folder_is_refused(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a run folder"):
        merge_runs([tmp_path], tmp_path / "out")
    with pytest.raises(ArtifactError, match="no run was given"):
        merge_runs([], tmp_path / "out")
    with pytest.raises(ArtifactError, match="no part of a merged report; choose another folder"):
        merge_runs(three, three[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is a file"):
        merge_runs(three, tmp_path / "file")
