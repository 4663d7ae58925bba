"""Shared fixtures: a seeded generator and the locator of real data beside the checkout."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

# Before anything of the package is imported: shapes in its signatures are checked while tests run.
jaxtyping.install_import_hook("deblora", "shape_checks.check_arrays")

from builders import recipe_values, write_chips, write_recipe, write_vit
from process_state import logger_as_before, one_thread  # noqa: F401 - fixtures
from toy_features import samples  # noqa: F401 - a fixture
from toy_scenes import scenes  # noqa: F401 - a fixture

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return the path of a real file or folder beside the checkout, or skip."""

    def locate(relative: str) -> Path:
        root = Path(os.environ.get("DEBLORA_SHARED", REPOSITORY_ROOT.parent / "shared"))
        path = root / relative
        if not path.exists():
            pytest.skip(f"shared data not found: {relative}")
        return path

    return locate


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on toy chips whose adapters train for two steps."""
    root = tmp_path_factory.mktemp("inputs")
    values = recipe_values(write_chips(root / "toy"), write_vit(root / "vit"))
    values["lora"]["max_train_steps"] = 2
    return write_recipe(root / "recipe.yaml", values)


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """For tests of memory: the checks hold on to arguments and results."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
