"""Two processes, started as a user starts them, end where one process ends; what goes wrong in one ends both."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders import recipe_values, write_chips, write_recipe
from conftest import REPOSITORY_ROOT
from deblora.cli.main import main
from deblora.run.artifacts import Clusters, FeatureTable

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
N_CHIPS = 68


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``deblora`` in two processes."""
    return subprocess.run(
        [*LAUNCHER, "-m", "deblora", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY_ROOT / "src")},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same recipe in one process and, with features in shards, in two."""
    root = tmp_path_factory.mktemp("two")
    values = recipe_values(write_chips(root / "toy"), root)
    values["backbone"] = {"name": "embedded", "image_size": 32}
    values["lora"] = {
        "rank": 2,
        "max_train_steps": 6,
        "train_batch_size": 5,  # not a multiple of two
        "loss": "balanced_softmax",
        "checkpointing_steps": 3,
    }
    values["deblora"] = {"max_train_steps": 9, "train_batch_size": 5, "anchor": 0.25}  # weights differ
    values["extract"] = {"batch_size": 8}
    recipe = str(write_recipe(root / "recipe.yaml", values))
    assert main(["run", recipe, "--out", str(root / "one")]) == 0
    done = launch("run", recipe, "--out", str(root / "two"), "--extract.shard_rows", "30")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1  # one process speaks
    return root / "one", root / "two"


def test_two_processes_end_where_one_does(runs: tuple[Path, Path]) -> None:
    one, two = runs
    assert "2 processes share training and extraction" in (two / "run.log").read_text()
    assert "processes share" not in (one / "run.log").read_text()
    for adapter in ("lora", "deblora"):
        file = f"adapters/{adapter}/adapter_model.safetensors"
        expected, found = load_file(one / file), load_file(two / file)
        assert expected.keys() == found.keys()
        assert max(float(np.abs(expected[key]).max()) for key in expected if "lora_B" in key) > 1e-4
        for key, weights in expected.items():
            np.testing.assert_allclose(found[key], weights, rtol=0, atol=2e-5)
        losses = [
            np.loadtxt(run / f"adapters/{adapter}.history.csv", delimiter=",", skiprows=1) for run in runs
        ]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-6)
    expected, found = (Clusters.load(run / "clusters/clusters.safetensors") for run in runs)
    assert found.ids == expected.ids
    assert np.array_equal(found.assignments, expected.assignments)
    np.testing.assert_allclose(found.centers, expected.centers, rtol=0, atol=1e-4)


def test_two_processes_extract_in_order_and_in_shards(runs: tuple[Path, Path]) -> None:
    one, two = runs
    for adapter in ("base", "lora", "deblora"):
        expected = FeatureTable.load(one / f"features/{adapter}.safetensors")
        found = FeatureTable.load(two / f"features/{adapter}.index.json")
        assert found.ids == expected.ids and len(found.ids) == N_CHIPS
        assert found.provenance == expected.provenance
        np.testing.assert_allclose(np.asarray(found.features), expected.features, rtol=0, atol=1e-4)
        shards = sorted(path.name for path in (two / "features").glob(f"{adapter}-*"))
        assert shards == [f"{adapter}-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        assert len(FeatureTable.load(two / "features" / shards[2]).ids) == N_CHIPS - 60


def test_what_two_processes_left_one_goes_on_with(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A lost shard is noticed and made again, here as one file; what is whole is left alone."""
    run = Path(shutil.copytree(runs[1], tmp_path / "run"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("shard_rows: 30", "shard_rows: null"))
    (run / "features" / "base-00002-of-00003.safetensors").unlink()
    before = len((run / "run.log").read_text())
    assert main(["extract", str(run)]) == 0
    log = (run / "run.log").read_text()[before:]
    assert "extract-base: done" in log and "extract-lora: unchanged" in log
    assert sorted(path.name for path in (run / "features").glob("base*")) == ["base.safetensors"]
    features = load_file(run / "features" / "base.safetensors")["features"]
    assert np.array_equal(features, load_file(runs[0] / "features" / "base.safetensors")["features"])


def test_two_processes_end_with_one_message(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Only the second process meets the damaged chip; the first one waits for its features."""
    run = Path(shutil.copytree(runs[1], tmp_path / "run"))
    toy = Path(shutil.copytree(runs[0].parent / "toy", tmp_path / "toy"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(runs[0].parent / "toy"), str(toy)))
    with (run / "audit" / "samples.csv").open(newline="") as file:
        chip = toy / [row["id"] for row in csv.DictReader(file)][28]
    chip.write_bytes(chip.read_bytes()[:60])
    (run / "features" / "base-00001-of-00003.safetensors").unlink()
    done = launch("extract", str(run))
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("deblora: ")]
    assert len(messages) == 1 and chip.name in messages[0]
    assert "exitcode  : 2" in done.stderr and "rank      : 1" in done.stderr
    assert "deblora/cli.py" not in done.stderr  # no traceback of ours
