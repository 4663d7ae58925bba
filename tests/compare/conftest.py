"""A long-tailed toy problem on random features, and the state that a run leaves in the process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import deblora.pipeline.classify.evaluate.heads as heads
from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.data.longtail import Groups
from deblora.evaluate.heads.search import Samples
from deblora.evaluate.heads.trials import moved_heads

COUNTS = (40, 20, 10, 6, 3, 2)
GROUPS = Groups((0, 1), (2, 3), (4, 5))


def draw(
    rng: np.random.Generator, counts: tuple[int, ...], means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(counts)), counts)
    features = means[labels] + rng.normal(size=(len(labels), means.shape[1]))
    return features + 1.0, labels


@pytest.fixture
def samples(rng: np.random.Generator) -> Samples:
    """More dimensions than training samples."""
    means = 0.5 * rng.normal(size=(len(COUNTS), 120))
    x, y = draw(rng, COUNTS, means)
    x_val, y_val = draw(rng, (8,) * len(COUNTS), means)
    return Samples(x, y, x_val, y_val, len(COUNTS), GROUPS, x, 0)


@pytest.fixture(scope="module")
def cheap() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "every_head", moved_heads)
        yield patch


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    values = recipe_values(write_chips(root / "toy"), write_vit(root / "vit"))
    values["lora"]["max_train_steps"] = 2
    return write_recipe(root / "recipe.yaml", values)
