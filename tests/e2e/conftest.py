"""One finished run of a toy recipe for all end-to-end tests, and the state that a run leaves in the process."""

import shutil
from pathlib import Path

import pytest

from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.cli.main import main


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    values = recipe_values(write_chips(root / "toy"), write_vit(root / "vit"))
    return write_recipe(root / "recipe.yaml", values)


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", str(recipe), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
