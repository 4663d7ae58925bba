"""Detection and classification see the same noise of diffusion: that of the recipe's seed."""

from pathlib import Path

import pytest
import torch

from deblora.models.maps import feature_maps
from deblora.pipeline.detect.model import open_extractor
from deblora.pipeline.open_model import noise_settings, open_backbone
from deblora.recipe.classify import BackboneRecipe
from deblora.recipe.detect import detection_recipe_from
from generative_builders import write_stable_diffusion


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd"))


def test_detection_takes_the_seed_of_its_recipe(folder: Path) -> None:
    backbone = {"name": "stable-diffusion", "path": str(folder), "draws": 1, "timestep": 500}
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (0, 3):
        recipe = detection_recipe_from(
            {
                "seed": seed,
                "data": {"train": "x", "val": "x"},
                "backbone": backbone,
                "method": {"name": "zero-shot"},
            }
        )
        with torch.no_grad():
            maps = feature_maps(open_extractor(recipe), pixels)[0]
            expected = feature_maps(open_backbone(BackboneRecipe(**backbone), seed=seed), pixels)[0]
        torch.testing.assert_close(maps, expected)
        found.append(maps)
    assert not torch.allclose(found[0], found[1])


def test_keys_of_stored_maps_hold_the_seed_where_features_depend_on_it() -> None:
    assert noise_settings(BackboneRecipe(name="stable-diffusion"), seed=3) == [3]
    assert noise_settings(BackboneRecipe(), seed=3) == []
