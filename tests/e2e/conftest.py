"""One finished run of a toy recipe for all end-to-end tests, and the state that a run leaves in the process."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from builders import recipe_values, write_chips, write_recipe, write_vit
from deblora.cli import main


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    log = logging.getLogger("deblora")
    before = log.propagate, log.level
    yield
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate, log.level = before


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
