"""The map in feature space that a second adapter can be: built by its placement, saved, and applied to features."""

import shutil
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from deblora.artifacts import write_atomic
from deblora.config import Recipe
from deblora.errors import ArtifactError
from deblora.run_dir import RunDir
from deblora.train.residual_maps import ResidualMap, ResidualMlp

RESIDUAL = "residual.safetensors"
FeatureMap = ResidualMap | ResidualMlp
MAPS: Final[Mapping[str, type[FeatureMap]]] = {"residual": ResidualMap, "residual-mlp": ResidualMlp}
"""The placements that are maps, by the name in the recipe."""

_TENSORS = {
    "residual": {"down.weight", "up.weight"},
    "residual-mlp": {"down.weight", "down.bias", "up.weight"},
}


def is_map(placement: str) -> bool:
    """Return whether the second adapter of a placement is a map in feature space, which no image goes through."""
    return placement in MAPS


def fresh_map(recipe: Recipe, feature_size: int) -> FeatureMap:
    """Return the map of the recipe's placement as it is before training: the identity."""
    settings = recipe.deblora
    return MAPS[settings.placement](feature_size, settings.rank or recipe.lora.rank, seed=recipe.seed)


def save_map(run: RunDir, trained: FeatureMap) -> None:
    """Write the map as all there is of the second adapter: nothing of another placement stays beside it."""
    folder = run.adapter("deblora")
    shutil.rmtree(folder, ignore_errors=True)
    weights = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    write_atomic(folder / RESIDUAL, save(weights))


def load_map(
    run: RunDir, placement: str, n_dimensions: int
) -> Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]]:
    """Return the trained map of a placement, from features of the first adapter.

    Args:
        run: Where ``train-deblora`` wrote it.
        placement: One of :data:`MAPS`.
        n_dimensions: Size of the features that it is to be applied to.

    Raises:
        ArtifactError: If it is missing, damaged, of another placement or made for other features.
    """
    path = run.adapter("deblora") / RESIDUAL
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run train-deblora again")
    try:
        weights = load_file(path)
        for other, names in _TENSORS.items():
            if other != placement and set(weights) == names:
                raise ArtifactError(
                    f"{path} is a map of deblora.placement {other}, but the recipe says {placement}; "
                    "run train-deblora again"
                )
        inner, size = weights["down.weight"].shape
        trained = MAPS[placement](size, inner, seed=0)
        trained.load_state_dict(weights)
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({str(error)[:300]}); run train-deblora again") from error
    if size != n_dimensions:
        raise ArtifactError(
            f"{path} maps {size} dimensions, features have another number; run train-deblora again"
        )

    def moved(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        with torch.inference_mode():
            found: Float[np.ndarray, "n d"] = trained(torch.from_numpy(features)).numpy()
        return found

    return moved
