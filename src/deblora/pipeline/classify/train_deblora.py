"""Stage ``train-deblora``: teach a second adapter to produce the calibrated features.

Where calibration moved no class there is nothing to learn, and steps of AdamW would only follow rounding: the adapter
that is written then leaves the features of the first one as they are, and its history is empty.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from deblora.data.chips import Pixels, SubsetPixels
from deblora.debias.variants import moved_classes
from deblora.errors import ArtifactError
from deblora.files import write_atomic
from deblora.models.adapters.kinds import second_kind
from deblora.models.adapters.lora import attach_lora, load_adapter, save_adapter, stack_adapter
from deblora.models.backbone import Backbone
from deblora.pipeline.adapter import PEFT_NAMES, adapter_settings, chips_sidecar, save_history
from deblora.pipeline.audited import groups_of
from deblora.pipeline.classify.chips import open_chips
from deblora.pipeline.open_model import adopt_input, model_settings, open_backbone
from deblora.recipe.classify import DebloraRecipe, Recipe
from deblora.run.artifacts import FeatureTable, Targets
from deblora.run.processes import is_first
from deblora.run.run_dir import RunDir
from deblora.run.stage import Stage
from deblora.train.loop import train
from deblora.train.objectives import Regress, ResidualMap, ResidualMlp
from deblora.train.samples import FeatureOrder, TrainingOrder

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


log = logging.getLogger("deblora")


def sample_weights(is_moved: np.ndarray, settings: DebloraRecipe) -> Float[np.ndarray, " n"]:
    """Return the weight of every training chip: 1 for moved classes, and for the others 1, the anchor or 0."""
    others = 1.0 if settings.samples == "all" else settings.anchor
    return np.where(is_moved, 1.0, others).astype(np.float32)


def _work(run: RunDir, recipe: Recipe) -> None:
    targets = Targets.load(run.targets("deblora"))
    if targets.moved_nothing:
        if is_first():
            log.warning(
                "train-deblora: calibration moved no class, so nothing is trained and deblora is the first adapter; "
                "calibrate.numerator (%g) below the largest imbalance ratio would move some",
                recipe.calibrate.numerator,
            )
            _save(run, recipe, _unchanged(run, recipe))
            save_history(run, "deblora", [])
        return
    settings = recipe.deblora
    chips = open_chips(run, recipe).split("train")
    before = FeatureTable.load(run.features("lora")).rows(chips.ids)
    goal = targets.rows(chips.ids)
    moved = moved_classes(groups_of(run), recipe.calibrate.classes)
    weights = sample_weights(np.isin(chips.labels, moved), settings)
    used = np.flatnonzero(weights > 0)
    scale = before.std(axis=0) if settings.space == "standardize" else np.ones(before.shape[1])
    scale = np.maximum(scale, 1e-3 * float(scale.max()))
    values = {"target": torch.from_numpy(goal[used]), "weight": torch.from_numpy(weights[used])}
    n_samples = settings.max_train_steps * settings.train_batch_size
    module: nn.Module
    samples: TrainingOrder | FeatureOrder
    if is_map(settings.placement):
        module = fresh_map(recipe, before.shape[1])
        samples = FeatureOrder(torch.from_numpy(before[used]), values, n_samples=n_samples, seed=recipe.seed)
    else:
        module = _adapted(run, recipe, settings.placement)
        pixels: Pixels = SubsetPixels(chips.pixels, tuple(int(i) for i in used))
        samples = TrainingOrder(
            pixels,
            values,
            spec=module.spec,
            n_samples=n_samples,
            seed=recipe.seed,
            n_views=recipe.extract.views,
        )
    records = train(
        Regress(module, scale=torch.from_numpy(scale.astype(np.float32)), loss=settings.loss),
        samples,
        folder=run.checkpoints("deblora"),
        n_steps=settings.max_train_steps,
        batch_size=settings.train_batch_size,
        learning_rate=settings.learning_rate,
        seed=recipe.seed,
        mixed_precision=recipe.mixed_precision,
    )
    if is_first():
        _save(run, recipe, module)
        save_history(run, "deblora", records)


def _unchanged(run: RunDir, recipe: Recipe) -> nn.Module:
    """Return what leaves the features of the first adapter as they are: a fresh map or adapter on it, or itself."""
    placement = recipe.deblora.placement
    if is_map(placement):
        return fresh_map(recipe, FeatureTable.load(run.features("lora")).features.shape[1])
    return _adapted(run, recipe, "stack" if placement == "stack" else "continue")


def _adapted(run: RunDir, recipe: Recipe, placement: str) -> Backbone:
    settings, lora = recipe.deblora, recipe.lora
    backbone = open_backbone(recipe.backbone, seed=recipe.seed)
    adopt_input(backbone, run.adapter("lora"))
    rank = settings.rank or lora.rank
    targets = tuple(lora.targets) if lora.targets else None
    kind = second_kind(lora.adapter)
    if placement == "continue":
        load_adapter(backbone, run.adapter("lora"), adapter_name=PEFT_NAMES["deblora"], trainable=True)
    elif placement == "fresh":
        attach_lora(
            backbone,
            rank=rank,
            alpha=rank,
            targets=targets,
            kind=kind,
            adapter_name=PEFT_NAMES["deblora"],
            seed=recipe.seed + 1,
        )
    else:
        load_adapter(backbone, run.adapter("lora"), adapter_name=PEFT_NAMES["lora"])
        stack_adapter(backbone, rank=rank, alpha=rank, targets=targets, kind=kind, seed=recipe.seed + 1)
    return backbone


def _save(run: RunDir, recipe: Recipe, module: nn.Module) -> None:
    if isinstance(module, FeatureMap):
        save_map(run, module)
    elif isinstance(module, Backbone):
        record = chips_sidecar(run, recipe, "deblora", module)
        save_adapter(module, PEFT_NAMES["deblora"], run.adapter("deblora"), record)


STAGE = Stage(
    name="train-deblora",
    settings=lambda recipe: [
        model_settings(recipe.backbone),
        adapter_settings(recipe),
        recipe.deblora.__dict__,
        recipe.calibrate.classes,
        recipe.mixed_precision,
    ],
    inputs=lambda run: [
        run.samples,
        run.groups,
        run.adapter("lora"),
        run.features("lora"),
        run.targets("deblora"),
    ],
    outputs=lambda run: [run.adapter("deblora"), run.history("deblora")],
    work=_work,
    shared=True,
)
