"""The recipes of the project: one for every backbone, and the four settings of the paper from chips to report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import published_files as files
import tiny_models as tiny
from builders import write_chips, write_recipe
from conftest import REPOSITORY_ROOT
from data_builders import write_fusrs
from deblora.cli.main import main
from deblora.models.presets import CARDS, PRESETS
from deblora.recipe.classify import Recipe, read_recipe, recipe_from, tables
from deblora.run.run_dir import RunDir

RECIPES = {path.stem: path for path in sorted((REPOSITORY_ROOT / "recipes").glob("*.yaml"))}
BANDS = 10


def ten_bands(root: Path) -> Path:
    """Chips of ten bands in digital numbers."""
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate({"crop": 24, "forest": 12, "river": 8}.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            chip = rng.integers(200, 900, (12, 12, BANDS)) + 150 * np.arange(BANDS) + 900 * number
            np.save(root / name / f"{i}.npy", chip.astype(np.uint16))
    return root


SETTINGS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], int]] = {
    "vit-natural": (write_chips, lambda folder: tiny.write_model("vit", folder), tiny.PX),
    "dinov2-optical": (write_chips, lambda folder: tiny.write_model("dinov2", folder), tiny.PX),
    "satmae-sar": (write_fusrs, files.write_satmae, files.SATMAE_PX),
    "satmae-multispectral": (ten_bands, files.write_satmae, files.SATMAE_PX),
}
WITH_REPORT = "satmae-sar"  # the page costs more than all else and sees nothing of data and model
COMMANDS = (
    "audit",
    "train-lora",
    "extract",
    "cluster",
    "center",
    "calibrate",
    "train-deblora",
    "extract",
    "evaluate",
)
SHORT = {
    "lora.max_train_steps": 2,
    "lora.train_batch_size": 4,
    "cluster.n_clusters": 3,
    "cluster.n_init": 1,
    "calibrate.numerator": 1.0,
    "deblora.max_train_steps": 1,
    "deblora.train_batch_size": 2,
    "evaluate.n_bootstrap": 100,
    "evaluate.classifiers": ["cross_entropy", "balanced_softmax"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_four_settings_of_the_paper_run_from_chips_to_scores(name: str, tmp_path: Path) -> None:
    write_data, write_weights, side = SETTINGS[name]
    write_weights(tmp_path / "weights")
    changed = {
        "data.source": write_data(tmp_path / "data"),
        "backbone.path": tmp_path / "weights",
        "backbone.image_size": side,
        **SHORT,
    }
    values = read_recipe(RECIPES[name])
    for key, value in changed.items():
        table, _, setting = key.partition(".")
        values.setdefault(table, {})[setting] = str(value) if isinstance(value, Path) else value
    out = tmp_path / "run"
    if name == WITH_REPORT:
        recipe = write_recipe(tmp_path / "recipe.yaml", values)
        assert main(["run", str(recipe), "--out", str(out)]) == 0
    else:
        write_recipe(RunDir.create(out, resume=False, overwrite=False).recipe, values)
        for command in COMMANDS:
            assert main([command, str(out)]) == 0, command
    run = RunDir.open(out)
    assert run.evaluation("scores.csv").is_file()
    assert run.report("index.html").is_file() == (name == WITH_REPORT)


def differing(recipe: Recipe) -> dict[str, Any]:
    """Return the settings in which a recipe differs from the defaults."""
    found, default = {}, tables(recipe_from({"data": {"source": "x"}}))
    for table, values in tables(recipe).items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if value != default[table][key]:
                found[f"{table}.{key}"] = value
    return found


def test_the_four_settings_differ_in_a_few_lines() -> None:
    for name in SETTINGS:
        changed = differing(recipe_from(read_recipe(RECIPES[name])))
        assert {key.split(".")[0] for key in changed} <= {"data", "backbone", "lora"}
        assert len(changed) <= 7, changed
        assert "one of the four settings" in RECIPES[name].read_text()


def test_every_backbone_and_every_row_of_the_list_has_a_recipe() -> None:
    recipes = [recipe_from(read_recipe(path)).backbone for path in RECIPES.values()]
    assert {recipe.name for recipe in recipes} == set(PRESETS)
    texts = "\n".join(path.read_text() for path in RECIPES.values())
    for card in CARDS:
        paths = {recipe.path for recipe in recipes if recipe.name == card.preset}
        assert {card.path, card.weights, f"hub:{card.weights}"} & paths or (
            card.path and card.path in texts
        ), card.weights
