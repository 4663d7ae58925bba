"""A recipe of two steps, and few classifiers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import deblora.pipeline.classify.evaluate.heads as heads
from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.evaluate.heads.trials import PRIOR_CLASSIFIERS


@pytest.fixture(scope="module")
def cheap() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)
        yield patch


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    values = recipe_values(write_chips(root / "toy"), write_vit(root / "vit"))
    values["lora"]["max_train_steps"] = 2
    return write_recipe(root / "recipe.yaml", values)
