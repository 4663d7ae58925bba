"""Stage ``train-deblora``: teach a second adapter to produce the calibrated features.

Where calibration moved no class there is nothing to learn, and steps of AdamW would only follow rounding: the adapter
that is written then leaves the features of the first one as they are, and its history is empty.
"""

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from deblora.artifacts import FeatureTable, Targets
from deblora.config import DebloraRecipe, Recipe
from deblora.data.chips import Pixels, SubsetPixels
from deblora.models.adapters import second_kind
from deblora.models.backbone import Backbone
from deblora.models.lora import attach_lora, load_adapter, save_adapter, stack_adapter
from deblora.processes import is_first
from deblora.run_dir import RunDir
from deblora.stages.center import moved_classes
from deblora.stages.chips import groups_of, open_chips
from deblora.stages.feature_map import FeatureMap, fresh_map, is_map, save_map
from deblora.stages.model_input import adopt_input
from deblora.stages.open_model import model_settings, open_backbone
from deblora.stages.stage import Stage
from deblora.stages.train_lora import PEFT_NAMES, adapter_settings, chips_sidecar, save_history
from deblora.train.loop import forget_checkpoints, train
from deblora.train.objectives import Regress
from deblora.train.samples import FeatureOrder, TrainingOrder

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
            forget_checkpoints(run.checkpoints("deblora"))
        return
    settings = recipe.deblora
    chips = open_chips(run, recipe).split("train")
    before = FeatureTable.load(run.features("lora")).rows(chips.ids)
    goal = targets.rows(chips.ids)
    weights = sample_weights(np.isin(chips.labels, moved_classes(groups_of(run), recipe.calibrate)), settings)
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
        samples = TrainingOrder(pixels, values, spec=module.spec, n_samples=n_samples, seed=recipe.seed)
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
        forget_checkpoints(run.checkpoints("deblora"))


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
        adapter_settings(recipe.lora),
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
