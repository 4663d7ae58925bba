"""Labels and names of validation and test chips change nothing in adapters and features, whatever is minimized."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tiny_models as tiny
from builders import draw, recipe_values, write_recipe
from deblora.cli.main import main
from deblora.pipeline.compare.baselines import row_stages
from deblora.recipe.classify import recipe_from
from deblora.recipe.engine import read_recipe
from deblora.run.artifacts import FeatureTable
from deblora.run.run_dir import RunDir
from deblora.run.stage import run_stage
from generative_builders import write_clip, write_stable_diffusion

CLASSES = ("checks", "rows", "slope")
COUNTS = {"train": (8, 6, 4), "val": (3, 3, 3), "test": (3, 3, 3)}
LOSSES = ("cross_entropy", "balanced_softmax", "mae", "denoise", "contrast")
WITHOUT_LABELS = ("mae", "denoise")

Chips = dict[str, tuple[str, int, np.ndarray]]


@pytest.fixture(scope="module")
def chips() -> Chips:
    """Split, label and pixels by a name that says nothing."""
    rng = np.random.default_rng(0)
    found: Chips = {}
    for split, counts in COUNTS.items():
        for label, count in enumerate(counts):
            for _ in range(count):
                found[f"{len(found):03d}"] = (split, label, draw(CLASSES[label], rng))
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("models")
    vit = {"name": "vit-mae", "path": str(tiny.write_model("vit-mae", root / "vit")), "image_size": tiny.PX}
    sd = {"name": "stable-diffusion", "path": str(write_stable_diffusion(root / "sd")), "draws": 1}
    clip = {"name": "clip", "path": str(write_clip(root / "clip")), "pool": "cls"}
    return {**dict.fromkeys(LOSSES, vit), "denoise": sd, "contrast": clip}


def labels_of(chips: Chips, *, wrong: tuple[str, ...]) -> dict[str, int]:
    """Return the labels, those of some splits permuted within the split so that many are wrong."""
    labels = {name: label for name, (_, label, _) in chips.items()}
    for number, split in enumerate(wrong):
        names = [name for name, (own, _, _) in chips.items() if own == split]
        values = np.random.default_rng(number).permutation([labels[name] for name in names])
        assert np.mean(values != [labels[name] for name in names]) > 0.3
        labels |= {name: int(value) for name, value in zip(names, values, strict=True)}
    return labels


def write_list(folder: Path, chips: Chips, labels: dict[str, int]) -> Path:
    folder.mkdir(parents=True)
    rows = [("path", "label", "split")]
    for name, (split, _, pixels) in chips.items():
        np.save(folder / f"{name}.npy", pixels)
        rows.append((f"{name}.npy", CLASSES[labels[name]], split))
    with (folder / "chips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "chips.csv"


def write_folders(folder: Path, chips: Chips, labels: dict[str, int], *, renamed: bool) -> dict[str, str]:
    """Write ``<split>/<class>/<name>`` and return the id of every chip; renaming reverses the order of the names."""
    ids = {}
    for name, (split, _, pixels) in chips.items():
        own = f"{999 - int(name):03d}" if renamed and split != "train" else name
        path = folder / split / CLASSES[labels[name]] / f"{own}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, pixels)
        ids[name] = path.relative_to(folder).as_posix()
    return ids


def extracted(source: Path, backbone: dict[str, Any], loss: str, out: Path) -> RunDir:
    """Run audit, first adapter and extraction, with bands normalized by the training chips where that can be."""
    values = recipe_values(source, Path())
    values["backbone"] = {**backbone, "normalize": "model" if loss == "denoise" else "train"}
    values["lora"] = {"rank": 2, "max_train_steps": 3, "train_batch_size": 4, "loss": loss}
    run = RunDir.create(out, resume=False, overwrite=False)
    write_recipe(run.recipe, values)
    for command in ("audit", "train-lora", "extract"):
        assert main([command, str(out)]) == 0
    return run


def adapter(run: RunDir) -> dict[str, np.ndarray]:
    return dict(load_file(run.adapter("lora") / "adapter_model.safetensors"))


def same_adapter(one: RunDir, other: RunDir) -> bool:
    first, second = adapter(one), adapter(other)
    seen = [json.loads((run.adapter("lora") / "base.json").read_text())["mean"] for run in (one, other)]
    return seen[0] == seen[1] and all(np.array_equal(first[key], second[key]) for key in first | second)


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_that_must_not_be_seen_reach_nothing(
    loss: str, chips: Chips, models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    unseen = ("val", "test", *(("train",) if loss in WITHOUT_LABELS else ()))
    runs = []
    for name, wrong in {"right": (), "wrong": unseen}.items():
        source = write_list(tmp_path / name / "data", chips, labels_of(chips, wrong=wrong))
        runs.append(extracted(source, models[loss], loss, tmp_path / name / "run"))
    assert same_adapter(*runs)
    for kind in ("base", "lora"):
        one, other = (FeatureTable.load(run.features(kind)) for run in runs)
        assert one.ids == other.ids
        np.testing.assert_array_equal(one.features[:], other.features[:])


def test_soft_labels_are_made_without_the_labels_of_validation(
    chips: Chips, models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """By folders, whose names are classes, so that ids and the order of the chips change with the labels."""
    found = []
    for name, wrong in {"right": (), "wrong": ("val", "test")}.items():
        source, root = tmp_path / name / "data", tmp_path / name / "run"
        ids = write_folders(source, chips, labels_of(chips, wrong=wrong), renamed=False)
        run = extracted(source, models["cross_entropy"], "cross_entropy", root)
        recipe = recipe_from(read_recipe(run.recipe))
        for stage in row_stages(["self-trained"]):
            run_stage(stage, run, recipe)
        folder = run.row("self-trained")
        wanted = tuple(ids[key] for key, (split, _, _) in chips.items() if split == "val")
        soft = FeatureTable.load(folder / "soft_labels.safetensors").rows(wanted)
        found.append((soft, load_file(folder / "adapter" / "adapter_model.safetensors")))
    (one, first), (other, second) = found
    np.testing.assert_array_equal(one, other)
    assert all(np.array_equal(first[key], second[key]) for key in first | second)


def test_folders_and_names_of_validation_and_test_reach_nothing(
    chips: Chips, models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    found = []
    for name, wrong in {"right": (), "wrong": ("val", "test")}.items():
        data = tmp_path / name / "data"
        ids = write_folders(data, chips, labels_of(chips, wrong=wrong), renamed=bool(wrong))
        found.append(
            (ids, extracted(data, models["cross_entropy"], "cross_entropy", tmp_path / name / "run"))
        )
    (first, one), (second, other) = found
    assert same_adapter(one, other)
    for kind in ("base", "lora"):
        tables = [FeatureTable.load(run.features(kind)) for _, run in found]
        rows = [
            table.rows(tuple(ids[name] for name in chips))
            for table, ids in zip(tables, (first, second), strict=True)
        ]
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)  # batches hold other chips


def test_training_labels_do_reach_the_adapter_where_they_are_meant_to(
    chips: Chips, models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    runs = []
    for name, wrong in {"right": (), "wrong": ("train",)}.items():
        source = write_list(tmp_path / name / "data", chips, labels_of(chips, wrong=wrong))
        runs.append(extracted(source, models["cross_entropy"], "cross_entropy", tmp_path / name / "run"))
    assert not same_adapter(*runs)
