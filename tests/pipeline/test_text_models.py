"""Texts are looked for where the weights are: in a folder, or in the snapshot of a hub id."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deblora.data.chips import ArrayPixels, ChipSet
from deblora.errors import ModelError
from deblora.models.hub import _snapshot
from deblora.pipeline.adapter import check_loss, first_objective
from deblora.pipeline.classify.evaluate.fit import text_folder
from deblora.pipeline.classify.road import check_inputs
from deblora.pipeline.open_model import open_backbone, text_model, weights_path
from deblora.recipe.classify import Recipe, recipe_from
from deblora.train.objectives import Contrast
from generative_builders import write_clip

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_ID = "hub:owner/tiny-clip"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A CLIP model in the cache of the hub, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    _snapshot.cache_clear()
    home = tmp_path / "hub" / "models--owner--tiny-clip"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    yield write_clip(home / "snapshots" / COMMIT)
    _snapshot.cache_clear()


def recipe(name: str, path: str, **backbone: str) -> Recipe:
    values = {"name": name, "path": path, "pool": "cls", **backbone}
    return recipe_from({"data": {"source": "x"}, "backbone": values, "lora": {"loss": "contrast"}})


@pytest.mark.parametrize("name", ["clip", "huggingface"])
def test_a_hub_id_gives_tower_and_texts_from_one_snapshot(name: str, snapshot: Path) -> None:
    chosen = recipe(name, HUB_ID)
    assert weights_path(chosen.backbone) == text_model(chosen.backbone) == text_folder(chosen)
    assert text_model(chosen.backbone).resolve() == snapshot.resolve()
    check_loss(chosen)
    backbone = open_backbone(chosen.backbone, seed=0)
    pixels = ArrayPixels([np.zeros((4, 4, 3), dtype=np.uint8)] * 2, ("a", "b"))
    chips = ChipSet(("a", "b"), np.array([0, 1]), ("train",) * 2, ("ship", "harbor"), pixels)
    assert isinstance(first_objective(chosen, backbone, chips), Contrast)


def test_a_revision_is_that_of_tower_and_texts(snapshot: Path) -> None:
    (snapshot.parents[1] / "refs" / "v2").write_text(COMMIT)
    assert text_folder(recipe("clip", HUB_ID, revision="v2")) is not None
    with pytest.raises(ModelError, match=r"hf download owner/tiny-clip .*tokenizer.json .* --revision v3 "):
        text_model(recipe("clip", HUB_ID, revision="v3").backbone)


def test_a_tower_without_texts_is_refused_before_anything_runs(snapshot: Path, tmp_path: Path) -> None:
    from builders import write_chips

    alone = Path(shutil.copytree(snapshot, tmp_path / "alone"))
    for file in alone.glob("*vocab*"):
        file.unlink()
    (alone / "tokenizer.json").unlink(missing_ok=True)
    values = {"name": "clip", "path": str(alone), "pool": "cls"}
    source = str(write_chips(tmp_path / "chips"))
    chosen = recipe_from({"data": {"source": source}, "backbone": values, "lora": {"loss": "contrast"}})
    with pytest.raises(ModelError, match="fetch these files too, or set lora.loss to cross_entropy"):
        check_inputs(chosen)
    plain = recipe_from({"data": {"source": source}, "backbone": values})
    check_inputs(plain)
    assert text_folder(plain) is None
