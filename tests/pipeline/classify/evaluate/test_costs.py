"""What rows cost: counts by hand, times and memory from the records."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deblora.errors import ArtifactError
from deblora.pipeline.classify.evaluate.costs import COLUMNS, costs_of, write_costs
from deblora.pipeline.classify.train_deblora import fresh_map, save_map
from deblora.recipe.classify import Recipe
from deblora.run.parallel import measured
from deblora.run.run_dir import RunDir

USED = {"cpu_seconds": 3.0, "peak_bytes": 10**9}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run", resume=False, overwrite=False)
    run.groups.parent.mkdir(parents=True)
    run.groups.write_text(json.dumps({"counts": {"train": [5, 2]}}))
    run.adapter("lora").mkdir(parents=True)
    weights = {"a.lora_A.weight": np.zeros((2, 3)), "a.vera_A": np.zeros((7, 7))}
    save_file(weights, run.adapter("lora") / "adapter_model.safetensors")
    run.finish("extract-base", "k", [], 1.0, **USED)
    run.finish("train-lora", "k", [], 8.0, **USED)
    run.finish("extract-lora", "k", [], 2.0, **USED)
    return run


def test_lines_add_up_what_stages_used(run: RunDir) -> None:
    for name, peak in (("cluster", 1), ("center", 2), ("calibrate", 3), ("train-deblora", 4 * 10**9)):
        run.finish(name, "k", [], 1.0, cpu_seconds=0.5, peak_bytes=peak)
    run.finish("extract-deblora", "k", [], 5.0)  # as an earlier version recorded it
    folder = run.row("reslt")
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 100)
    (folder / "head.safetensors").write_bytes(b"x" * 11)
    (folder / "training.json").write_text(json.dumps({"n_trained": 33, "n_chips": 7, "n_steps": 2}))
    run.finish("train-row-reslt", "k", [], 9.0, **USED)
    run.finish("extract-row-reslt", "k", [], 1.5, **USED)
    lines = {line["method"]: line for line in costs_of(run, Recipe())}
    assert list(lines) == ["zero-shot", "lora", "deblora", "reslt"]
    assert lines["zero-shot"]["n_trained"] == lines["zero-shot"]["train_seconds"] == 0
    assert lines["lora"]["n_trained"] == 6  # matrices that are fixed do not count
    assert lines["lora"]["n_train_chips"] == 7
    assert lines["deblora"]["train_seconds"] == 8 + 2 + 4
    assert lines["deblora"]["train_peak_bytes"] == 4 * 10**9
    assert lines["deblora"]["extract_cpu_seconds"] == ""
    assert (lines["reslt"]["n_trained"], lines["reslt"]["stored_bytes"]) == (33, 111)
    write_costs(run, Recipe())
    with run.evaluation("costs.csv").open(newline="") as file:
        assert tuple(csv.DictReader(file).fieldnames or ()) == COLUMNS


def test_a_second_adapter_on_its_own_is_all_that_is_stored(run: RunDir) -> None:
    run.adapter("deblora").mkdir()
    save_file({"a.lora_A.weight": np.zeros((2, 3))}, run.adapter("deblora") / "adapter_model.safetensors")
    run.finish("extract-deblora", "k", [], 5.0)
    recipe = Recipe()
    fresh = replace(recipe, deblora=replace(recipe.deblora, placement="fresh"))
    stacked, alone = (
        next(line for line in costs_of(run, own) if line["method"] == "deblora") for own in (recipe, fresh)
    )
    assert stacked["n_trained"] == alone["n_trained"] == 12
    assert 0 < int(str(alone["stored_bytes"])) < int(str(stacked["stored_bytes"]))


@pytest.mark.parametrize(("placement", "n_map"), [("residual", 24), ("residual-mlp", 27)])
def test_a_map_counts_with_the_adapter_before_it(run: RunDir, placement: str, n_map: int) -> None:
    recipe = Recipe()
    recipe = replace(recipe, deblora=replace(recipe.deblora, placement=placement, rank=3))  # type: ignore[arg-type]
    save_map(run, fresh_map(recipe, 4))
    run.finish("extract-deblora", "k", [], 5.0)
    lines = {line["method"]: line for line in costs_of(run, recipe)}
    assert lines["deblora"]["n_trained"] == 6 + n_map
    stored = sum(f.stat().st_size for name in ("lora", "deblora") for f in run.adapter(name).iterdir())
    assert lines["deblora"]["stored_bytes"] == stored


def test_damaged_files_are_named(run: RunDir) -> None:
    (run.adapter("lora") / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors is damaged"):
        costs_of(run, Recipe())


def test_work_is_measured() -> None:
    kept: list[bytearray] = []

    def work() -> None:
        kept.append(bytearray(60_000_000))
        sum(i * i for i in range(200_000))

    idle, busy = measured(lambda: None), measured(work)
    assert busy["seconds"] > 0 and busy["cpu_seconds"] >= 0
    assert busy["peak_bytes"] > idle["peak_bytes"] + 40_000_000
    assert set(busy) >= {"seconds", "cpu_seconds", "peak_bytes"}
