"""Stage ``train-lora``: adapt the pre-trained model to the target data."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deblora.artifacts import file_sha256, write_atomic
from deblora.config import BackboneRecipe, LoraRecipe, Recipe
from deblora.models.backbone import Backbone, load_backbone, weights_file, with_unit_features
from deblora.models.lora import attach_lora, save_adapter
from deblora.models.vision import EMBEDDED
from deblora.run_dir import RunDir
from deblora.stages.chips import check_bands, groups_of, open_chips
from deblora.stages.first_objective import first_objective
from deblora.stages.stage import Stage
from deblora.train.adalora import Orthogonal, rank_schedule
from deblora.train.loop import forget_checkpoints, train
from deblora.train.samples import TrainingOrder

PEFT_NAMES = {"lora": "stage0", "deblora": "deblora"}  # peft warns of names within its prefix "lora_"


def open_backbone(recipe: BackboneRecipe) -> Backbone:
    """Load the frozen model of the recipe."""
    path = Path(recipe.path) if recipe.path else None
    backbone = load_backbone(
        recipe.name, path=path, image_size=recipe.image_size, pool=recipe.pool, sensor=recipe.sensor
    )
    return with_unit_features(backbone) if recipe.l2_normalize else backbone


def model_settings(recipe: BackboneRecipe) -> list[object]:
    """Return what a stage that runs the model depends on: its settings and the hash of its weights."""
    folder = Path(recipe.path) if recipe.path else EMBEDDED
    return [recipe.__dict__, file_sha256(weights_file(folder))]


def sidecar(run: RunDir, recipe: Recipe, stage: str) -> dict[str, object]:
    """Return what an adapter's ``base.json`` says beyond the model: classes, groups, seed and settings."""
    from deblora.config import tables
    from deblora.stages.chips import class_names

    groups = {name: list(members) for name, members in groups_of(run).named().items()}
    return {
        "stage": stage,
        "classes": list(class_names(run)),
        "groups": groups,
        "seed": recipe.seed,
        "settings": tables(recipe),
    }


def save_history(run: RunDir, name: str, records: list[tuple[int, float]]) -> None:
    """Write the training loss by step."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("step", "loss"), *records])
    write_atomic(run.history(name), buffer.getvalue())


def adapter_settings(lora: LoraRecipe) -> dict[str, object]:
    """Return what a training of an adapter depends on.

    A setting that came later is left out at its default, so that what was trained before it is still up to date.
    """
    return {key: value for key, value in lora.__dict__.items() if (key, value) != ("adapter", "lora")}


def attach_first(backbone: Backbone, settings: LoraRecipe, *, n_steps: int, seed: int) -> None:
    """Attach a fresh first adapter of the recipe's kind."""
    attach_lora(
        backbone,
        rank=settings.rank,
        alpha=settings.alpha or settings.rank,
        targets=tuple(settings.targets) if settings.targets else None,
        kind=settings.adapter,
        n_steps=n_steps,
        adapter_name=PEFT_NAMES["lora"],
        seed=seed,
    )


def train_adapter(
    objective: nn.Module, samples: TrainingOrder, backbone: Backbone, **options: Any
) -> list[tuple[int, float]]:
    """Train as :func:`~deblora.train.loop.train`; AdaLoRA gets its penalty and its schedule of ranks."""
    schedule = rank_schedule(backbone.encoder)
    return train(
        objective if schedule is None else Orthogonal(objective), samples, after_step=schedule, **options
    )


def _work(run: RunDir, recipe: Recipe) -> None:
    settings = recipe.lora
    chips = open_chips(run, recipe).split("train")
    backbone = open_backbone(recipe.backbone)
    check_bands(run, backbone.spec.n_bands, backbone.name)
    attach_first(backbone, settings, n_steps=settings.max_train_steps, seed=recipe.seed)
    objective = first_objective(settings.loss, backbone, chips, seed=recipe.seed)
    samples = TrainingOrder(
        chips.pixels,
        {"labels": torch.from_numpy(chips.labels.astype(np.int64))},
        spec=backbone.spec,
        n_samples=settings.max_train_steps * settings.train_batch_size,
        seed=recipe.seed,
        flip=settings.flip,
    )
    records = train_adapter(
        objective,
        samples,
        backbone,
        folder=run.checkpoints("lora"),
        n_steps=settings.max_train_steps,
        batch_size=settings.train_batch_size,
        learning_rate=settings.learning_rate,
        checkpointing_steps=settings.checkpointing_steps,
        seed=recipe.seed,
        mixed_precision=recipe.mixed_precision,
    )
    save_adapter(backbone, PEFT_NAMES["lora"], run.adapter("lora"), sidecar(run, recipe, "lora"))
    save_history(run, "lora", records)
    forget_checkpoints(run.checkpoints("lora"))


STAGE = Stage(
    name="train-lora",
    settings=lambda recipe: [
        model_settings(recipe.backbone),
        adapter_settings(recipe.lora),
        recipe.mixed_precision,
    ],
    inputs=lambda run: [run.samples, run.groups],
    outputs=lambda run: [run.adapter("lora"), run.history("lora")],
    work=_work,
)
