"""Results do not depend on the order of the lines of a list, on the folder one stands in, on batch size or threads."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.cli.main import main
from deblora.data.readers.lists import read_folder
from deblora.models.backbone import Backbone
from deblora.models.backbones.vision import load
from deblora.run.artifacts import FeatureTable
from deblora.train.extract import extract_features

RESULTS = (
    "audit/samples.csv",
    "audit/groups.json",
    "features/base.safetensors",
    "features/lora.safetensors",
    "features/deblora.safetensors",
    "adapters/lora/adapter_model.safetensors",
    "clusters/clusters.safetensors",
    "eval/scores.csv",
    "eval/choice.json",
)


def test_shuffled_lines_and_another_folder_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_chips(tmp_path / name / "toy")
    values = recipe_values(tmp_path, write_vit(tmp_path / "vit"))
    values["lora"]["max_train_steps"] = 3
    values["evaluate"]["classifiers"] = ["cross_entropy", "balanced_softmax"]
    paths = sorted((tmp_path / "a").rglob("*.png"))
    lines = [f"{path.relative_to(tmp_path / 'a')},{path.parent.name}" for path in paths]
    (tmp_path / "a" / "list.csv").write_text("\n".join(["path,label", *lines]))
    random.Random(1).shuffle(lines)
    (tmp_path / "b" / "list.csv").write_text("\n".join(["path,label", *lines]))
    values["data"]["source"] = str(tmp_path / "a" / "list.csv")
    recipe = write_recipe(tmp_path / "a.yaml", values)
    assert main(["run", str(recipe), "--out", str(tmp_path / "a" / "run")]) == 0
    values["data"]["source"] = "list.csv"
    write_recipe(tmp_path / "b" / "b.yaml", values)
    monkeypatch.chdir(tmp_path / "b")
    assert main(["run", "b.yaml", "--out", "run"]) == 0
    for name in RESULTS:
        assert (tmp_path / "a/run" / name).read_bytes() == (tmp_path / "b/run" / name).read_bytes(), name


def features(model: Backbone, toy: Path, *, batch_size: int) -> np.ndarray:
    chips = read_folder(toy)
    return extract_features(model, chips.pixels, chips.ids, batch_size=batch_size, title=None)


def test_features_do_not_depend_on_batch_size_or_threads(tmp_path: Path) -> None:
    toy = write_chips(tmp_path / "toy")
    model = load(write_vit(tmp_path / "vit", hidden_size=64, intermediate_size=256), name="huggingface")
    whole = features(model, toy, batch_size=64)
    size = np.linalg.norm(whole, axis=1).max()
    threads = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            for batch_size in (1, 7, 68):
                found = features(model, toy, batch_size=batch_size)
                assert np.abs(found - whole).max() <= 2e-6 * size, (n_threads, batch_size)
    finally:
        torch.set_num_threads(threads)


def test_tables_are_matched_by_id(tmp_path: Path) -> None:
    table = FeatureTable(("b", "a"), np.arange(4, dtype=np.float32).reshape(2, 2), {})
    table.save(tmp_path / "t.safetensors")
    assert FeatureTable.load(tmp_path / "t.safetensors").rows(("a", "b")).tolist() == [[2, 3], [0, 1]]
