"""Normalization of a run: whose statistics, from which chips, and what travels with the adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from deblora.data.chips import ArrayPixels, ChipSet
from deblora.errors import DataError, ModelError
from deblora.models.backbone import Backbone, InputSpec
from deblora.pipeline.adapter import adapter_settings
from deblora.pipeline.open_model import (
    adopt_input,
    fit_input,
    model_settings,
    open_backbone,
    uses_train_statistics,
)
from deblora.recipe.classify import BackboneRecipe, LoraRecipe, Recipe, tables


def backbone(n_bands: int = 3) -> Backbone:
    half = (0.5,) * n_bands
    model = Backbone(
        nn.Identity(),
        lambda module, pixels: module(pixels),
        spec=InputSpec(n_bands, 8, half, half, 255.0),
        feature_size=2,
        name="toy",
        weights_sha256="",
        lora_targets=(),
        pool="mean",
    )
    model.train_statistics = True
    return model


def chips(n_bands: int, *, other: int = 0) -> ChipSet:
    """Two training chips of 0 and 102, and a test chip of any value."""
    arrays = [np.full((2, 2, n_bands), value, dtype=np.uint8) for value in (0, 102, other)]
    ids = ("a", "b", "c")
    return ChipSet(ids, np.array([0, 1, 0]), ("train", "train", "test"), ("x", "y"), ArrayPixels(arrays, ids))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, False), ({"normalize": "train"}, True), ({"n_bands": 3}, False), ({"n_bands": 10}, True)],
)
def test_other_bands_take_the_statistics_of_the_chips(settings: dict[str, object], expected: bool) -> None:
    assert uses_train_statistics(BackboneRecipe(**settings), native_bands=3) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("n_bands", [1, 3])
@pytest.mark.parametrize("other", [0, 255])
def test_statistics_come_from_training_chips_and_gray_is_repeated(n_bands: int, other: int) -> None:
    model = backbone()
    fit_input(model, chips(n_bands, other=other))
    assert model.spec.mean == pytest.approx((0.2,) * 3) and model.spec.std == pytest.approx((0.2,) * 3)
    with pytest.raises(DataError, match="set backbone.n_bands to 4"):
        fit_input(model, chips(4))
    model.train_statistics = False
    before = model.spec
    fit_input(model, chips(1))
    assert model.spec == before


def test_an_adapter_brings_its_statistics(tmp_path: Path) -> None:
    model = backbone()
    record = {"normalize": "train", "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    for change, expected in (({}, (0.1, 0.2, 0.3)), ({"normalize": "model"}, (0.5,) * 3)):
        model = backbone()
        model.train_statistics = False
        (tmp_path / "base.json").write_text(json.dumps({**record, **change}))
        adopt_input(model, tmp_path)
        assert model.spec.mean == expected
    asked = (
        backbone()
    )  # a model that takes the statistics of the chips finds them, whatever the sidecar calls them
    adopt_input(asked, tmp_path)
    assert asked.spec.mean == (0.1, 0.2, 0.3)
    (tmp_path / "base.json").write_text(json.dumps({**record, "std": [0, 1, 1]}))
    with pytest.raises(ModelError, match="damaged"):
        adopt_input(model, tmp_path)


def test_what_a_stage_depends_on_is_what_the_model_reads() -> None:
    read = model_settings(BackboneRecipe(n_bands=4, draws=3))[0]
    assert read["n_bands"] == 4
    assert "draws" not in read  # the embedded model does not read it
    recipe = Recipe(lora=LoraRecipe(adapter="dora"))
    assert adapter_settings(recipe) == {**tables(recipe.lora), "views": recipe.extract.views}


def test_unit_features_keep_what_the_run_decided() -> None:
    model = open_backbone(BackboneRecipe(n_bands=5, l2_normalize=True, image_size=16), seed=0)
    assert model.train_statistics and model.spec.n_bands == 5 and model.open_decoder is not None


def test_detection_refuses_statistics_it_cannot_have() -> None:
    from deblora.pipeline.detect.model import open_extractor
    from deblora.recipe.detect import DetectionRecipe

    recipe = DetectionRecipe(backbone=BackboneRecipe(normalize="train", image_size=16))
    with pytest.raises(ModelError, match=r"name the adapter of a `deblora run` in method.adapter"):
        open_extractor(recipe)
